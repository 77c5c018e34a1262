"""Who vouches for an adapter's bytes: ed25519 signatures over the digest that names them.

The signature lies in `signature.json` beside the adapter's files and is none of them, so the digest it signs does not
change with it. What is signed begins with words of our own: no signature made for something else can be passed off as
one of these. Which keys are to be trusted, and whether a signature is demanded, others decide.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from loradock_adapters.digest import folder_digest
from loradock_adapters.errors import AdapterMalformed, BadSigningKey
from loradock_adapters.files import FileTooLarge, read_capped
from loradock_adapters.peft_folder import SIGNATURE_FILE, list_adapter_files, read_json

ALGORITHM = "ed25519"
SCHEMA = 1
PUBLIC_SUFFIX = ".pub"

SigningKey = Ed25519PrivateKey
"""A private key, as `read_key` gives it."""

_DOMAIN = b"loradock adapter signature 1\n"
_KEY_BYTES, _SIGNATURE_BYTES = 32, 64
_MAX_KEY_FILE_BYTES = 16 << 10
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SIGNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")


@dataclass(frozen=True, slots=True)
class Signature:
    """Somebody's word for one digest: 32 bytes of public key, 64 bytes of signature. It may be false."""

    public_key: bytes
    value: bytes

    def holds_for(self, digest: str) -> bool:
        """Whether the key's owner signed this digest."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(self.value, _message(digest))
        except (InvalidSignature, ValueError):
            return False
        return True

    @property
    def key_text(self) -> str:
        """The public key as people write it: base64."""
        return _to_text(self.public_key)

    @property
    def value_text(self) -> str:
        return _to_text(self.value)

    @property
    def text(self) -> str:
        """Both in one word, for a header or a column: `parse` reads it."""
        return f"{self.key_text}.{self.value_text}"

    @classmethod
    def parse(cls, text: str) -> Signature:
        """Raises ValueError."""
        key, _, value = text.partition(".")
        return cls(_of_length(key, _KEY_BYTES), _of_length(value, _SIGNATURE_BYTES))


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key, 32 bytes, and the name of who signs with it."""

    name: str
    public_key: bytes

    @classmethod
    def parse(cls, text: str) -> TrustedKey:
        """Read `name=base64`, as a .pub file has it. Raises ValueError."""
        name, _, key = text.strip().partition("=")
        if not _SIGNER.fullmatch(name):
            raise ValueError(
                f"{text[:80]!r} is no trusted key; write it as name=KEY, as loradock adapters keygen shows it"
            )
        try:
            return cls(name, _of_length(key, _KEY_BYTES))
        except ValueError as error:
            raise ValueError(f"the key of {name!r} is no ed25519 key in base64: {error}") from error

    @property
    def text(self) -> str:
        return f"{self.name}={_to_text(self.public_key)}"


def signer_of(signature: Signature, trusted: Iterable[TrustedKey]) -> str | None:
    """The trusted name behind a signature's key, None for a stranger. It does not say that the signature holds."""
    return next((key.name for key in trusted if key.public_key == signature.public_key), None)


def make_key(path: Path, name: str) -> TrustedKey:
    """Write a new private key (PEM, mode 0600) and beside it `path`.pub. Raises BadSigningKey, OSError."""
    if not _SIGNER.fullmatch(name):
        raise BadSigningKey(f"the signer's name {name[:80]!r} is not allowed; use 1 to 63 of a-z A-Z 0-9 . _ @ -")
    private = Ed25519PrivateKey.generate()
    public = TrustedKey(name, private.public_key().public_bytes_raw())
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Never over an old key: what was signed with that one could not be signed again.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    with path.with_name(path.name + PUBLIC_SUFFIX).open("x", encoding="utf-8") as file:
        file.write(public.text + "\n")
    return public


def read_key(path: Path) -> SigningKey:
    """The private key in a PEM file. Raises BadSigningKey."""
    try:
        key = serialization.load_pem_private_key(read_capped(path, _MAX_KEY_FILE_BYTES), password=None)
    except (OSError, FileTooLarge) as error:
        raise BadSigningKey(f"the key {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadSigningKey(
            f"{path} holds no private key in PEM without a password; make one with loradock adapters keygen"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadSigningKey(f"{path} holds another kind of key than ed25519; make one with loradock adapters keygen")
    return key


def sign_digest(digest: str, key: SigningKey) -> Signature:
    """Vouch for the bytes under a digest."""
    return Signature(key.public_key().public_bytes_raw(), key.sign(_message(digest)))


def sign_folder(folder: Path, key: SigningKey) -> tuple[str, Signature]:
    """The digest of the adapter in a folder, and the signature over it. Writes nothing. Raises AdapterUnreadable."""
    digest = adapter_digest(folder)
    return digest, sign_digest(digest, key)


def adapter_digest(folder: Path) -> str:
    """The digest that the adapter in a folder has once it is stored: over its own files. Raises AdapterUnreadable."""
    files, _ = list_adapter_files(folder)
    try:
        return folder_digest(folder, files)
    except OSError as error:
        raise AdapterMalformed(error.strerror or str(error), where=str(folder)) from error


def document(digest: str, signature: Signature) -> bytes:
    """signature.json. The digest is there for people: verifying never takes it from the file."""
    fields = {
        "schema": SCHEMA,
        "algorithm": ALGORITHM,
        "digest": f"sha256:{digest}",
        "public_key": signature.key_text,
        "signature": signature.value_text,
    }
    return (json.dumps(fields, indent=2) + "\n").encode()


def write_signature(folder: Path, key: SigningKey) -> tuple[str, Signature]:
    """Sign the adapter in a folder, in signature.json there, over an older one. Raises AdapterUnreadable, OSError."""
    digest, signature = sign_folder(folder, key)
    growing = folder / f".{SIGNATURE_FILE}.{os.getpid()}"
    try:
        growing.write_bytes(document(digest, signature))
        growing.replace(folder / SIGNATURE_FILE)
    finally:
        growing.unlink(missing_ok=True)
    return digest, signature


def read_signature(folder: Path) -> Signature | None:
    """What signature.json says, None where there is none. Raises AdapterUnreadable, AdapterMalformed."""
    path = folder / SIGNATURE_FILE
    if not os.path.lexists(path):
        return None
    fields = read_json(path)
    if fields.get("schema") != SCHEMA or fields.get("algorithm") != ALGORITHM:
        raise AdapterMalformed(
            f"schema {str(fields.get('schema'))[:20]!r} with algorithm {str(fields.get('algorithm'))[:40]!r} is "
            f"unknown here; {SCHEMA} with {ALGORITHM!r} is known",
            where=SIGNATURE_FILE,
        )
    try:
        return Signature.parse(f"{fields.get('public_key')}.{fields.get('signature')}")
    except ValueError as error:
        raise AdapterMalformed(f"public_key or signature: {error}", where=SIGNATURE_FILE) from error


def _message(digest: str) -> bytes:
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"{digest[:80]!r} is no digest; one is 64 hexadecimal digits")
    return _DOMAIN + digest.encode()


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _of_length(text: str, length: int) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64") from error
    if len(data) != length:
        raise ValueError(f"{len(data)} bytes, {length} are needed")
    return data
