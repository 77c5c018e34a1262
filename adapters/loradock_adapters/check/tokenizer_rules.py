"""The tokenizer files beside an adapter: what they say about its training that the base model's tokenizer denies.

The base model's tokenizer and chat template are what is served; these files are judged, never used nor stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check.codes import Code, NoteCode
from loradock_adapters.check.findings import Findings, listed
from loradock_adapters.files import read_capped
from loradock_adapters.peft_folder import ADDED_TOKENS_FILE, TEMPLATE_FILE, TOKENIZER_CONFIG_FILE
from loradock_adapters.strict_json import parse_object

_MAX_BYTES = 8 << 20
_MAX_BASE_BYTES = 128 << 20  # tokenizer.json of a large vocabulary has some ten megabytes
# Markers for the loss mask that trainers put into templates; they render nothing.
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


def check_tokenizer(folder: Path, base: BaseModel, findings: Findings) -> None:
    """Compare what is there; files that cannot be read are passed over, since they are not served."""
    config = _object(folder / TOKENIZER_CONFIG_FILE)
    template, served = _template(folder, config), _template(base.folder, _object(base.folder / TOKENIZER_CONFIG_FILE))
    if template is not None and template != served:
        findings.note(
            NoteCode.OTHER_CHAT_TEMPLATE,
            "the chat template beside the adapter is not the base model's, which is what is served: "
            + ("the base model has none" if served is None else "train with that one, or expect other prompts"),
        )
    tokens = _added(folder, config)
    if extra := sorted(tokens.keys() - {_content(config.get("pad_token"))} - _known(base, tokens)):
        findings.fault(
            Code.ADDED_TOKENS,
            ADDED_TOKENS_FILE if (folder / ADDED_TOKENS_FILE).exists() else TOKENIZER_CONFIG_FILE,
            f"{len(extra)} tokens of its own: {listed(extra, 5)}",
            f"{base.name}'s tokenizer does not have them",
        )


def _added(folder: Path, config: Mapping[str, Any]) -> dict[str, int]:
    """Token to number, of all that were ever added to the vocabulary."""
    found = {text: number for text, number in _object(folder / ADDED_TOKENS_FILE).items() if type(number) is int}
    decoder = config.get("added_tokens_decoder")
    for number, entry in decoder.items() if isinstance(decoder, dict) else ():
        if (text := _content(entry)) and number.isdecimal() and len(number) < 10:
            found[text] = int(number)
    return found


def _known(base: BaseModel, tokens: Mapping[str, int]) -> set[str]:
    """Those of the tokens that the base model's tokenizer has under the same number."""
    ours = _added(base.folder, _object(base.folder / TOKENIZER_CONFIG_FILE))
    if tokens.items() - ours.items():
        whole = _object(base.folder / "tokenizer.json", _MAX_BASE_BYTES)
        if not whole and not ours:  # nothing to compare with but the size of the embeddings
            return {text for text, number in tokens.items() if number < base.vocab_size}
        model, added = whole.get("model"), whole.get("added_tokens")
        if isinstance(model, dict) and isinstance(model.get("vocab"), dict):
            ours |= model["vocab"]
        if isinstance(added, list):
            ours |= {_content(entry): entry.get("id", -1) for entry in added if isinstance(entry, dict)}
    return {text for text, number in tokens.items() if ours.get(text) == number}


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    try:
        text: Any = read_capped(folder / TEMPLATE_FILE, _MAX_BYTES).decode()
    except (OSError, UnicodeDecodeError):
        text = config.get("chat_template")
    if isinstance(text, list):
        named = {entry.get("name"): entry.get("template") for entry in text if isinstance(entry, dict)}
        text = named.get("default")
    return _GENERATION.sub("", text).strip() if isinstance(text, str) else None


def _content(token: Any) -> str:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _object(path: Path, limit: int = _MAX_BYTES) -> dict[str, Any]:
    try:
        return parse_object(read_capped(path, limit))
    except (OSError, ValueError):
        return {}
