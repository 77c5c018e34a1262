"""The client commands and the real gateway agree: real registry, store, checks and keys; no engine behind them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import Result

from loradock_adapters.base_model import BaseModel
from loradock_adapters.registry import Registry
from loradock_server.cli import register
from loradock_server.cli.errors import Refused
from loradock_server.cli.output import Output
from loradock_server.cli.register_trained import Registering
from loradock_server.gateway.app import create_app
from loradock_server.settings import load_settings
from tests.adapters.making import lora_config, write_adapter, write_base
from tests.adapters.sources.packing import entries_of, tgz_bytes
from tests.fakes.hub import COMMIT, publish
from tests.fakes.web import running_web
from tests.server.cli.scripted_server import running

Run = Callable[..., Result]


@pytest.fixture
def gateway(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A running gateway that the commands find as they would on its own machine, by the file it leaves."""
    monkeypatch.setenv("LORADOCK_SOURCE_ROOTS", str(tmp_path / "shared"))
    monkeypatch.setenv("LORADOCK_SOURCE_PREFIXES", "hf://open-org")
    settings = load_settings()
    registry = Registry.open(settings.registry)
    key = registry.keys.ensure_admin(None)
    app = create_app(settings, registry, settings.open_store(), BaseModel.read(write_base(tmp_path)), "engine-token")
    with running(app) as url:
        settings.run_dir.mkdir(parents=True)
        file = settings.run_dir / "server.json"
        file.touch(0o600)
        file.write_text(json.dumps({"url": url, "key": key}))
        yield url
    registry.close()


def said(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_an_adapter_is_registered_listed_shown_and_deleted(loradock: Run, gateway: str, tmp_path: Path) -> None:
    folder = str(write_adapter(tmp_path / "mine"))

    first = said(loradock("adapters", "register", "support-bot", folder, "--json"))
    again = said(loradock("adapters", "register", "support-bot", folder, "--json"))

    assert (first["id"], first["created"], first["aliases"]) == ("support-bot@1", True, ["live"])
    assert (again["id"], again["created"]) == ("support-bot@1", False)
    (listed,) = said(loradock("adapters", "list", "--json"))["data"]
    assert listed["aliases"] == {"live": 1}
    assert loradock("adapters", "list").stdout.splitlines()[1].split()[:3] == ["support-bot", "1", "1"]
    row = loradock("adapters", "show", "support-bot").stdout.splitlines()[-1].split()
    assert row[:4] == ["1", "live", first["digest"][:12], "2"]
    assert loradock("adapters", "delete", "support-bot", "--yes").exit_code == 0
    gone = loradock("adapters", "show", "support-bot")
    assert gone.exit_code == 1
    assert "support-bot" in gone.stderr


def test_an_adapter_is_pinned_and_unpinned(loradock: Run, gateway: str, tmp_path: Path) -> None:
    assert loradock("adapters", "register", "support-bot", str(write_adapter(tmp_path / "mine"))).exit_code == 0

    pinned = said(loradock("adapters", "pin", "support-bot", "--json"))
    lines = loradock("adapters", "list").stdout.splitlines()
    shown = loradock("adapters", "show", "support-bot").stdout

    assert (pinned["pinned"], pinned["tier"]) == (True, "disk")
    assert lines[1].split() == ["support-bot", "1", "1", "disk", "-", "-", "-", "not", "kept"]
    assert "not kept in memory: the engine" in lines[-1]  # there is none here
    assert "pinned " in shown
    assert not said(loradock("adapters", "unpin", "support-bot", "--json"))["pinned"]
    assert loradock("adapters", "list").stdout.splitlines()[1].split()[-1] == "-"
    assert loradock("adapters", "pin", "nobody").exit_code == 1


def test_a_new_version_becomes_live(loradock: Run, gateway: str, tmp_path: Path) -> None:
    for version, alpha in ((1, 4), (2, 8)):
        folder = write_adapter(tmp_path / f"v{version}", config=lora_config(lora_alpha=alpha))
        assert loradock("adapters", "register", "support-bot", str(folder)).exit_code == 0

    lines = loradock("adapters", "show", "support-bot").stdout.splitlines()

    assert [line.split()[:2] for line in lines[-2:]] == [["1", "-"], ["2", "live"]]


def test_versions_are_split_promoted_rolled_back_retired_and_deleted(
    loradock: Run, gateway: str, tmp_path: Path
) -> None:
    for alpha, flags in ((4, ()), (8, ("--no-promote",)), (16, ("--alias", "canary"))):
        folder = write_adapter(tmp_path / f"a{alpha}", config=lora_config(lora_alpha=alpha))
        registered = loradock("adapters", "register", "support-bot", str(folder), *flags)
        assert registered.exit_code == 0, registered.output

    split = loradock("adapters", "split", "support-bot", "1=90", "2=10")
    assert split.stdout.splitlines()[0] == "support-bot@live points to 1=90 2=10"
    assert "loradock adapters rollback support-bot" in split.stdout
    lines = loradock("adapters", "show", "support-bot").stdout.splitlines()
    assert lines.pop() == "try: loradock adapters promote support-bot 3"
    assert ["live 90" in lines[-3], "live 10" in lines[-2], "canary" in lines[-1]] == [True] * 3
    assert "1=90, 2=10" in loradock("adapters", "list").stdout

    in_use = loradock("adapters", "retire", "support-bot@1")
    assert in_use.exit_code == 1
    assert "the alias live" in in_use.stderr
    promoted = said(loradock("adapters", "promote", "support-bot", "2", "--json"))
    assert said(loradock("adapters", "rollback", "support-bot", "--json"))["split"] == {"1": 90, "2": 10}
    stale = loradock("adapters", "promote", "support-bot", "2", "--if-revision", str(promoted["revision"]))
    assert stale.exit_code == 1
    assert "changed by somebody else" in stale.stderr
    assert loradock("adapters", "promote", "support-bot", "2").exit_code == 0
    assert said(loradock("adapters", "retire", "support-bot@1", "--json"))["state"] == "retired"
    assert said(loradock("adapters", "delete", "support-bot@1", "--yes", "--json"))["deleted"] is True

    told = loradock("audit", "--adapter", "support-bot", "--limit", "3").stdout
    assert [line.split()[7] for line in told.splitlines()[1:4]] == ["version.deleted", "version.retired", "alias.set"]
    assert "loradock audit --adapter support-bot --after" in told
    assert "removed 1 blobs" in loradock("gc", "--grace", "0").stdout


@pytest.mark.parametrize("words", [["3"], ["3=x"], ["x=3"], ["3=90", "3=10"], ["=", "="], ["-1=3"]])
def test_a_split_that_cannot_be_read_is_not_sent(loradock: Run, words: list[str]) -> None:
    result = loradock("adapters", "split", "support-bot", "--", *words)
    assert result.exit_code == 2
    assert "3=90 4=10" in result.stderr


def test_the_doctor_finds_and_repairs(loradock: Run, home: Path) -> None:
    assert loradock("doctor").stdout.strip() == "nothing is wrong"
    (home / "tmp/upload-half").mkdir(parents=True)
    found = loradock("doctor", "--older-than", "0", "--json")
    assert found.exit_code == 1
    assert [finding["code"] for finding in json.loads(found.stdout)["findings"]] == ["half_uploaded"]
    repaired = loradock("doctor", "--older-than", "0", "--repair")
    assert repaired.exit_code == 0
    assert "repaired 1" in repaired.stdout
    assert loradock("doctor", "--older-than", "0").exit_code == 0
    assert said(loradock("doctor", "--downgrade-to", "0002", "--json")) == {"downgraded_to": "0002"}
    assert loradock("doctor", "--downgrade-to", "nonsense").exit_code == 1


def test_what_the_server_refuses_is_what_the_offline_check_refuses(loradock: Run, gateway: str, tmp_path: Path) -> None:
    folder = str(write_adapter(tmp_path / "bad", config=lora_config(rank=3, bias="all")))

    offline = loradock("adapters", "check", folder, "--base", str(tmp_path / "tiny"), "--json")
    online = loradock("adapters", "register", "support-bot", folder, "--json")

    assert (offline.exit_code, online.exit_code) == (1, 1)
    judged = [(fault["code"], fault["where"]) for fault in json.loads(offline.stdout)["faults"]]
    refused = [(fault["code"], fault["where"]) for fault in json.loads(online.stdout)["error"]["faults"]]
    assert judged == refused
    assert len(judged) > 1


def test_people_read_each_fault_once(loradock: Run, gateway: str, tmp_path: Path) -> None:
    folder = str(write_adapter(tmp_path / "bad", config=lora_config(bias="all")))

    result = loradock("adapters", "register", "support-bot", folder)

    (fault,) = json.loads(loradock("adapters", "register", "x", folder, "--json").stdout)["error"]["faults"]
    assert fault["code"] == "bias"
    assert result.stderr.count(fault["limit"]) == 1
    assert result.stderr.count(fault["value"]) == 1


def test_the_tokenizer_beside_an_adapter_is_judged_by_the_server_and_not_stored(
    loradock: Run, gateway: str, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "mine")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    plain = said(loradock("adapters", "register", "plain", str(write_adapter(tmp_path / "plain")), "--json"))

    fine = said(loradock("adapters", "register", "support-bot", str(folder), "--json"))
    (folder / "added_tokens.json").write_text('{"<mine>": 99}')
    bad = loradock("adapters", "register", "support-bot", str(folder), "--json")

    assert [note["code"] for note in fine["report"]["notes"]] == ["other_chat_template"]
    assert fine["digest"] == plain["digest"]
    assert [fault["code"] for fault in json.loads(bad.stdout)["error"]["faults"]] == ["added_tokens"]


def test_a_folder_on_the_server_needs_no_upload(loradock: Run, gateway: str, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "shared" / "mine")

    inside = loradock("adapters", "register", "support-bot", str(folder), "--on-server", "--json")
    outside = loradock("adapters", "register", "support-bot", str(tmp_path), "--on-server")

    assert said(inside)["id"] == "support-bot@1"
    assert outside.exit_code == 1


def test_keys_are_made_used_listed_and_revoked(loradock: Run, gateway: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = said(loradock("keys", "create", "ops", "--scope", "admin", "--json"))
    assert "ops" in loradock("keys", "list").stdout

    with monkeypatch.context() as context:
        context.setenv("LORADOCK_API_KEY", made["secret"])
        assert said(loradock("adapters", "list", "--json"))["data"] == []
    assert loradock("keys", "revoke", made["id"]).exit_code == 0
    with monkeypatch.context() as context:
        context.setenv("LORADOCK_API_KEY", made["secret"])
        refused = loradock("adapters", "list")
    assert refused.exit_code == 1
    assert "LORADOCK_API_KEY" in refused.stderr


def test_a_key_is_bound_changed_rotated_and_shown(loradock: Run, gateway: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--tenant", "acme", "--adapters", "support-*", "--expires", "30d", "--requests-per-minute", "60")
    made = said(loradock("keys", "create", "my-app", *flags, "--json"))
    assert (made["tenant"], made["adapters"], made["limits"]) == ("acme", ["support-*"], {"requests_per_minute": 60})
    row = loradock("keys", "list").stdout.splitlines()[-1]
    assert "support-*" in row
    assert "acme" in row

    changes = ("--adapters", "mail-*", "--unset", "tenant", "--unset", "expires", "--unset", "requests-per-minute")
    changed = said(loradock("keys", "set", made["id"], *changes, "--if-revision", str(made["revision"]), "--json"))
    assert (changed["tenant"], changed["adapters"], changed["limits"]) == (None, ["mail-*"], {})
    assert changed["expires_at"] is None
    stale = loradock("keys", "set", made["id"], "--name", "x", "--if-revision", str(made["revision"]))
    assert stale.exit_code == 1
    refused = loradock("keys", "set", made["id"], "--adapters", "mail@3")
    assert "without @version" in refused.stderr

    rotated = said(loradock("keys", "rotate", made["id"], "--json"))
    assert rotated["old_secret_until"]
    both = [made["secret"], rotated["secret"]]
    assert [_models(gateway, secret) for secret in both] == [200, 200]
    last = said(loradock("keys", "rotate", made["id"], "--grace", "0", "--json"))["secret"]
    assert [_models(gateway, secret) for secret in (*both, last)] == [401, 401, 200]
    assert last not in loradock("keys", "show", made["id"]).stdout
    assert "key.rotated" in loradock("audit").stdout


def _models(url: str, secret: str) -> int:
    headers = {"authorization": f"Bearer {secret}"}
    return httpx.get(f"{url}/v1/models", headers=headers, trust_env=False, timeout=60).status_code


def test_an_inference_key_may_not_manage(loradock: Run, gateway: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = said(loradock("keys", "create", "my-app", "--json"))
    monkeypatch.setenv("LORADOCK_API_KEY", made["secret"])

    result = loradock("adapters", "list")

    assert result.exit_code == 1
    assert "admin" in result.stderr


def test_an_adapter_over_the_servers_limit_is_refused_in_its_words(loradock: Run, gateway: str, tmp_path: Path) -> None:
    # The gateway was built with the default limits; a rank above them is the quickest way over one.
    folder = write_adapter(tmp_path / "big", config=lora_config(rank=128))

    result = loradock("adapters", "register", "support-bot", str(folder))

    assert result.exit_code == 1
    assert "128" in result.stderr
    assert "64" in result.stderr


def test_an_archive_and_its_folder_are_the_same_version(
    loradock: Run, gateway: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_adapter(tmp_path / "mine")
    packed = tmp_path / "mine.tgz"
    packed.write_bytes(tgz_bytes(entries_of(folder, below="mine/")))

    first = said(loradock("adapters", "register", "support-bot", str(packed), "--json"))
    monkeypatch.setattr(register, "ASK_FIRST_BYTES", 100)
    again = said(loradock("adapters", "register", "support-bot", str(folder), "--json"))
    (folder / "README.md").write_text("other bytes")
    other = said(loradock("adapters", "register", "support-bot", str(folder), "--json"))

    assert [first["id"], again["id"], other["id"]] == ["support-bot@1", "support-bot@1", "support-bot@2"]
    assert again["created"] is False


def test_a_version_is_pulled_and_what_came_can_be_registered_again(loradock: Run, gateway: str, tmp_path: Path) -> None:
    for alpha, flags in ((4, ()), (8, ("--alias", "canary"))):
        folder = write_adapter(tmp_path / f"a{alpha}", config=lora_config(lora_alpha=alpha))
        (folder / "manifest.json").write_text(json.dumps({"recipe": {"alpha": alpha}}))
        if alpha == 8:
            assert loradock("adapters", "keygen", "me.key", "--name", "me").exit_code == 0
            assert loradock("adapters", "sign", str(folder), "--key", "me.key").exit_code == 0
        assert loradock("adapters", "register", "bot", str(folder), *flags).exit_code == 0

    pulled = said(loradock("adapters", "pull", "bot@canary", "out/canary", "--json"))
    told = loradock("adapters", "pull", "bot", "out/live")

    assert (pulled["id"], pulled["path"], pulled["manifest"]) == ("bot@2", "out/canary", {"recipe": {"alpha": 8}})
    assert told.stdout.splitlines()[0] == "pulled bot@1 into out/live"
    assert "loradock adapters register bot out/live" in told.stdout
    for out, source in (("live", "a4"), ("canary", "a8")):
        files = {path.name: path.read_bytes() for path in (tmp_path / "out" / out).iterdir()}
        record = json.loads(files.pop("version.json"))
        assert files == {path.name: path.read_bytes() for path in (tmp_path / source).iterdir()}
        again = said(loradock("adapters", "register", "again", f"out/{out}", "--json"))
        assert again["digest"] == record["digest"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["canary", "live"]


def test_what_cannot_be_pulled_says_why_and_leaves_nothing(
    loradock: Run, gateway: str, tmp_path: Path, home: Path
) -> None:
    digests = []
    for alpha, flags in ((4, ()), (8, ("--no-promote",))):
        folder = str(write_adapter(tmp_path / f"a{alpha}", config=lora_config(lora_alpha=alpha)))
        digests.append(said(loradock("adapters", "register", "bot", folder, *flags, "--json"))["digest"])
    assert loradock("adapters", "split", "bot", "1=9", "2=1").exit_code == 0
    weights = home / "store/blobs/sha256" / digests[1] / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    (tmp_path / "taken").write_text("mine")

    for asked, out, code, says in (
        ("bot", "new", 1, "fix: name one: bot@1"),
        ("bot@2", "new", 1, "holds other bytes"),
        ("bot@3", "new", 1, "no version 3"),
        ("bot@blue", "new", 1, "it has live"),
        ("nobody", "new", 1, "nobody"),
        ("Bot!", "new", 2, "is not allowed"),
        ("bot@1", "a4", 2, "is there already"),
        ("bot@1", "taken", 2, "is there already"),
        ("bot@1", "taken/new", 2, "cannot be made"),
    ):
        result = loradock("adapters", "pull", asked, out)
        assert (result.exit_code, says in result.stderr) == (code, True), (asked, out, result.stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a4", "a8", "home", "taken", "tiny"]


def test_a_registration_is_an_operation_that_can_be_looked_at_later(
    loradock: Run, gateway: str, tmp_path: Path
) -> None:
    assert loradock("adapters", "operations").stdout == "no operations\n"
    assert loradock("adapters", "register", "support-bot", str(write_adapter(tmp_path / "good"))).exit_code == 0
    bad = write_adapter(tmp_path / "bad", config=lora_config(use_dora=True))
    refused = loradock("adapters", "register", "support-bot", str(bad))
    assert refused.exit_code == 1
    assert "dora" in refused.stderr

    failed, done = said(loradock("adapters", "operations", "--json"))["data"]
    assert [operation["state"] for operation in (done, failed)] == ["succeeded", "failed"]
    rows = loradock("adapters", "operations").stdout.splitlines()[1:3]
    assert ["adapter_rejected" in rows[0], "support-bot@1" in rows[1]] == [True, True]
    older = said(loradock("adapters", "operations", "--after", failed["id"], "--json"))["data"]
    assert [operation["id"] for operation in older] == [done["id"]]

    shown = loradock("adapters", "operation", done["id"])
    assert "support-bot@1" in shown.stdout
    assert "try: loradock adapters show support-bot" in shown.stdout
    faults = loradock("adapters", "operation", failed["id"])
    assert (faults.exit_code, "dora" in faults.stdout) == (0, True)
    assert loradock("adapters", "operation", failed["id"], "--wait").exit_code == 1
    unknown = loradock("adapters", "operation", "../keys")
    assert (unknown.exit_code, "no operation" in unknown.stderr or "no route" in unknown.stderr) == (1, True)


def test_an_address_is_fetched_by_the_server_if_it_is_open_there_else_here(
    loradock: Run, gateway: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_adapter(tmp_path / "mine")
    with running_web() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for org in ("open-org", "other-org"):
            publish(hub, f"{org}/mine", {path.name: path.read_bytes() for path in folder.iterdir()})

        there = said(loradock("adapters", "register", "support-bot", "hf://open-org/mine@main", "--json"))
        closed = loradock("adapters", "register", "other-bot", "hf://other-org/mine@main")
        here = said(loradock("adapters", "register", "other-bot", "hf://other-org/mine@main", "--fetch-here", "--json"))

    (version,) = said(loradock("adapters", "show", "support-bot", "--json"))["versions"]
    assert (there["id"], version["source"]) == ("support-bot@1", f"hf://open-org/mine@{COMMIT}")
    assert (closed.exit_code, "--fetch-here" in closed.stderr) == (1, True)
    assert (here["id"], here["digest"]) == ("other-bot@1", there["digest"])


def test_what_is_said_of_an_adapter_is_kept_shown_and_taken_back(loradock: Run, gateway: str, tmp_path: Path) -> None:
    assert loradock("adapters", "register", "bot", str(write_adapter(tmp_path / "a"))).exit_code == 0
    seen = said(loradock("adapters", "show", "bot", "--json"))["revision"]
    pairs = ("temperature=0.2", "stop=END", "priority=high", "owner=me", "pin=true", "max_tokens_cap=9")
    view = said(loradock("adapters", "set", "bot", *pairs, "--if-revision", str(seen), "--json"))
    assert view["settings"] == {
        "temperature": 0.2,
        "stop": ["END"],
        "priority": "high",
        "owner": "me",
        "max_tokens_cap": 9,
    }
    assert view["pinned"] is True
    late = loradock("adapters", "set", "bot", "owner=you", "--if-revision", str(seen))
    assert (late.exit_code, "somebody else" in late.stderr) == (1, True)
    refused = loradock("adapters", "set", "bot", "top_p=9", "seed=x")
    assert refused.exit_code == 1
    assert "top_p" in refused.stderr
    assert "seed" in refused.stderr
    assert "high" in loradock("adapters", "show", "bot").stdout
    view = said(loradock("adapters", "unset", "bot", *(pair.partition("=")[0] for pair in pairs), "--json"))
    assert (view["settings"], view["pinned"]) == ({}, False)


def test_a_version_is_evaluated_refused_by_the_gate_and_forced(
    loradock: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("LORADOCK_PROMOTION_GATE", "metric=score,no_worse_by=0.05")
    request.getfixturevalue("gateway")
    for alpha, score, flags in ((4, 0.9, ()), (8, 0.5, ("--no-promote",))):
        folder = str(write_adapter(tmp_path / f"a{alpha}", config=lora_config(lora_alpha=alpha)))
        made = said(loradock("adapters", "register", "bot", folder, *flags, "--json"))
        (tmp_path / "result.json").write_text(json.dumps({"task": "t", "metrics": {"score": score}}))
        assert loradock("adapters", "evaluations", made["id"], "--attach", "result.json").exit_code == 0
    refused = loradock("adapters", "promote", "bot", "2")
    assert refused.exit_code == 1
    assert "score 0.5 on t, bot@1 has 0.9" in refused.stderr
    assert said(loradock("adapters", "promote", "bot", "2", "--force", "why not", "--json"))["version"] == 2
    (event, *_) = said(loradock("audit", "--adapter", "bot", "--json"))["data"]
    assert event["after"]["forced"]["reason"] == "why not"
    assert loradock("adapters", "evaluations", "bot@2").stdout.splitlines()[1].split()[1:3] == ["t", "score=0.5"]


def test_what_was_trained_is_registered_where_its_base_is_served_and_nowhere_else(gateway: str, tmp_path: Path) -> None:
    base = BaseModel.read(next(tmp_path.glob("*/config.json")).parent)
    quiet = Output(as_json=True)

    answer = Registering.checked("lights", None, base, quiet).send(write_adapter(tmp_path / "mine"), quiet)

    assert (answer["id"], answer["created"]) == ("lights@1", True)
    with pytest.raises(Refused, match="has another base model"):
        Registering.checked("lights", None, replace(base, digest="cd" * 32), quiet)
