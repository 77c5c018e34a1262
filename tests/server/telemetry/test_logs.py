"""What a log line looks like, and that nobody can forge one."""

from __future__ import annotations

import json
import logging
import sys

from loradock_server.telemetry.logs import JsonFormatter, TextFormatter


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("loradock.gateway", logging.INFO, "", 0, message, (), None)
    vars(made).update(extra)
    return made


def test_json_lines_carry_the_extra_fields() -> None:
    line = json.loads(JsonFormatter().format(record("request", adapter="poet@3", output_tokens=7)))
    assert line["message"] == "request"
    assert (line["adapter"], line["output_tokens"], line["level"]) == ("poet@3", 7, "info")
    assert line["time"].endswith("+00:00")


def test_json_lines_carry_the_traceback_of_an_exception() -> None:
    made = record("failed")
    try:
        raise KeyError("slot")
    except KeyError:
        made.exc_info = sys.exc_info()
    assert "KeyError: 'slot'" in json.loads(JsonFormatter().format(made))["error"]


def test_text_lines_end_in_fields_and_stay_one_line_whatever_a_client_sends() -> None:
    line = TextFormatter().format(record("request", adapter="poet@3", model="x\nFAKE adapter=base"))
    assert "\n" not in line
    assert line.endswith('request  adapter=poet@3 model="x\\nFAKE adapter=base"')
