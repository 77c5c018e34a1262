"""Paths on this machine: a folder is read where it lies, an archive is unpacked.

Whoever serves paths that others name gives `roots`: then only what lies below one of them counts, by where links lead.
"""

from __future__ import annotations

from pathlib import Path

from loradock_adapters.errors import SourceForbidden, SourceMissing
from loradock_adapters.sources.archive import SUFFIXES, has_archive_name


def local_source(source: str, roots: tuple[Path, ...] | None) -> Path:
    """The folder, or the archive file. Raises SourceMissing; with `roots`, SourceForbidden. Blocks."""
    path = Path(source) if roots is not None else Path(source).expanduser()
    if roots is not None:
        path = _below(source, roots)
    try:
        there = path.exists()
    except (OSError, ValueError):  # a name too long, a zero byte
        there = False
    if there and (path.is_dir() or (path.is_file() and has_archive_name(path.name))):
        return path
    if there:
        raise SourceMissing(
            f"{ascii(source[:200])} is no folder and no archive",
            f"archives end in {', '.join(SUFFIXES)}",
            "give the folder that PEFT's save_pretrained wrote, or pack it: tar -czf adapter.tar.gz -C FOLDER .",
        )
    raise SourceMissing(
        f"{ascii(source[:200])} does not exist", "", "give the folder that PEFT's save_pretrained wrote"
    )


def _below(source: str, roots: tuple[Path, ...]) -> Path:
    opened = [root.resolve() for root in roots]
    if not opened:
        raise SourceForbidden(
            f"the source {ascii(source[:200])} is a path",
            "this server takes no paths",
            "upload the files, or set LORADOCK_SOURCE_ROOTS",
        )
    try:
        path = Path(source).resolve()
        there = path.is_dir() or (path.is_file() and has_archive_name(path.name))
    except (OSError, ValueError, RuntimeError):  # names too long, zero bytes, links in a circle
        there = False
    # One answer for all of it: what exists outside the roots is nobody's business.
    if not there or not Path(source).is_absolute() or not _inside(path, opened):
        raise SourceForbidden(
            f"the source {ascii(source[:200])} is not open here",
            "a path is absolute and names a folder or an archive below " + " or ".join(str(root) for root in roots),
            "correct it, or upload the files",
        )
    if path.is_dir():
        for entry in path.iterdir():
            if not _inside(entry.resolve(), opened):
                raise SourceForbidden(
                    f"{ascii(entry.name[:80])} in the source is a link",
                    "it leads out of the allowed folders",
                    "copy the file",
                )
    return path


def _inside(path: Path, roots: list[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)
