"""docs/cli.md says what the commands say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from loradock_server.cli.docs import main, page

DOCS = Path(__file__).resolve().parents[3] / "docs" / "cli.md"


def test_the_page_in_the_repository_is_current() -> None:
    assert DOCS.read_text(encoding="utf-8") == page(), "run: make docs"


def test_the_page_does_not_depend_on_who_writes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = page()
    monkeypatch.setenv("LORADOCK_URL", "http://elsewhere.example")
    monkeypatch.setenv("COLUMNS", "40")
    main([str(tmp_path / "cli.md")])

    assert (tmp_path / "cli.md").read_text(encoding="utf-8") == expected
    assert "### `loradock adapters register`" in expected
