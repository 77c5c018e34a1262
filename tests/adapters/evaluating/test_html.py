"""The report's page: whole, self-contained, and deaf to what answers try to put into it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loradock_adapters.evaluating.asking import Answer, Decoding, Model
from loradock_adapters.evaluating.contenders import Contender, Role
from loradock_adapters.evaluating.differences import Piece, differences
from loradock_adapters.evaluating.html import page
from loradock_adapters.evaluating.measuring import measured, sum_up
from loradock_adapters.evaluating.metrics import METRICS
from loradock_adapters.evaluating.outcome import Outcome
from loradock_adapters.evaluating.verdict import Rules, decide
from loradock_adapters.training.data import DataFile
from loradock_adapters.training.formats import Example, Message

EVIL = (
    "</div></article><script>alert(1)</script>",
    "<img src=http://evil.example/x onerror=alert(1)>",
    '"><style>*{display:none}</style>',
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[31m\u202egnp.exe\x00\ud800",
    "javascript:alert(1) ]]> --> <!--",
)


class Tags(HTMLParser):
    """Every tag with its attributes, and the text between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outcome(answers: dict[Role, list[str]], questions: list[str] | None = None) -> Outcome:
    wanted = answers["adapter"]
    examples = tuple(
        Example((Message("user", question), Message("assistant", text)))
        for question, text in zip(questions or [f"q{n}" for n in range(len(wanted))], wanted, strict=True)
    )
    values: dict[Role, list[float]] = {
        role: [float(one == text) for one, text in zip(each, wanted, strict=True)] for role, each in answers.items()
    }
    found = measured(METRICS["exact"], values, [1.0] * len(wanted), 1)
    said = {role: [Answer(text, 9, 3, "stop") for text in each] for role, each in answers.items()}
    contenders = (
        Contender("base", "tiny"),
        Contender("prompted", "tiny", EVIL[0], examples[:1]),
        Contender("adapter", "helper@3"),
    )
    return Outcome(
        task="helper",
        server="http://127.0.0.1",
        adapter=Model("helper@3", "d" * 64, "tiny"),
        data=DataFile(Path(f"{EVIL[1]}.jsonl"), "0" * 64, examples),
        contenders=contenders,
        decoding=Decoding(16, 1),
        answers=said,
        measured=(found,),
        spent={role: sum_up(each, (1.0, 2.0)) for role, each in said.items()},
        forgetting=None,
        rules=Rules(),
        verdict=decide(found.over, found.strongest, Rules()),
        notes=(EVIL[2],),
        prices=(1.0, 2.0),
        created_at="2026-11-26T12:00:00+00:00",
        seconds=1.0,
    )


@pytest.fixture(scope="module")
def hostile() -> str:
    texts = list(EVIL)
    return page(outcome({"base": texts[::-1], "prompted": texts[1:] + texts[:1], "adapter": texts}, texts))


def test_nothing_that_a_model_said_becomes_a_tag(hostile: str) -> None:
    tags = Tags(hostile).tags
    harmless = page(outcome({"base": ["a"] * 6, "prompted": ["b"] * 6, "adapter": ["c"] * 6}))
    names = {tag for tag, _ in tags}
    assert names - {tag for tag, _ in Tags(harmless).tags} <= {"ins", "del"}
    assert [tag for tag, _ in tags].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert "{{ 7 * 7 }}" in "".join(Tags(hostile).text)


def test_nothing_is_loaded_from_anywhere(hostile: str) -> None:
    for _, attributes in Tags(hostile).tags:
        assert not {"src", "href", "action", "style", "srcset"} & attributes.keys()
    assert "url(" not in hostile.split("</style>")[0]
    assert "@import" not in hostile.split("</style>")[0]


def test_the_policy_names_the_pages_own_style_and_script_and_no_other(hostile: str) -> None:
    (policy,) = (
        attributes["content"] or ""
        for tag, attributes in Tags(hostile).tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", hostile, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_what_cannot_be_seen_is_spelled_out(hostile: str) -> None:
    assert not {"\x1b", "\u202e", "\x00", "\ud800"} & set(hostile)
    assert r"\x1b[31m\u202egnp.exe\x00\ud800" in hostile


def test_what_sets_them_apart_stands_first() -> None:
    answers: dict[Role, list[str]] = {"base": ["x"] * 40, "prompted": ["a"] * 39 + ["x"], "adapter": ["a"] * 40}
    text = page(outcome(answers))
    kinds = re.findall(r'data-kinds="([^"]*)"', text)
    assert kinds == ["win"] + ["tie"] * 39
    assert re.search(r'data-kind="win"[^>]*>adapter better 1<', text)


def test_differences_are_words() -> None:
    assert differences('{"level": 56}', '{"level": 55}') == (
        Piece("same", '{"level": '),
        Piece("less", "55"),
        Piece("more", "56"),
        Piece("same", "}"),
    )
    assert differences("nothing alike at all", '{"a": 1}') == (Piece("other", "nothing alike at all"),)
    assert differences("", "a") == ()
    assert differences("a " * 5000, "a") == (Piece("other", "a " * 5000),)
