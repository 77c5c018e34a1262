"""Which files there must be and may be: complete, of a bearable size, and no pickle under any name.

It opens the adapter's own files for their first bytes only; the others it knows by name.
"""

from __future__ import annotations

from pathlib import Path

from loradock_adapters.check.codes import Code, NoteCode
from loradock_adapters.check.findings import Findings, listed
from loradock_adapters.check.limits import Limits
from loradock_adapters.errors import AdapterMalformed, AdapterUnreadable
from loradock_adapters.files import open_regular
from loradock_adapters.peft_folder import JUDGED_FILES, PICKLED_WEIGHTS, REQUIRED_FILES, WEIGHTS_FILE
from loradock_adapters.safetensors_header import MAX_HEADER_BYTES

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill")


def check_files(folder: Path, files: tuple[str, ...], ignored: tuple[str, ...], findings: Findings) -> frozenset[str]:
    """Write down what is missing, pickled or left out; return the files that are fit to be read."""
    pickled = next((name for name in PICKLED_WEIGHTS if name in ignored), None)
    for name in REQUIRED_FILES:
        if name in files:
            continue
        if name == WEIGHTS_FILE and pickled:
            findings.fault(
                Code.PICKLE, pickled, "the only weights are a pickle", "weights are read from safetensors only"
            )
        else:
            findings.fault(Code.MISSING_FILE, name, "the file is missing", "it is required")
    disguised = {name for name in files if _is_pickle(folder / name)}
    for name in sorted(disguised):
        findings.fault(
            Code.PICKLE,
            name,
            "the file is a pickle under another name",
            "weights are read from safetensors only, and the rest is text",
            "save the adapter again with PEFT's save_pretrained, and trust no other file from there",
        )
    beside = [name for name in ignored if name.lower().endswith(PICKLE_SUFFIXES)]
    if beside:
        findings.note(NoteCode.PICKLE_BESIDE, f"pickles are left out, unopened: {listed(beside)}")
    others = [name for name in ignored if name not in beside and name not in JUDGED_FILES]
    if others:
        findings.note(NoteCode.OTHER_FILES, f"files that are not part of an adapter are left out: {listed(others)}")
    return frozenset(files) - disguised


def check_size(folder: Path, size: int, limits: Limits, findings: Findings) -> bool:
    """Whether the files together, `size` bytes, are within the limit."""
    if size > limits.max_bytes:
        findings.fault(Code.TOO_LARGE, folder.name, f"{size} bytes", f"this server allows {limits.max_bytes}")
    return size <= limits.max_bytes


def write_down(error: AdapterUnreadable, findings: Findings) -> None:
    """A file that could not be read, or not as what it should be."""
    text = str(error).removeprefix(f"{error.where}: ")
    if not isinstance(error, AdapterMalformed):
        findings.fault(Code.UNREADABLE, error.where, text, "the file must be readable")
    elif error.where.endswith(".json"):
        findings.fault(Code.BAD_JSON, error.where, text, "one JSON object, read strictly")
    else:
        findings.fault(Code.BAD_SAFETENSORS, error.where, text, "a header that fits the file to the byte")


def _is_pickle(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            start = file.read(8)
    except OSError:
        return False  # whoever reads it says so
    # torch.save's archive, and the pickle protocols that begin with a byte of their own. Read as safetensors, either
    # claims a header too long to be believed, which a real file with such first bytes does not.
    marked = start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))
    return marked and int.from_bytes(start, "little") > MAX_HEADER_BYTES
