"""A gateway that demands signatures, from the upload to what the engine is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loradock_adapters.signing import make_key, read_key, write_signature
from loradock_server.settings import SettingsError, load_settings
from tests.adapters.making import lora_config, write_adapter
from tests.server.gateway.conftest import Gateway, Start, eventually, files_of


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "trainer.key", "trainer")
    return tmp_path / "trainer.key"


@pytest.fixture
def strict(start: Start, key: Path) -> Iterator[Gateway]:
    with start(require_signature=True, trusted_keys=key.with_name("trainer.key.pub").read_text()) as running:
        yield running


def signed(folder: Path, key: Path) -> dict[str, bytes]:
    write_signature(folder, read_key(key))
    return files_of(folder)


def test_only_what_was_signed_is_registered_and_the_engine_is_told_by_whom(
    strict: Gateway, key: Path, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "mine")
    refused = strict.upload("poet", files_of(folder))
    assert refused.status_code == 422
    assert [fault["code"] for fault in refused.json()["error"]["faults"]] == ["unsigned"]
    files = signed(folder, key)
    tampered = {
        **files,
        "adapter_config.json": files["adapter_config.json"].replace(b'"lora_alpha": 4', b'"lora_alpha": 5'),
    }
    assert tampered != files
    refused = strict.upload("poet", tampered)
    assert [fault["code"] for fault in refused.json()["error"]["faults"]] == ["bad_signature"]

    done = strict.upload("poet", files)
    assert done.status_code == 201, done.text
    (version,) = strict.http.get("/admin/adapters/poet").json()["versions"]
    assert version["signature"]["signer"] == "trainer"
    assert strict.engine.probe_orders[0]["signature"].endswith(version["signature"]["signature"])
    blob = strict.settings.home / "store" / "blobs" / "sha256" / version["digest"]
    assert "signature.json" not in {path.name for path in blob.iterdir()}

    answer = strict.openai().chat.completions.with_raw_response.create(
        model="poet", messages=[{"role": "user", "content": "hi"}]
    )
    (seen,) = strict.engine.history
    text = seen.headers["x-loradock-adapter-signature"]
    assert text.startswith(version["signature"]["public_key"] + ".")
    assert "x-loradock-adapter-signature" not in answer.headers
    strict.http.put("/admin/adapters/poet/pin")
    eventually(lambda: bool(strict.engine.pins))
    assert strict.engine.pins == [{"id": "poet@1", "digest": version["digest"], "signature": text}]


def test_a_signature_that_comes_later_is_taken_without_a_new_version(
    gateway: Gateway, key: Path, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "mine", config=lora_config())
    assert gateway.upload("poet", files_of(folder)).status_code == 201
    assert gateway.http.get("/admin/adapters/poet").json()["versions"][0]["signature"] is None
    again = gateway.upload("poet", signed(folder, key))
    assert (again.status_code, again.json()["id"]) == (200, "poet@1")
    assert "does not know" in again.json()["report"]["warnings"][0]
    (version,) = gateway.http.get("/admin/adapters/poet").json()["versions"]
    assert version["signature"]["signer"] is None
    (event, *_) = gateway.http.get("/admin/audit?adapter=poet").json()["data"]
    assert (event["action"], event["after"]) == ("version.signed", {"public_key": version["signature"]["public_key"]})
    assert gateway.upload("poet", signed(folder, key)).status_code == 200
    assert gateway.http.get("/admin/audit?adapter=poet").json()["data"][0] == event, "nothing new, no event"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"require_signature": True}, "trusted_keys"),
        ({"trusted_keys": "Ä"}, "name=KEY"),
        ({"trusted_keys": "trainer=AAAA"}, "ed25519"),
        ({"trusted_keys": f"a={'A' * 43}=,a={'A' * 43}="}, "twice"),
    ],
)
def test_settings_that_could_not_work_are_refused_at_start(flags: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words) as raised:
        load_settings(admin_key="ld-secret-0123456789abcdef", **flags)
    assert "ld-secret" not in str(raised.value)


def test_several_keys_are_read_from_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADOCK_TRUSTED_KEYS", f"a={'A' * 43}=, b={'B' * 42}A=")
    assert [key.name for key in load_settings().trusted_keys] == ["a", "b"]
