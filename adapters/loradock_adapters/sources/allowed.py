"""Which addresses may be fetched: an operator's list of beginnings, compared part by part and never letter by letter.

It is asked about every address that would be contacted for a client, each redirect too. Where names lead (DNS) it
does not look: who opens a host trusts it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from loradock_adapters.errors import SourceForbidden
from loradock_adapters.sources.uri import SourceUri, parse_prefix


@dataclass(frozen=True, slots=True)
class AllowList:
    """Prefixes that are open; None opens everything, for people on their own machine."""

    prefixes: tuple[SourceUri, ...] | None

    @classmethod
    def of(cls, prefixes: Iterable[str]) -> Self:
        """From an operator's strings, for instance "hf://my-org" or "s3://bucket/adapters". Raises SourceInvalid."""
        return cls(tuple(parse_prefix(text) for text in prefixes))

    @classmethod
    def everything(cls) -> Self:
        return cls(None)

    def require(self, uri: SourceUri, *, why: str = "") -> None:
        """Raises SourceForbidden; `why` says how this address came up, if not by the client's own words."""
        if self.prefixes is None or any(_covers(prefix, uri) for prefix in self.prefixes):
            return
        listed = ", ".join(str(prefix) for prefix in self.prefixes) or "nothing"
        raise SourceForbidden(
            f"the source {ascii(str(uri)[:200])}{why} is not open here",
            f"LORADOCK_SOURCE_PREFIXES opens {listed}",
            "fetch it on your own machine and upload it (loradock adapters register … --fetch-here), "
            "or have the operator add it",
        )


def _covers(prefix: SourceUri, uri: SourceUri) -> bool:
    return (
        prefix.scheme == uri.scheme
        and prefix.authority in ("", uri.authority)
        and uri.segments[: len(prefix.segments)] == prefix.segments
        and prefix.revision in (None, uri.revision)
    )
