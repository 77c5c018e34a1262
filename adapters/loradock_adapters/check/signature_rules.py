"""Who signed the adapter: a signature that is there must hold, and where the server demands one, its key is known.

It hashes the files only when a signature is there.
"""

from __future__ import annotations

from pathlib import Path

from loradock_adapters.check.codes import Code, NoteCode
from loradock_adapters.check.findings import Findings, listed
from loradock_adapters.check.limits import Limits
from loradock_adapters.peft_folder import SIGNATURE_FILE
from loradock_adapters.signing import Signature, adapter_digest, read_signature, signer_of


def check_signature(folder: Path, limits: Limits, findings: Findings) -> None:
    """Raises AdapterUnreadable for a signature file that is not sound."""
    signature = read_signature(folder)
    if signature is None:
        if limits.require_signature:
            findings.fault(
                Code.UNSIGNED, SIGNATURE_FILE, "the file is missing", f"this server serves what {_who(limits)} signed"
            )
        return
    digest = adapter_digest(folder)
    if not signature.holds_for(digest):
        findings.fault(
            Code.BAD_SIGNATURE,
            SIGNATURE_FILE,
            f"the signature does not hold for these files (sha256 {digest[:12]}…)",
            "it must be over the digest of the adapter's files, by the key it names",
        )
    elif signer_of(signature, limits.trusted_keys) is None:
        _unknown_signer(signature, limits, findings)


def _unknown_signer(signature: Signature, limits: Limits, findings: Findings) -> None:
    if limits.require_signature:
        findings.fault(
            Code.UNKNOWN_SIGNER,
            SIGNATURE_FILE,
            f"signed with the key {signature.key_text}",
            f"this server serves what {_who(limits)} signed",
        )
    else:
        findings.note(NoteCode.OTHER_SIGNER, f"signed with a key that this server does not know: {signature.key_text}")


def _who(limits: Limits) -> str:
    return listed([key.name for key in limits.trusted_keys]) or "nobody (LORADOCK_TRUSTED_KEYS is empty)"
