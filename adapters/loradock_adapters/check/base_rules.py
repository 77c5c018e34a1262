"""Whether the adapter was trained on this base model, as far as its files say so.

A recorded digest is proof. A name is one only where both sides are hub ids: paths and folder names mean nothing to
anybody else. Owners are not compared, since mirrors are common; quantised copies of a model count as that model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check.codes import Code, NoteCode
from loradock_adapters.check.findings import Findings, shortened
from loradock_adapters.peft_folder import CONFIG_FILE, MANIFEST_FILE

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_QUANTISED = re.compile(
    r"-(?:unsloth-)?(?:bnb-)?(?:[2-8]bit|nf4|int[48]|fp8(?:-dynamic)?|gptq(?:-int[48]|-[2-8]bit)?|awq(?:-int4)?|gguf)$"
)
_VENDORS = ("meta-",)  # names that lost this when their hub was tidied: Meta-Llama-3.1-8B is Llama-3.1-8B


def check_base(named: str, manifest: Mapping[str, Any], base: BaseModel, findings: Findings) -> None:
    """`named` is the configuration's base_model_name_or_path, or empty."""
    if found := base.obstacle:
        findings.fault(Code.BASE_NOT_SERVED, base.name, found.reason, "no adapter of it can be served", found.fix)
    recorded = manifest.get("base")
    digest = recorded.get("digest") if isinstance(recorded, Mapping) else None
    if isinstance(digest, str) and base.digest:
        if digest == base.digest:
            return
        findings.fault(Code.BASE_DIGEST, MANIFEST_FILE, f"base.digest {digest}", f"{base.name} has {base.digest}")
    if named:
        _check_name(named, base, findings)


def _check_name(named: str, base: BaseModel, findings: Findings) -> None:
    ours = {_plain(name)[0] for name in (base.hub_id, base.name) if name}
    theirs, quantised = _plain(named)
    if theirs in ours:
        if quantised:
            findings.note(
                NoteCode.QUANTISED_BASE,
                f"trained on {shortened(named)!r}, a quantised copy of {base.name!r}: answers may differ slightly",
            )
    elif base.hub_id and _HUB_ID.fullmatch(named):
        findings.fault(
            Code.BASE_NAME,
            CONFIG_FILE,
            f"base_model_name_or_path is {shortened(named)!r}",
            f"the base model is {base.hub_id}",
        )
    else:
        findings.note(
            NoteCode.OTHER_BASE_NAME,
            f"the adapter names the base model {shortened(named)!r}, this is {base.hub_id or base.name!r}",
        )


def _plain(name: str) -> tuple[str, bool]:
    """The model's own name, and whether it was a quantised copy's."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2].casefold()
    for vendor in _VENDORS:
        last = last.removeprefix(vendor)
    plain = _QUANTISED.sub("", last)
    return plain, plain != last
