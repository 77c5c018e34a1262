"""docs/cli.md says what the commands say of themselves, docs/adapters.md which codes there are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from loradock_adapters.check import Code, NoteCode
from loradock_adapters.check.codes import MEANINGS, NOTES
from loradock_server.cli import api_page
from loradock_server.cli.docs import main, page, with_codes

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_page_in_the_repository_is_current() -> None:
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == page(), "run: make docs"


def test_the_page_of_routes_is_that_of_the_document() -> None:
    assert (DOCS / "api.md").read_text(encoding="utf-8") == api_page.page(), "run: make docs"


def test_the_tables_of_codes_are_those_of_the_check() -> None:
    text = (DOCS / "adapters.md").read_text(encoding="utf-8")
    assert text == with_codes(text), "run: make docs"
    assert set(MEANINGS) == set(Code)
    assert set(NOTES) == set(NoteCode)
    tables = "".join(re.findall(r"<!-- (?:faults|notes) -->(.*?)<!-- end -->", text, re.DOTALL))
    listed = re.findall(r"^\| `(\w+)` \|", tables, re.MULTILINE)
    assert listed == [*MEANINGS, *NOTES]


def test_the_page_does_not_depend_on_who_writes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = page()
    monkeypatch.setenv("LORADOCK_URL", "http://elsewhere.example")
    monkeypatch.setenv("COLUMNS", "40")
    shutil.copy(DOCS / "adapters.md", tmp_path)
    main([str(tmp_path)])

    assert (tmp_path / "cli.md").read_text(encoding="utf-8") == expected
    assert "### `loradock adapters register`" in expected
