"""A source's address, parsed once and strictly: what two readers could read in two ways is refused.

So an allow-list compares what is really asked for, and a log shows what was really asked for. It fetches nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

from loradock_adapters.errors import SourceInvalid

HUB = "hf"
WEB = frozenset({"http", "https"})
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LONGEST = 4096
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)  # one letter is a drive, not a scheme
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]")
_AUTHORITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")
_USER = re.compile(r"//[^/]*@")
_SHA256 = re.compile(r"sha256=([0-9a-f]{64})")
_EXAMPLES = "as in hf://org/repo@revision, https://host/adapter.tar.gz or s3://bucket/folder"
# fsspec's ways to put one file system inside another, and to this machine's own files.
_INDIRECT = frozenset(
    {
        *("file", "local", "memory", "data", "dir", "dirfs", "reference", "generic", "async_wrapper", "cached"),
        *("simplecache", "filecache", "blockcache", "zip", "tar", "libarchive", "lakefs", "jupyter", "jlab", "dask"),
    }
)


@dataclass(frozen=True, slots=True)
class SourceUri:
    """`scheme://authority/segments…`, in one spelling only.

    The authority is host and port of a web address, the bucket, or the hub's organisation. `path` and `query` are for
    web requests, as they were written; `revision` is the hub's; `sha256` is what an archive's bytes must have.
    """

    scheme: str
    authority: str
    segments: tuple[str, ...] = ()
    revision: str | None = None
    path: str = ""
    query: str = ""
    sha256: str | None = None

    def __str__(self) -> str:
        """Fit for logs and the registry: without the query, which may be a signature."""
        revision = f"@{self.revision}" if self.revision else ""
        if self.scheme == HUB:
            repo, *below = self.segments or ("",)
            return "/".join((f"{HUB}://{self.authority}", f"{repo}{revision}", *below))
        return "/".join((f"{self.scheme}://{self.authority}", *self.segments))

    @property
    def url(self) -> str:
        """For a web request."""
        return f"{self.scheme}://{self.authority}{self.path}" + (f"?{self.query}" if self.query else "")

    def at(self, revision: str) -> SourceUri:
        """The same at another revision."""
        return replace(self, revision=revision)


def scheme_of(source: str) -> str | None:
    """The scheme of a URI, in lower case; None for a path."""
    found = _SCHEME.match(source)
    return found[1].lower() if found else None


def parse_uri(text: str) -> SourceUri:
    """Raises SourceInvalid."""
    uri = _parse(text, whole=True)
    if uri.scheme == HUB and len(uri.segments) < 1:
        raise _invalid(text, "a hub address names organisation and repository", "write hf://org/repo@revision")
    if uri.scheme in WEB and not uri.segments:
        raise _invalid(text, "a web address names a file", "write https://host/adapter.tar.gz")
    return uri


def parse_prefix(text: str) -> SourceUri:
    """An entry of an allow-list: a URI, or how URIs may begin. Raises SourceInvalid."""
    uri = _parse(text, whole=False)
    if uri.scheme in WEB and not uri.authority:
        raise _invalid(
            text,
            "it would open every host, those of your own network too",
            f"name the host: {uri.scheme}://models.example.com/",
        )
    if uri.query or uri.sha256:
        raise _invalid(text, "a prefix has no query and no checksum", "leave them out")
    return uri


def _parse(text: str, *, whole: bool) -> SourceUri:
    if len(text) > _LONGEST:
        raise _invalid(text[:80], f"it has {len(text)} characters; at most {_LONGEST} are taken", "")
    # urlsplit drops tabs and line ends, and so would read another address than is written here.
    if not text.isprintable() or " " in text or "\\" in text:
        raise _invalid(text, "a URI has no spaces, backslashes or control characters", "write them percent-encoded")
    found = _SCHEME.match(text)
    if not found or not found[2].startswith("//") or "::" in text.partition("[")[0]:
        raise _invalid(text, "it is no URI of the form scheme://…", _EXAMPLES)
    scheme = found[1].lower()
    if scheme in _INDIRECT:
        raise _invalid(text, f"{scheme}:// leads to other file systems or to the machine's own", _EXAMPLES)
    try:
        parts = urlsplit(text)
        authority = _web_authority(text, scheme) if scheme in WEB and parts.netloc else parts.netloc
    except SourceInvalid:
        raise
    except ValueError as error:
        raise _invalid(text, str(error), _EXAMPLES) from error
    if scheme not in WEB and authority and not _AUTHORITY.fullmatch(authority):
        raise _invalid(text, f"{authority[:80]!r} is no name of a bucket or organisation", _EXAMPLES)
    if not authority and (whole or parts.path not in ("", "/")):
        raise _invalid(text, "it names no host, bucket or organisation", _EXAMPLES)
    if parts.query and scheme not in WEB:
        raise _invalid(text, "only web addresses have a query", "leave out what follows the question mark")
    sha256 = _SHA256.fullmatch(parts.fragment)
    if parts.fragment and not sha256:
        raise _invalid(text, "after # only sha256= and 64 hexadecimal digits are taken", "leave it out, or complete it")
    raw = parts.path.removeprefix("/").removesuffix("/")
    first, *rest = raw.split("/") if raw else [""]
    first, revision = _revision(first, text) if scheme == HUB else (first, None)
    segments = tuple(_segment(part, scheme, text) for part in (first, *rest)) if raw else ()
    digest = sha256[1] if sha256 else None
    return SourceUri(scheme, authority, segments, revision, parts.path, parts.query, digest)


def _revision(part: str, text: str) -> tuple[str, str | None]:
    """A hub's repository, and what it is wanted at; None without @."""
    repo, at, written = part.partition("@")
    revision = unquote(written)
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise _invalid(
            text, f"{written[:80]!r} after @ is no branch, tag or commit", "leave out @ too, or write a slash as %2F"
        )
    return repo, revision if at else None


def _web_authority(text: str, scheme: str) -> str:
    parts = urlsplit(text)
    if "@" in parts.netloc:
        raise _invalid(text, "it holds a user or a password, which would end up in logs", "leave them out")
    host, port = parts.netloc.lower(), parts.port
    host = host.rpartition(":")[0] if port is not None or host.endswith(":") else host
    if not _HOST.fullmatch(host) or ".." in host:
        raise _invalid(text, f"{host[:80]!r} is no host name", "write it in ASCII, without a dot at its end")
    return host if port in (None, _DEFAULT_PORTS[scheme]) else f"{host}:{port}"


def _segment(part: str, scheme: str, text: str) -> str:
    """One step of the path. A web server decodes it; elsewhere it is a name, letter by letter."""
    plain = unquote(part) if scheme in WEB else part
    if plain in ("", ".", "..") or "/" in plain or "\\" in plain or "%" in plain or not plain.isprintable():
        raise _invalid(text, f"{part[:80]!r} in its path could be read in two ways", "write the plain path")
    return plain


def _invalid(text: str, limit: str, fix: str) -> SourceInvalid:
    # A query may be a signature, and what comes before @ a password.
    harmless = _USER.sub("//…@", text.partition("?")[0])[:200]
    return SourceInvalid(f"the source {ascii(harmless)} cannot be used", limit, fix)
