"""Flags that several commands share, each worded once."""

from __future__ import annotations

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Answer with one JSON document, for programs.")]
ServerUrl = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="LORADOCK_URL",
        show_envvar=True,
        metavar="URL",
        help="The server. Without it: the one that runs from this home folder, else port 8000 here. "
        "The key comes from LORADOCK_API_KEY, or by itself on the server's own machine.",
    ),
]
AdapterName = Annotated[str, typer.Argument(metavar="NAME", help="The adapter's name: a-z 0-9 . _ -")]
