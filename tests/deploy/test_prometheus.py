"""Prometheus' files: accepted by promtool, and every alert seen to fire and to keep quiet."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy import compose
from tests.e2e.prometheus import RULES, need_tool

RULES_TEST = Path(__file__).parent / "rules_test.yml"


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [need_tool("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def run_rule_tests(folder: Path, rules: str) -> subprocess.CompletedProcess[str]:
    (folder / "rules.yml").write_text(rules, encoding="utf-8")
    shutil.copy(RULES_TEST, folder / "rules_test.yml")
    return promtool("test", "rules", folder / "rules_test.yml")


def alerts() -> list[str]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]


def test_promtool_accepts_the_configuration_and_the_rules_it_names() -> None:
    checked = promtool("check", "config", RULES.parent / "prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "1 rule files found" in checked.stdout


def test_the_rules_do_what_their_tests_say(tmp_path: Path) -> None:
    run = run_rule_tests(tmp_path, RULES.read_text(encoding="utf-8"))
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("loradock_engine_up == 0", "loradock_engine_up == 2"),
        ('up{job="loradock"} == 0', "up == 0"),
        ("[15m]) > 2", "[15m]) > 0"),
        ("ratio_rate5m > 0.05", "ratio_rate5m > 0.03"),
        ("requests:rate5m > 0.05", "requests:rate5m > 0"),
        ("p95_rate5m > 5", "p95_rate5m > 8"),
        ("failures_total[5m]) > 10", "failures_total[5m]) > 5"),
        (
            '(loradock_adapter_loads_total{result!="ok"} unless loradock_adapter_loads_total{result!="ok"} '
            "offset 10m)\n            or increase",
            "increase",
        ),
    ],
)
def test_a_wrong_rule_fails_its_test(right: str, wrong: str, tmp_path: Path) -> None:
    rules = RULES.read_text(encoding="utf-8")
    assert right in rules
    assert run_rule_tests(tmp_path, rules.replace(right, wrong)).returncode != 0


def test_every_alert_is_seen_to_fire_and_to_keep_quiet() -> None:
    cases = [
        case
        for test in yaml.safe_load(RULES_TEST.read_text(encoding="utf-8"))["tests"]
        for case in test["alert_rule_test"]
    ]
    for alert in alerts():
        outcomes = {bool(case.get("exp_alerts")) for case in cases if case["alertname"] == alert}
        assert outcomes == {True, False}, alert


def test_prometheus_scrapes_the_gateway_where_compose_runs_it() -> None:
    config = yaml.safe_load((RULES.parent / "prometheus.yml").read_text(encoding="utf-8"))
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    services = yaml.safe_load((compose.DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert targets["loradock"] == [f"gateway:{services['gateway']['environment']['LORADOCK_PORT']}"]
    for job, (target,) in targets.items():
        host, _, port = target.partition(":")
        service = services[job if job in services else host] if host != "localhost" else services["prometheus"]
        assert port in str(service.get("ports", "")) + str(service.get("expose", "")), job


def test_a_missing_tool_fails_in_ci_and_skips_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install"):
        need_tool("no-such-tool")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="apt-get install"):
        need_tool("no-such-tool")
