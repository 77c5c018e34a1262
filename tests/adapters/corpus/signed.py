"""Adapters somebody vouches for, or does not, as a server sees them that demands it of its trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from loradock_adapters.signing import SigningKey, TrustedKey, write_signature
from tests.adapters.corpus.case import Build, bad, good, lora
from tests.adapters.corpus.world import LIMITS, World, change_config

TRAINER, STRANGER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
TRUSTED = TrustedKey("trainer", TRAINER.public_key().public_bytes_raw())
STRICT = replace(LIMITS, require_signature=True, trusted_keys=(TRUSTED,))


def by(key: SigningKey, then: Callable[[Path], None] = lambda folder: None) -> Build:
    def build(world: World, folder: Path) -> None:
        lora()(world, folder)
        write_signature(folder, key)
        then(folder)

    return build


def changed(folder: Path) -> None:
    change_config(folder, lora_alpha=64)


SIGNED = (
    good("signed-by-the-trainer", by(TRAINER), limits=STRICT),
    good("signed-by-a-stranger-where-nobody-asks", by(STRANGER), "other_signer"),
    bad("not-signed", lora(), "unsigned", limits=STRICT),
    bad("signed-by-a-stranger", by(STRANGER), "unknown_signer", limits=STRICT),
    bad("changed-after-signing", by(TRAINER, changed), "bad_signature", limits=STRICT),
    bad("changed-after-signing-where-nobody-asks", by(TRAINER, changed), "bad_signature"),
)
