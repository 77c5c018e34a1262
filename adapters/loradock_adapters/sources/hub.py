"""hf://org/repo@revision/folder: an adapter's files from a model hub, through huggingface_hub.

The token comes from the environment (HF_TOKEN) only, never from a login on this machine; HF_ENDPOINT names another
hub. Nothing is left in the library's cache.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from tqdm import tqdm

from loradock_adapters.errors import SourceInvalid, SourceMissing, SourceUnavailable
from loradock_adapters.files import open_regular
from loradock_adapters.sources.members import CHUNK_BYTES
from loradock_adapters.sources.retries import Passing, persistently
from loradock_adapters.sources.selection import adapter_names
from loradock_adapters.sources.transfer import Transfer
from loradock_adapters.sources.uri import SourceUri

_ANSWER_SECONDS = 10.0
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})


def fetch_from_hub(uri: SourceUri, scratch: Path, transfer: Transfer, *, pickles: bool) -> tuple[Path, str]:
    """The folder with the files, and the address with the commit. Raises SourceRefused in one of its forms."""
    hub = _Hub(os.environ.get("HF_ENDPOINT") or None, os.environ.get("HF_TOKEN") or False, uri, scratch, transfer)
    with _explained(uri, transfer):
        commit, siblings = persistently(hub.look, transfer)
        there = _inside(siblings, "/".join(uri.segments[1:]))
        names = adapter_names(there, str(uri), pickles=pickles)
        transfer.expect(sum(there[name].size or 0 for name in names))
        folder = scratch / "adapter"
        folder.mkdir()
        for name in names:
            persistently(lambda name=name: hub.download(there[name], commit, folder / name), transfer)  # type: ignore[misc]
    return folder, str(uri.at(commit))


@dataclass(frozen=True, slots=True)
class _Hub:
    endpoint: str | None
    token: str | bool
    uri: SourceUri
    scratch: Path
    transfer: Transfer

    @property
    def repo(self) -> str:
        return f"{self.uri.authority}/{self.uri.segments[0]}"

    def look(self) -> tuple[str, list[RepoSibling]]:
        """The commit that the revision is now, and all files in it. Raises Passing."""
        api = HfApi(endpoint=self.endpoint, token=self.token)
        with _passing():
            info = api.model_info(self.repo, revision=self.uri.revision, files_metadata=True, timeout=_ANSWER_SECONDS)
        if not info.sha or not _COMMIT.fullmatch(info.sha):
            raise SourceUnavailable(f"{self.uri} names no commit", "the hub must say which it is", "name one after @")
        return info.sha, info.siblings or []

    def download(self, file: RepoSibling, commit: str, target: Path) -> None:
        """One file, compared with the hash that the hub announced. Raises Passing."""
        before = self.transfer.done
        with _passing():
            fetched = hf_hub_download(
                self.repo,
                file.rfilename,
                revision=commit,
                local_dir=self.scratch / "hub",
                cache_dir=self.scratch / "cache",
                token=self.token,
                endpoint=self.endpoint,
                etag_timeout=_ANSWER_SECONDS,
                tqdm_class=_bar(self.transfer),
            )
        path = Path(fetched)
        self.transfer.rewind(before)
        self.transfer.advance(path.stat().st_size)
        if not _is_announced(path, file):
            path.unlink()
            self.transfer.rewind(before)
            raise Passing(f"{file.rfilename} has other bytes than the hub announced")
        path.rename(target)


def _inside(siblings: list[RepoSibling], folder: str) -> dict[str, RepoSibling]:
    """The files directly in a folder of the repository, by plain name."""
    prefix = f"{folder}/" if folder else ""
    return {
        file.rfilename.removeprefix(prefix): file
        for file in siblings
        if file.rfilename.startswith(prefix) and "/" not in file.rfilename.removeprefix(prefix)
    }


def _is_announced(path: Path, file: RepoSibling) -> bool:
    """Large files have a sha256, others the name that git gives their bytes."""
    with open_regular(path) as opened:
        if file.lfs is not None:
            return hashlib.file_digest(opened, "sha256").hexdigest() == file.lfs.sha256
        blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        while piece := opened.read(CHUNK_BYTES):
            blob.update(piece)
    return file.blob_id is None or blob.hexdigest() == file.blob_id


def _bar(transfer: Transfer) -> Any:
    """A tqdm class that tells our own progress, and so ends a download that has to end."""

    class Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*arguments, **options | {"disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            transfer.advance(int(n or 0))
            return None

        # Where the hub keeps a file in chunks (Xet), it tells of the same bytes twice: as received and as written.
        # With these two there is one bar for both, and only what is written counts.
        def update_transfer(self, n: float | None = 1) -> None:
            transfer.check()

        def set_transfer_postfix_str(self, s: str = "", refresh: bool = True) -> None:
            return

    return Bar


@contextmanager
def _passing() -> Iterator[None]:
    """Turn what may work the next time into Passing."""
    try:
        yield
    except (httpx.TransportError, LocalEntryNotFoundError) as error:
        raise Passing(str(error.__cause__ or error)[:200] or type(error).__name__) from error
    except HfHubHTTPError as error:
        if error.response.status_code in _PASSING_STATUS:
            raise Passing(f"the hub answered {error.response.status_code}") from error
        raise


@contextmanager
def _explained(uri: SourceUri, transfer: Transfer) -> Iterator[None]:
    try:
        yield
    except RevisionNotFoundError as error:
        raise SourceMissing(f"{uri} is not there", f"the repository has no revision {uri.revision!r}", "") from error
    except RepositoryNotFoundError as error:
        raise SourceMissing(
            f"{uri} is not there", "the hub shows no such repository", "correct it; a private one needs HF_TOKEN"
        ) from error
    except HFValidationError as error:
        raise SourceInvalid(f"the source {uri} cannot be used", str(error)[:200], "correct the name") from error
    except OfflineModeIsEnabled as error:
        raise SourceUnavailable(f"{uri} cannot be fetched", "HF_HUB_OFFLINE is set", "unset it") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise SourceUnavailable(
            f"{uri} cannot be fetched", f"the hub answered {status}", "a gated or private one needs HF_TOKEN"
        ) from error
