"""The `loradock` program: which commands there are. Imports none of them until one runs."""

from __future__ import annotations

from typing import Annotated

import typer

from loradock_server import __version__
from loradock_server.cli.lazy import Lazy, LazyGroup, examples, new_app

_SERVE = "Serve"
_MANAGE = "Manage a running server"
_MAKE = "Get models, make adapters"


class RootGroup(LazyGroup):
    """`loradock …`: everything heavy, so everything, is imported on use."""

    lazy_commands = {
        "serve": Lazy(
            "loradock_server.cli.serve:serve",
            "Run gateway and engine together on this machine.",
            _SERVE,
            examples("""
                loradock serve
                LORADOCK_HOME=/srv/loradock loradock serve --port 9000
            """),
        ),
        "gateway": Lazy(
            "loradock_server.cli.serve:gateway",
            "Run the gateway alone: keys, routing, admin, metrics.",
            _SERVE,
            examples("""
                LORADOCK_ENGINE_URL=http://10.0.0.7:8100 LORADOCK_ENGINE_TOKEN=$SECRET loradock gateway
            """),
        ),
        "engine": Lazy(
            "loradock_server.cli.serve:engine",
            "Run one engine alone: vLLM with on-demand adapters.",
            _SERVE,
            examples("""
                LORADOCK_ENGINE_URL=http://0.0.0.0:8100 LORADOCK_ENGINE_TOKEN=$SECRET loradock engine
            """),
        ),
        "adapters": Lazy(
            "loradock_server.cli.adapters:app",
            "Check, sign, register, list, show, promote, pull, pin, retire and delete adapters.",
            _MANAGE,
        ),
        "audit": Lazy(
            "loradock_server.cli.audit:audit",
            "Show who changed what, newest first.",
            _MANAGE,
            examples("""
                loradock audit
                loradock audit --adapter support-bot --json
            """),
        ),
        "gc": Lazy(
            "loradock_server.cli.gc:gc",
            "Remove bytes that no version refers to and no engine holds.",
            _MANAGE,
            examples("""
                loradock gc --dry-run
                loradock gc --grace 86400
            """),
        ),
        "doctor": Lazy(
            "loradock_server.cli.doctor:doctor",
            "Look for what is wrong between registry and store.",
            _MANAGE,
            examples("""
                loradock doctor
                loradock doctor --repair
                loradock doctor --downgrade-to 0002
            """),
        ),
        "backup": Lazy(
            "loradock_server.cli.backup:backup",
            "Copy registry and artifacts into a new folder, while the server runs.",
            _MANAGE,
            examples("""
                loradock backup /backups/loradock-monday
                loradock backup ./backup --home /srv/loradock --json
            """),
        ),
        "restore": Lazy(
            "loradock_server.cli.backup:restore",
            "Bring a backup into a home folder without a registry, and let the doctor look at it.",
            _MANAGE,
            examples("""
                loradock restore /backups/loradock-monday --home /srv/loradock-2
            """),
        ),
        "keys": Lazy("loradock_server.cli.keys:app", "Create, change, rotate and revoke API keys.", _MANAGE),
        "usage": Lazy(
            "loradock_server.cli.usage:app",
            "Show how many requests and tokens were used, by whom, and what they cost.",
            _MANAGE,
        ),
        "base": Lazy("loradock_server.cli.base:app", "Fetch the bundled base model.", _MAKE),
        "plan": Lazy(
            "loradock_server.cli.plan:plan",
            "Say what training and serving will take, in memory and time, before they are begun.",
            _MAKE,
            examples("""
                loradock plan
                loradock plan org/llama-3-8b --rank 16 --targets q_proj,v_proj --device rtx-4090
                loradock plan ./model --memory 16GiB --device gpu --sequence-length 2048 --json
            """),
        ),
        "data": Lazy("loradock_server.cli.data:app", "Judge training data.", _MAKE),
        "train": Lazy(
            "loradock_server.cli.train:train",
            "Train an adapter from a recipe, by QLoRA on a GPU or on the CPU.",
            _MAKE,
            examples("""
                loradock train adapters/examples/home-commands/recipe.toml
                loradock train recipe.toml --check
                loradock train recipe.toml --out ./trained --resume
                loradock train recipe.toml --sign ./trainer.key --register home-commands
                loradock adapters register home-commands ./trained/home-commands
            """),
        ),
        "evaluate": Lazy(
            "loradock_server.cli.evaluate:evaluate",
            "Compare an adapter with its base, and with its base under a good prompt, on held-out examples.",
            _MAKE,
            examples("""
                loradock evaluate home-commands@2 --data held_out.jsonl --train train.jsonl --prompt prompt.txt
                loradock evaluate coder --data held_out.jsonl --no-prompted --command "python check.py {answer}"
                loradock evaluate support --data held_out.jsonl --train train.jsonl --metric judge
                  --judge-url https://llm.example --judge-model large
            """),
        ),
        "merge": Lazy(
            "loradock_server.cli.merge:merge",
            "Merge an adapter into its base model, or several adapters into one.",
            _MAKE,
            examples("""
                loradock merge ./trained/home-commands --data held_out.jsonl --out ./merged
                loradock merge ./one ./other --weights 0.7,0.3 --method ties --out ./both
            """),
        ),
    }


app = new_app(
    cls=RootGroup,
    name="loradock",
    add_completion=True,
    epilog=examples("""
        loradock base fetch && loradock serve
        loradock adapters check ./my-adapter
        loradock adapters register support-bot ./my-adapter
        loradock adapters list --json
        loradock COMMAND --help
    """),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"loradock {__version__}")
        raise typer.Exit


@app.callback()
def loradock(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """One base model, many LoRA adapters, an OpenAI-compatible server.

    Clients pick an adapter by name: model="support-bot". Adapters come and go while the server runs.
    """
