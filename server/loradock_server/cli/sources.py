"""Sources on the command line: what a word names, and fetching it to this machine with a progress bar.

A person on their own machine may fetch anything from anywhere; only servers have an allow-list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from loradock_adapters.errors import SourceRefused
from loradock_adapters.sources import SourceLimits, SourceRules, fetched, has_archive_name, scheme_of
from loradock_server.cli.errors import Unreadable
from loradock_server.cli.output import Output
from loradock_server.cli.upload import require_folder
from loradock_server.cli.wording import printable

SOURCE_HELP = "Folder that PEFT's save_pretrained wrote, an archive of it (tar, tar.gz, zip), or a URI: hf, https, s3."


def is_uri(source: str) -> bool:
    return scheme_of(source) is not None


def is_archive(source: str) -> bool:
    """Whether it names an archive file on this machine."""
    return not is_uri(source) and has_archive_name(source) and Path(source).is_file()


@contextmanager
def transfer_bar(output: Output, verb: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar; gives what to call with the bytes done and the bytes in all."""
    columns = (TextColumn(verb), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with output.progress(*columns) as bar:
        yield _follow(bar, verb)


def _follow(bar: Progress, verb: str) -> Callable[[int, int | None], None]:
    task = bar.add_task(verb, total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def folder_of(source: str, limits: SourceLimits, output: Output, *, pickles: bool = False) -> Iterator[Path]:
    """The source as a folder on this machine until the block ends. Raises Unreadable."""
    if not is_uri(source) and not is_archive(source):
        require_folder(Path(source))
        yield Path(source)
        return
    with transfer_bar(output, "fetching") as progress:
        opened = fetched(source, SourceRules(limits=limits, pickles=pickles), progress=progress)
        try:
            got = opened.__enter__()
        except SourceRefused as error:
            what = "; ".join(part for part in (error.value, error.limit) if part)
            raise Unreadable(printable(what), fix=error.fix or None) from error
    try:
        yield got.folder
    finally:
        opened.__exit__(None, None, None)
