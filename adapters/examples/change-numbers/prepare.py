"""Make the change-numbers data: entries of changelogs, and the number of the issue that each one names.

Reads the changelogs of three npm packages. Only entries that name one issue, once or more often, are taken.
Deterministic: same packages, same bytes. Usage:

    npm pack eslint-plugin-import@2.32.0 eslint-plugin-jsx-a11y@6.10.2 handlebars@4.7.8 && python prepare.py .
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from loradock_adapters.training.duplicates import distinct
from loradock_adapters.training.formats import Example, Message

PACKAGES = {
    "eslint-plugin-import-2.32.0.tgz": (
        "package/CHANGELOG.md",
        "4c122b593c52e40f3167a89b388d0b9a155aaddc08f05935ccece7b4ff51ecde",
    ),
    "eslint-plugin-jsx-a11y-6.10.2.tgz": (
        "package/CHANGELOG.md",
        "2740719a2bddb1a1b80e514503284b8e76915ea80e4d86aa978ff3aa7923271b",
    ),
    "handlebars-4.7.8.tgz": (
        "package/release-notes.md",
        "2dadfd6743a1e0d876e55d5c5622450a99c1316848048bc6c131a5fc42e776a6",
    ),
}
SEED = 20260
HELD_OUT = 150
LONGEST = 240


def entries(folder: Path) -> Iterator[str]:
    """Every entry of every changelog, without its bullet."""
    for name, (member, digest) in PACKAGES.items():
        package = folder / name
        if hashlib.sha256(package.read_bytes()).hexdigest() != digest:
            sys.exit(f"{package} is not the package that was published (sha256 differs)")
        with tarfile.open(package) as archive:
            content = archive.extractfile(member)
            text = content.read().decode() if content is not None else ""
        for line in text.splitlines():
            if found := re.match(r" ?[-*] (.+)", line):
                yield found[1].strip()


def main() -> None:
    found = []
    for entry in entries(Path(sys.argv[1])):
        numbers = set(re.findall(r"#(\d+)", entry))
        if len(numbers) == 1 and len(entry) <= LONGEST:
            found.append(Example((Message("user", entry), Message("assistant", f"#{numbers.pop()}"))))
    examples = distinct(found)
    random.Random(SEED).shuffle(examples)
    folder = Path(__file__).parent / "data"
    folder.mkdir(exist_ok=True)
    for name, part in (("held_out", examples[:HELD_OUT]), ("train", examples[HELD_OUT:])):
        lines = [
            json.dumps({"messages": [dataclasses.asdict(message) for message in one.messages]}, ensure_ascii=False)
            for one in part
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
