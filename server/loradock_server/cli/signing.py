"""`loradock adapters keygen` and `sign`: a trainer's key, and the trainer's word for an adapter, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loradock_adapters.signing import PUBLIC_SUFFIX, make_key, read_key, write_signature
from loradock_server.cli.errors import NotDone
from loradock_server.cli.options import AsJson
from loradock_server.cli.output import answering, fields
from loradock_server.cli.upload import require_folder


def keygen(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where the private key goes; the public one: FILE.pub.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Whose key it is, as servers are to show it.")],
    as_json: AsJson = False,
) -> None:
    """Make a key pair for signing adapters.

    The private key stays with whoever trains; its file is readable for its owner only, and has no password. Servers
    get the public one, in LORADOCK_TRUSTED_KEYS.
    """
    with answering(as_json) as output:
        try:
            key = make_key(path, name)
        except FileExistsError as error:
            raise NotDone(
                f"{error.filename} exists; a key is never overwritten", fix="name another file, or move this one away"
            ) from error
        except OSError as error:
            raise NotDone(f"{path} cannot be written: {error.strerror or error}") from error
        public = path.with_name(path.name + PUBLIC_SUFFIX)
        written = {"private_key": str(path), "public_key": str(public)}
        output.document({"name": name, **written, "trusted_key": key.text})
        output.say(fields({"private key": path, "public key": public, "signer": name}))
        output.hint(
            f"loradock adapters sign PATH --key {path}",
            f"LORADOCK_REQUIRE_SIGNATURE=true LORADOCK_TRUSTED_KEYS='{key.text}' loradock serve",
        )


def sign(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder that PEFT's save_pretrained wrote.")],
    key: Annotated[Path, typer.Option("--key", metavar="KEY", help="The private key, as keygen wrote it.")],
    as_json: AsJson = False,
) -> None:
    """Sign an adapter folder: signature.json, beside its files.

    What is signed is the digest of the adapter's own files, so any change to them afterwards shows. An older signature
    is replaced.
    """
    with answering(as_json) as output:
        require_folder(path)
        private = read_key(key)
        try:
            digest, signature = write_signature(path, private)
        except OSError as error:
            raise NotDone(f"signature.json cannot be written in {path}: {error.strerror or error}") from error
        output.document({"path": str(path), "digest": digest, "public_key": signature.key_text})
        output.say(f"signed {path}", fields({"digest": f"sha256:{digest}", "public key": signature.key_text}))
        output.hint(f"loradock adapters register NAME {path}")
