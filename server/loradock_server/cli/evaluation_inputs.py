"""What `loradock evaluate` is given, read and checked before anybody is asked.

Each function raises Unreadable, or the data's and the evaluation's own errors.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loradock_adapters.files import FileTooLarge, read_capped
from loradock_adapters.strict_json import parse_object
from loradock_adapters.training.data import DataFile, read_examples
from loradock_adapters.training.formats import Example
from loradock_server.cli.errors import Unreadable

if TYPE_CHECKING:
    from loradock_adapters.evaluating.command import Command

SHOTS = 4
_MAX_BYTES = 1 << 20  # of a prompt or a schema
_LONGEST_PATH = 1024


def read_held_out(path: Path, limit: int | None) -> DataFile:
    held_out = read_examples(path)
    if limit is None or limit >= len(held_out.examples):
        return held_out
    # Part of a file is other data than the file: results on both must not be compared.
    digest = hashlib.sha256(f"{held_out.digest} first {limit}".encode()).hexdigest()
    return DataFile(held_out.path, digest, held_out.examples[:limit])


def read_prompted(
    held_out: DataFile, prompt: str | None, train: Path | None, shots: int | None, seed: int
) -> tuple[str | None, tuple[Example, ...]]:
    from loradock_adapters.evaluating.contenders import choose_shots, refuse_leaks

    if prompt is None and train is None:
        raise Unreadable(
            "nothing was given for the base to compete with: whether a prompt would do as well is half of the question",
            fix="give --prompt FILE|TEXT, --train FILE for examples to show, or both; or say --no-prompted",
        )
    if train is None:
        if shots:
            raise Unreadable(f"--shots {shots}, but no examples to show", fix="give --train FILE")
        return _prompt_text(prompt or ""), ()
    training = read_examples(train)
    refuse_leaks(held_out, training)
    return None if prompt is None else _prompt_text(prompt), choose_shots(
        training, SHOTS if shots is None else shots, seed
    )


def _prompt_text(given: str) -> str:
    """The file's text if there is such a file, else the text itself."""
    text = given
    try:
        if len(given) < _LONGEST_PATH and Path(given).is_file():
            text = read_capped(Path(given), _MAX_BYTES).decode()
    except (OSError, ValueError) as error:
        raise Unreadable(f"the prompt {given[:80]!r} cannot be read: {error}") from error
    if not text.strip():
        raise Unreadable("the prompt is empty", fix="write what the base is to do, or leave --prompt out")
    return text.strip()


def read_schema(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        return parse_object(read_capped(path, _MAX_BYTES))
    except (OSError, FileTooLarge) as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise Unreadable(f"{path} {error}") from error


def read_command(text: str | None, seconds: float) -> Command | None:
    from loradock_adapters.evaluating.command import Command

    return None if text is None else Command.read(text, seconds)


def read_prices(given: float | None, made: float | None) -> tuple[float, float] | None:
    if given is None and made is None:
        return None
    if given is None or made is None:
        raise Unreadable("one price is missing", fix="give --price-in and --price-out")
    return given, made


def read_judge(url: str | None, model: str | None, key: str | None) -> tuple[str, str, str | None] | None:
    if url is None and model is None:
        return None
    if url is None or model is None:
        raise Unreadable("a judge has an address and a model", fix="give --judge-url and --judge-model")
    if not url.startswith(("http://", "https://")):
        raise Unreadable(f"the judge's address {url[:80]!r} is not an http or https address")
    return url, model, key
