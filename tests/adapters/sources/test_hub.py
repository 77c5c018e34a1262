"""hf:// against a hub on this machine, through the real huggingface_hub."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.utils._xet_progress_reporting import XetDownloadProgressReporter

from loradock_adapters.errors import (
    SourceForbidden,
    SourceInvalid,
    SourceMissing,
    SourceRefused,
    SourceTooLarge,
    SourceUnavailable,
)
from loradock_adapters.sources import AllowList, SourceLimits, SourceRules, hub
from loradock_adapters.sources.transfer import Transfer
from tests.adapters.making import write_adapter
from tests.adapters.sources.packing import contents
from tests.adapters.sources.test_web import got, open_for
from tests.fakes.hub import COMMIT, missing, publish
from tests.fakes.web import Web, file, status

OTHERS = {
    "optimizer.pt": b"x" * 5000,
    "checkpoint-1/adapter_config.json": b"{}",
    "training_args.bin": b"x",
    ".gitattributes": b"",
}


@pytest.fixture(autouse=True)
def _hub(web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    return dict(contents(write_adapter(tmp_path / "adapter")))


def test_only_an_adapters_files_are_fetched_and_the_commit_is_kept(
    web: Web, tmp_path: Path, files: dict[str, bytes]
) -> None:
    extra = {"README.md": b"# mine", "tokenizer_config.json": b"{}"}
    publish(web, "org/mine", files | extra | OTHERS)
    heard: list[tuple[int, int | None]] = []
    with got("hf://org/mine@main", tmp_path, progress=lambda *now: heard.append(now)) as found:
        assert contents(found.folder) == files | extra
        assert found.origin == f"hf://org/mine@{COMMIT}"
    total = sum(len(data) for data in (files | extra).values())
    assert (heard[0], heard[-1]) == ((0, total), (total, total))
    fetched = {asked.path.rpartition("/")[2] for asked in web.asked if "/resolve/" in asked.path}
    assert fetched == {*files, *extra}
    assert all(COMMIT in asked.path for asked in web.asked if "/resolve/" in asked.path)


@pytest.mark.parametrize(
    ("source", "revisions"),
    [("hf://org/mine", ()), ("hf://org/mine@v1", ("v1",)), ("hf://org/mine@refs%2Fpr%2F1", ("refs%2Fpr%2F1",))],
)
def test_a_revision_is_a_branch_a_tag_or_a_request_and_may_be_left_out(
    web: Web, tmp_path: Path, files: dict[str, bytes], source: str, revisions: tuple[str, ...]
) -> None:
    publish(web, "org/mine", files, revisions=revisions)
    with got(source, tmp_path) as found:
        assert contents(found.folder) == files


def test_an_adapter_may_lie_in_a_folder_of_the_repository(web: Web, tmp_path: Path, files: dict[str, bytes]) -> None:
    publish(web, "org/many", {f"lora/a/{name}": data for name, data in files.items()} | {"README.md": b"all of them"})
    with got("hf://org/many@main/lora/a", tmp_path) as found:
        assert contents(found.folder) == files
        assert found.origin == f"hf://org/many@{COMMIT}/lora/a"
    with pytest.raises(SourceMissing, match=r"has no adapter_config\.json.*README\.md"), got("hf://org/many", tmp_path):
        pass


def test_the_token_comes_from_the_environment_and_is_sent_to_the_hub(
    web: Web, tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(web, "org/mine", files, token="hf_secret")
    with pytest.raises(SourceMissing, match="HF_TOKEN"), got("hf://org/mine", tmp_path):
        pass
    assert all("authorization" not in asked.headers for asked in web.asked)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with got("hf://org/mine", tmp_path) as found:
        assert contents(found.folder) == files
        assert "secret" not in found.origin


def test_other_bytes_than_announced_are_fetched_again_and_then_refused(
    web: Web, tmp_path: Path, files: dict[str, bytes]
) -> None:
    for name, data in files.items():
        publish(web, "org/mine", files)
        path = f"/org/mine/resolve/{COMMIT}/{name}"
        right = web.routes[path][0]
        wrong = file(bytes([data[0] ^ 1]) + data[1:], etag='"x"', x_repo_commit=COMMIT)
        web.on(path, wrong, wrong, right)  # one HEAD, one GET
        with got("hf://org/mine", tmp_path) as found:
            assert contents(found.folder) == files
        web.on(path, wrong)
        refused = pytest.raises(SourceUnavailable, match="other bytes than the hub announced")
        with refused, got("hf://org/mine", tmp_path):
            pass


def test_a_hub_in_trouble_is_asked_again_and_then_given_up(web: Web, tmp_path: Path, files: dict[str, bytes]) -> None:
    publish(web, "org/mine", files)
    path = "/api/models/org/mine"
    web.on(path, status(503), status(429), web.routes[path][0])
    with got("hf://org/mine", tmp_path) as found:
        assert contents(found.folder) == files
    web.on(path, status(503))
    with pytest.raises(SourceUnavailable, match="answered 503; tried 5 times"), got("hf://org/mine", tmp_path):
        pass


def test_nobody_at_the_hub_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(SourceUnavailable, match="tried 5 times"), got("hf://org/mine", tmp_path):
        pass


def test_a_hub_that_names_no_commit_is_not_believed(web: Web, tmp_path: Path, files: dict[str, bytes]) -> None:
    for commit in ("", "main", "../x", "0" * 39):
        publish(web, "org/mine", files, commit=commit)
        with pytest.raises(SourceUnavailable, match="names no commit"), got("hf://org/mine", tmp_path):
            pass


def test_what_is_not_on_the_hub_is_not_there(web: Web, tmp_path: Path, files: dict[str, bytes]) -> None:
    web.on("/api/models/org/none", missing("RepoNotFound"))
    publish(web, "org/mine", files)
    web.on("/api/models/org/mine/revision/v9", missing("RevisionNotFound"))
    for source, says in (("hf://org/none", "no such repository"), ("hf://org/mine@v9", "no revision 'v9'")):
        with pytest.raises(SourceMissing, match=says), got(source, tmp_path):
            pass


def test_more_bytes_than_allowed_are_refused_by_what_the_hub_announces(web: Web, tmp_path: Path) -> None:
    publish(web, "org/mine", {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(6 << 20)})
    refused = pytest.raises(SourceTooLarge, match="LORADOCK_MAX_ADAPTER_BYTES")
    with refused, got("hf://org/mine", tmp_path, open_for("hf://org", max_bytes=1 << 20)):
        pass
    assert not any("/resolve/" in asked.path for asked in web.asked)


def test_bytes_that_come_in_chunks_and_are_put_together_count_once() -> None:
    """No Xet storage is at hand; the library's own reporter of such a download is."""
    transfer = Transfer("hf://org/mine", SourceLimits(max_bytes=1 << 20))
    options: dict[str, Any] = {
        "reconstruction_desc": "",
        "total": 900,
        "log_level": 20,
        "tqdm_class": hub._bar(transfer),
    }
    with XetDownloadProgressReporter(**options) as reporter:
        for done in (300, 600, 900):
            reporter.update_progress(
                SimpleNamespace(
                    total_bytes=900,
                    total_bytes_completed=done,
                    total_transfer_bytes_completed=done // 2,
                    total_bytes_completion_rate=1.0,
                    total_transfer_bytes_completion_rate=1.0,
                )
            )
            assert transfer.done == done


def test_pickles_are_fetched_only_for_those_who_repair_them(web: Web, tmp_path: Path) -> None:
    files = {"adapter_config.json": b"{}", "adapter_model.bin": b"a pickle"}
    publish(web, "org/mine", files)
    with pytest.raises(SourceMissing, match="a pickle, which can run code"), got("hf://org/mine", tmp_path):
        pass
    with got("hf://org/mine", tmp_path, SourceRules(pickles=True)) as found:
        assert contents(found.folder) == files


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("hf://org", SourceInvalid),
        ("hf://org/--mine--", SourceInvalid),
        ("hf://org/mine@", SourceInvalid),
        ("hf://org/mine@main/../x", SourceInvalid),
        ("hf://other/mine", SourceForbidden),
        ("hf://org-evil/mine", SourceForbidden),
    ],
)
def test_names_that_cannot_be_or_are_not_open_are_refused(
    web: Web, tmp_path: Path, source: str, kind: type[SourceRefused]
) -> None:
    rules = SourceRules(AllowList.of(["hf://org"]), limits=SourceLimits())
    with pytest.raises(kind), got(source, tmp_path, rules):
        pass
    assert web.asked == []
