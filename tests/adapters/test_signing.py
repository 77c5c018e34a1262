"""Signatures hold for the bytes they were made over, by the key they name, and for nothing else."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check import Limits, check_adapter
from loradock_adapters.errors import AdapterMalformed, AdapterUnreadable, BadSigningKey
from loradock_adapters.signing import (
    Signature,
    TrustedKey,
    adapter_digest,
    make_key,
    read_key,
    read_signature,
    sign_digest,
    signer_of,
    write_signature,
)
from loradock_adapters.store import FolderStore
from tests.adapters.making import lora_config, write_adapter, write_base

DIGEST = "ab" * 32


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    return BaseModel.read(write_base(tmp_path))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "trainer.key", "trainer")
    return tmp_path / "trainer.key"


def trusted(key: Path) -> TrustedKey:
    return TrustedKey.parse(key.with_name(key.name + ".pub").read_text())


def strict(*keys: TrustedKey) -> Limits:
    return Limits(max_rank=8, require_signature=True, trusted_keys=keys)


def codes(folder: Path, base: BaseModel, limits: Limits) -> list[str]:
    return [fault.code for fault in check_adapter(folder, base, limits).faults]


def test_a_key_is_private_never_overwritten_and_its_public_half_is_what_servers_trust(tmp_path: Path) -> None:
    made = make_key(tmp_path / "deep" / "trainer.key", "trainer")
    assert stat.S_IMODE((tmp_path / "deep" / "trainer.key").stat().st_mode) == 0o600
    assert trusted(tmp_path / "deep" / "trainer.key") == made
    assert read_key(tmp_path / "deep" / "trainer.key").public_key().public_bytes_raw() == made.public_key
    with pytest.raises(FileExistsError):
        make_key(tmp_path / "deep" / "trainer.key", "trainer")
    with pytest.raises(BadSigningKey, match="a,b"):
        make_key(tmp_path / "other.key", "a,b")


def test_a_signature_holds_for_its_digest_and_key_only(key: Path, tmp_path: Path) -> None:
    signature = sign_digest(DIGEST, read_key(key))
    other = make_key(tmp_path / "other.key", "other")
    assert signature.holds_for(DIGEST)
    assert Signature.parse(signature.text) == signature
    assert not signature.holds_for("cd" * 32)
    assert not replace(signature, public_key=other.public_key).holds_for(DIGEST)
    assert not replace(signature, value=bytes(64)).holds_for(DIGEST)
    assert not signature.holds_for("no digest")
    assert signer_of(signature, [other, trusted(key)]) == "trainer"
    assert signer_of(signature, [other]) is None


def test_what_the_key_signed_for_another_purpose_is_no_signature_of_an_adapter(key: Path) -> None:
    private = read_key(key)
    assert not Signature(trusted(key).public_key, private.sign(DIGEST.encode())).holds_for(DIGEST)
    assert not Signature(trusted(key).public_key, private.sign(bytes.fromhex(DIGEST))).holds_for(DIGEST)


def test_the_signature_is_no_part_of_what_it_signs_and_the_digest_is_the_stores(
    adapter: Path, key: Path, tmp_path: Path
) -> None:
    before = adapter_digest(adapter)
    digest, signature = write_signature(adapter, read_key(key))
    assert write_signature(adapter, read_key(key)) == (digest, signature), "ed25519 has no chance in it"
    assert before == digest == adapter_digest(adapter)
    assert read_signature(adapter) == signature
    assert (
        FolderStore(tmp_path / "store").put(adapter, ("adapter_config.json", "adapter_model.safetensors")).digest
        == digest
    )
    assert sorted(path.name for path in adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "signature.json",
    ]


def test_a_server_that_demands_signatures_takes_only_what_its_trainers_signed(
    adapter: Path, base: BaseModel, key: Path, tmp_path: Path
) -> None:
    limits = strict(trusted(key))
    (fault,) = check_adapter(adapter, base, limits).faults
    assert (fault.code, fault.where) == ("unsigned", "signature.json")
    assert "trainer" in fault.limit
    assert "loradock adapters sign" in fault.fix

    write_signature(adapter, read_key(key))
    assert check_adapter(adapter, base, limits).ok

    make_key(tmp_path / "other.key", "other")
    write_signature(adapter, read_key(tmp_path / "other.key"))
    (fault,) = check_adapter(adapter, base, limits).faults
    assert fault.code == "unknown_signer"
    assert trusted(tmp_path / "other.key").text.partition("=")[2] in fault.value
    assert [note.code for note in check_adapter(adapter, base, Limits()).notes] == ["other_signer"]


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors", "manifest.json"])
def test_any_change_after_signing_shows_whether_or_not_signatures_are_demanded(
    adapter: Path, base: BaseModel, key: Path, file: str
) -> None:
    write_signature(adapter, read_key(key))
    if file == "adapter_config.json":
        (adapter / file).write_text(json.dumps(lora_config(lora_alpha=400)))
    elif file == "manifest.json":
        (adapter / file).write_text("{}")
    else:
        data = bytearray((adapter / file).read_bytes())
        data[-1] ^= 1
        (adapter / file).write_bytes(data)
    assert codes(adapter, base, strict(trusted(key))) == ["bad_signature"]
    assert codes(adapter, base, Limits(max_rank=8)) == ["bad_signature"]


def test_a_trusted_name_over_a_strangers_signature_is_found_out(adapter: Path, base: BaseModel, key: Path) -> None:
    write_signature(adapter, Ed25519PrivateKey.generate())
    fields = json.loads((adapter / "signature.json").read_text())
    fields["public_key"] = trusted(key).text.partition("=")[2]
    (adapter / "signature.json").write_text(json.dumps(fields))
    assert codes(adapter, base, strict(trusted(key))) == ["bad_signature"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"schema": 1, "schema": 1}',
        '{"schema": 2, "algorithm": "ed25519"}',
        '{"schema": 1, "algorithm": "none", "public_key": "", "signature": ""}',
        '{"schema": 1, "algorithm": "ed25519", "public_key": "AAAA", "signature": "AAAA"}',
        '{"schema": 1, "algorithm": "ed25519", "public_key": 3, "signature": null}',
        " " * (2 << 20),
    ],
)
def test_a_signature_file_that_makes_no_sense_is_a_fault_and_never_counts_as_none(
    adapter: Path, base: BaseModel, text: str
) -> None:
    (adapter / "signature.json").write_text(text)
    with pytest.raises(AdapterMalformed):
        read_signature(adapter)
    assert codes(adapter, base, Limits(max_rank=8)) == ["bad_json"]


def test_a_signature_that_cannot_be_opened_is_not_taken_for_none(adapter: Path, base: BaseModel) -> None:
    (adapter / "signature.json").symlink_to("nowhere")
    with pytest.raises(AdapterUnreadable):
        read_signature(adapter)
    (adapter / "signature.json").unlink()
    os.mkfifo(adapter / "signature.json")
    assert not check_adapter(adapter, base, Limits(max_rank=8)).complete


def test_other_keys_and_other_files_are_refused_with_their_name(tmp_path: Path) -> None:
    rsa = generate_private_key(public_exponent=65537, key_size=2048)
    for name, key, secret in (
        ("rsa.key", rsa, serialization.NoEncryption()),
        ("locked.key", Ed25519PrivateKey.generate(), serialization.BestAvailableEncryption(b"secret")),
    ):
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
        (tmp_path / name).write_bytes(pem)
    (tmp_path / "text.key").write_text("hello")
    for name in ("rsa.key", "locked.key", "text.key", "absent.key"):
        with pytest.raises(BadSigningKey, match=name):
            read_key(tmp_path / name)


@pytest.mark.parametrize("text", ["", "trainer", "trainer=", "trainer=AAAA", "=" + "A" * 44, "a b=" + "A" * 44, "x=Ä"])
def test_a_trusted_key_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"trusted key|ed25519"):
        TrustedKey.parse(text)
