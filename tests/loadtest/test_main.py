"""The whole command against the fake server: what is sent, what is reported, and the exit status."""

from __future__ import annotations

import asyncio
import io
import json
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtest.__main__ import load_test, main
from loadtest.client import ServerUnusable
from loadtest.options import read_options
from tests.loadtest.fake_server import BASE, KEY, FakeServer, Script, serve

TWO = {"fast": Script(ttft=0.01, tpot=0.005), "slow": Script(ttft=0.12, tpot=0.03)}


@dataclass(frozen=True, slots=True)
class Result:
    status: int
    report: Mapping[str, Any]
    server: FakeServer
    said: str


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    monkeypatch.setenv("LORADOCK_API_KEY", KEY)
    monkeypatch.delenv("LORADOCK_URL", raising=False)

    def run(
        scripts: Mapping[str, Script], *arguments: str, during: Callable[[FakeServer], Any] | None = None
    ) -> Result:
        file, said = tmp_path / "report.json", io.StringIO()

        async def test() -> Result:
            async with serve(scripts) as server:
                options = read_options(["--url", server.url, "--json", str(file), *arguments])
                helper = asyncio.ensure_future(during(server)) if during else None
                status = await load_test(options, Console(file=said, width=200))
                if helper:
                    await helper
                return Result(status, json.loads(file.read_text()), server, said.getvalue())

        return asyncio.run(test())

    return run


def test_two_adapters_of_different_speed_are_told_apart(load: Callable[..., Result]) -> None:
    # So far apart that no machine is slow enough to make the fast one look like the other.
    scripts = {"fast": Script(ttft=0.01, tpot=0.005), "slow": Script(ttft=0.6, tpot=0.2)}
    result = load(scripts, "--requests", "20", "--concurrency", "4")
    rows = result.report["adapters"]
    assert result.status == 0
    assert rows["fast"]["requests"] + rows["slow"]["requests"] == 20
    assert 0.01 <= rows["fast"]["ttft_seconds"]["p50"] < 0.6
    assert 0.6 <= rows["slow"]["ttft_seconds"]["p50"] < 0.6 + 2 * 0.2, "to the first token, not to the last"
    assert 0 < rows["fast"]["tpot_seconds"]["p50"] < 0.15
    assert 0.15 < rows["slow"]["tpot_seconds"]["p50"] < 0.6
    assert result.report["total"]["errors"] == 0


def test_the_report_counts_what_the_server_counted(load: Callable[..., Result]) -> None:
    result = load(TWO, "--requests", "12")
    for name in TWO:
        assert result.report["adapters"][name]["requests"] == len(result.server.asked(name))
    tokens = result.report["total"]["output_tokens_per_second"] * result.report["wall_seconds"]
    assert tokens == pytest.approx(12 * 3)


def test_a_closed_loop_keeps_exactly_so_many_under_way(load: Callable[..., Result]) -> None:
    result = load({"bot": Script(ttft=0.03, together=5)}, "--requests", "15", "--concurrency", "5")
    assert result.server.peak == 5


def test_an_open_loop_sends_on_time_although_answers_take_longer(load: Callable[..., Result]) -> None:
    scripts = {"bot": Script(together=8)}
    result = load(scripts, "--requests", "8", "--rate", "10", "--arrival", "constant", "--no-warm-up")
    arrivals = [seen.arrived for seen in result.server.asked("bot")]
    assert result.server.peak == 8  # all under way before the first answer
    assert arrivals[-1] - arrivals[0] > 7 / 10 / 2, "one after the other; the first may have been held up"


def test_a_duration_ends_the_sending_and_waits_for_what_is_under_way(load: Callable[..., Result]) -> None:
    result = load({"bot": Script(ttft=0.8)}, "--duration", "1.5", "--concurrency", "2")
    assert result.report["total"]["requests"] == 4  # two rounds of two: the second began before the end
    assert result.report["wall_seconds"] >= 1.6
    assert result.report["cut_short"] == 0


def test_all_means_every_adapter_and_not_the_base(load: Callable[..., Result]) -> None:
    result = load({**TWO, BASE: Script()}, "--requests", "30")
    assert set(result.report["adapters"]) == set(TWO)


def test_the_base_can_be_asked_by_name(load: Callable[..., Result]) -> None:
    result = load(TWO, "--requests", "3", "--adapters", BASE)
    assert set(result.report["adapters"]) == {BASE}


def test_a_pinned_version_may_be_asked(load: Callable[..., Result]) -> None:
    result = load(TWO, "--requests", "3", "--adapters", "fast@1")
    assert (set(result.report["adapters"]), result.report["total"]["errors"]) == ({"fast@1"}, 0)


def test_prompts_have_the_length_asked_for_and_all_begin_differently(load: Callable[..., Result]) -> None:
    result = load(TWO, "--requests", "10", "--prompt-tokens", "130")
    assert result.report["total"]["mean_prompt_tokens"] == 130  # 30 for the template, 2 for each of 50 words
    beginnings = {" ".join(seen.prompt.split()[:8]) for seen in result.server.requests}
    assert len(beginnings) == len(result.server.requests)


def test_each_adapter_is_asked_once_before_the_clock_starts(load: Callable[..., Result]) -> None:
    result = load(TWO, "--requests", "4")
    for name in TWO:
        warm = [seen for seen in result.server.asked(name, measured=False) if seen.body["max_tokens"] == 8]
        assert len(warm) == 1


def test_cold_adapters_stay_cold_when_asked_for(load: Callable[..., Result]) -> None:
    result = load(TWO, "--requests", "4", "--no-warm-up")
    for name in TWO:
        assert result.server.asked(name, measured=False) == result.server.asked(name)


def test_answers_of_fixed_length_are_asked_for_by_vllms_switch(load: Callable[..., Result]) -> None:
    result = load(TWO, "--requests", "2", "--ignore-eos", "--max-tokens", "40")
    assert all(seen.body["ignore_eos"] is True for name in TWO for seen in result.server.asked(name))


def test_a_broken_time_limit_is_status_1_and_names_the_adapter(load: Callable[..., Result]) -> None:
    result = load(TWO, "--requests", "10", "--max-ttft-p95", "0.1")
    assert result.status == 1
    assert "slow: TTFT p95" in result.said
    assert any(line.startswith("slow: TTFT p95") for line in result.report["thresholds_broken"])


def test_limits_that_are_kept_are_status_0(load: Callable[..., Result]) -> None:
    result = load(TWO, "--requests", "10", "--max-ttft-p95", "5", "--max-error-rate", "0")
    assert (result.status, result.report["thresholds_broken"]) == (0, [])


def test_errors_are_counted_by_kind_and_break_their_limit(load: Callable[..., Result]) -> None:
    scripts = {"fine": Script(), "dead": Script(fault="http_503")}
    result = load(scripts, "--requests", "20", "--max-error-rate", "0.1")
    assert result.status == 1
    assert result.report["adapters"]["fine"]["errors"] == 0
    assert set(result.report["adapters"]["dead"]["error_kinds"]) == {"http 503: engine_unavailable"}
    assert "warm-up of dead: http 503: engine_unavailable" in result.said


def test_a_run_in_which_nothing_succeeded_is_never_good(load: Callable[..., Result]) -> None:
    result = load({"dead": Script(fault="http_503")}, "--requests", "3")
    assert result.status == 1
    assert "no request succeeded" in result.said


def test_an_interrupt_reports_what_was_measured_until_then(load: Callable[..., Result]) -> None:
    async def interrupt(server: FakeServer) -> None:
        await server.all_hanging.wait()
        signal.raise_signal(signal.SIGINT)

    scripts = {"fine": Script(), "stuck": Script(fault="hang")}
    result = load(scripts, "--requests", "40", "--concurrency", "1", "--no-warm-up", "--seed", "3", during=interrupt)
    assert result.report["cut_short"] == 1
    assert set(result.report["adapters"]) <= {"fine"}


@pytest.mark.parametrize(
    ("adapters", "hint"),
    [("fats", "did you mean fast"), ("zzz", "it has tiny-base, fast, slow"), (",", "names no model")],
)
def test_an_unknown_adapter_is_refused_with_a_hint(adapters: str, hint: str, load: Callable[..., Result]) -> None:
    with pytest.raises(ServerUnusable, match=hint):
        load(TWO, "--adapters", adapters)


def test_a_server_without_adapters_says_how_to_go_on(load: Callable[..., Result]) -> None:
    with pytest.raises(ServerUnusable, match="register one, or name models: --adapters tiny-base"):
        load({}, "--requests", "1")


def test_no_server_is_status_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setenv("LORADOCK_HOME", str(tmp_path))
    assert main(["--url", "http://127.0.0.1:1"]) == 2
    assert "no server at http://127.0.0.1:1" in capsys.readouterr().err.replace("\n", "")


def test_rate_and_concurrency_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_options(["--rate", "5", "--concurrency", "2"])
    assert "exclude each other" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--concurrency", "0"], ["--rate", "-1"], ["--max-error-rate", "2"], ["--popularity", "zip"]],
)
def test_values_without_meaning_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        read_options(arguments)
    assert stopped.value.code == 2
