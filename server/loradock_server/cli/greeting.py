"""What a person sees while `loradock serve` starts: a line per step, then three lines to paste."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import time
from pathlib import Path

import httpx
from rich.console import Console
from rich.text import Text

from loradock_server.cli.client import AdminClient, adapter_path
from loradock_server.cli.connection import Connection
from loradock_server.cli.errors import NotDone, ServerRefused
from loradock_server.cli.follow import followed
from loradock_server.cli.output import Output
from loradock_server.cli.upload import open_adapter
from loradock_server.engine.vllm_versions import start_message

POLL_SECONDS = 0.25


class Steps:
    """Progress of the start: a line per step, with the seconds since it began."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._began = time.monotonic()

    def done(self, text: str) -> None:
        seconds = time.monotonic() - self._began
        self._console.print(Text(f"  {seconds:6.1f} s  ", "dim") + Text(text), soft_wrap=True)

    def lines(self, *lines: str) -> None:
        for line in lines:
            self._console.print(Text(line), soft_wrap=True)


class Greeting:
    """From the first healthy answer to the lines that a newcomer can paste."""

    def __init__(self, connection: Connection, steps: Steps, *, engine_first: bool) -> None:
        """`engine_first`: nothing can be registered without an engine."""
        self._connection = connection
        self._steps = steps
        self._engine_first = engine_first

    async def run(self, adapters_from: Path | None) -> None:
        """Raises CommandError when an adapter is refused. Never ends when the engine does not start."""
        adapters = await asyncio.to_thread(example_adapters, adapters_from)
        headers = {"authorization": f"Bearer {self._connection.key}"}
        async with httpx.AsyncClient(base_url=self._connection.url, headers=headers, trust_env=False) as client:
            if self._engine_first:
                await self._until_ready(client)
            for name, folder in adapters:
                self._steps.done(await asyncio.to_thread(register, self._connection, name, folder))
            await self._until_ready(client)
            self._steps.done(f"engine ready: {start_message()}")
            models = (await client.get("/v1/models")).json()["data"]
        self._steps.lines(*self._to_paste([model["id"] for model in models]))

    async def _until_ready(self, client: httpx.AsyncClient) -> None:
        while (await client.get("/readyz")).status_code != httpx.codes.OK:  # noqa: ASYNC110  # HTTP has no event for it
            await asyncio.sleep(POLL_SECONDS)

    def _to_paste(self, models: list[str]) -> list[str]:
        base, *adapters = models
        model = adapters[0] if adapters else base
        url, key_file = self._connection.url, shown(self._connection.key_file or Path())
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "turn on the kitchen lights"}]})
        program = (  # double quotes only: the shell takes it between single ones
            f'from openai import OpenAI; client = OpenAI(base_url="{url}/v1", api_key=open("{key_file}").read()); '
            f"print(client.chat.completions.create(**{body}).choices[0].message.content)"
        )
        adapters_said = f" and {len(adapters)} adapters: {', '.join(adapters)}" if adapters else ""
        return [
            "",
            f"  LoRADock serves {base}{adapters_said}",
            f"  at {url}/v1 (Ctrl-C stops it). Three lines to paste:",
            "",
            f'  curl {url}/v1/chat/completions -H "Authorization: Bearer $(cat {key_file})"'
            f" -H 'Content-Type: application/json' -d '{body}'",
            "",
            f"  {command('python')} -c '{program}'",
            "",
            f"  {command('loradock')} adapters register my-adapter ./my-peft-folder",
            "",
        ]


def example_adapters(folder: Path | None) -> list[tuple[str, Path]]:
    """(name, PEFT folder) for every NAME/adapter/ below `folder`, in order of name. Raises NotDone."""
    if folder is None:
        return []
    if not folder.is_dir():
        raise NotDone(f"--adapters-from {folder} is not a folder")
    return sorted((path.parent.parent.name, path.parent) for path in folder.glob("*/adapter/adapter_config.json"))


def register(connection: Connection, name: str, folder: Path) -> str:
    """Upload a PEFT folder as a version of `name`; returns a line about it. Raises CommandError."""
    with AdminClient(connection) as client, open_adapter(folder) as adapter:
        target = f"{adapter_path(name)}/versions"
        try:
            said = followed(client, client.upload(target, adapter.parts(lambda count: None)), Output(as_json=True))
        except ServerRefused as error:
            if error.body.get("code") != "promotion_refused":
                raise
            return f"adapter {name} is registered and not live: {error.message}"
    verb = "registered" if said["created"] else "is registered"
    return f"adapter {said['id']} {verb} (sha256 {str(said['digest'])[:12]})"


def command(name: str) -> str:
    """How to call a program of this environment from here: by name if the shell finds it, else by path."""
    ours = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    return name if found is not None and Path(found).samefile(ours) else shown(ours)


def shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
