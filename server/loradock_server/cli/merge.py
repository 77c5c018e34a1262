"""`loradock merge`: an adapter into its base model, or several adapters into one.

The merging is the adapters side's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from loradock_adapters.training.errors import DataError
from loradock_server.cli.errors import Refused, Unreadable
from loradock_server.cli.home import base_folder, read_settings, require_base
from loradock_server.cli.options import AsJson
from loradock_server.cli.output import Output, answering, fields, table
from loradock_server.cli.wording import NOTHING, size

if TYPE_CHECKING:
    from loradock_adapters.merging.gap import Gap

Onto = Literal["auto", "bf16", "nf4"]
Method = Literal["linear", "ties", "dare_linear", "dare_ties", "cat"]


def merge(
    adapters: Annotated[
        list[Path],
        typer.Argument(
            metavar="ADAPTER...", help="One adapter folder to merge into its base, or several to make one of."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The new folder: a model, or an adapter.")],
    base: Annotated[
        Path | None,
        typer.Option("--base", metavar="DIR", help="Folder of the base model. Default: the one this home serves."),
    ] = None,
    onto: Annotated[
        Onto,
        typer.Option(
            "--onto",
            help="One adapter: onto the base's own bf16 weights, or what NF4 leaves of them. auto: for an adapter that "
            "learned on NF4 both are measured, and the nearer one is kept.",
        ),
    ] = "auto",
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE", help="One adapter: held-out examples to measure the result on."),
    ] = None,
    examples: Annotated[int, typer.Option("--examples", min=1, help="How many of them.")] = 32,
    method: Annotated[
        Method, typer.Option("--method", help="Several adapters: cat is their exact sum; the others keep the rank.")
    ] = "cat",
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="W,W,…", help="Several adapters: how much of each. Default: 1.")
    ] = None,
    density: Annotated[
        float, typer.Option("--density", help="ties and dare: the share of numbers that is kept.")
    ] = 0.5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="dare: what is kept is drawn by it.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Merge an adapter into its base model, or several adapters into one.

    The model is a folder as transformers saves it, which any runtime serves; how far its answers are from the
    adapter's is measured where held-out examples are given.
    """
    with answering(as_json) as output:
        folder = require_base(base or base_folder(read_settings()))
        try:
            if len(adapters) == 1:
                _into_base(output, adapters[0], folder, out, onto, data, examples)
            else:
                _combine(output, adapters, folder, out, method, _weights(weights, len(adapters)), density, seed)
        except DataError as error:
            raise Unreadable(str(error)) from error
        except ModuleNotFoundError as error:
            raise Unreadable(
                f"merging needs the package {error.name}, which is not installed",
                fix="install LoRADock with its training packages: loradock[train]",
            ) from error


def _into_base(
    output: Output, adapter: Path, base: Path, out: Path, onto: Onto, data: Path | None, examples: int
) -> None:
    from loradock_adapters.merging.into_base import merge_into_base

    wanted = None if onto == "auto" else onto
    result = merge_into_base(adapter, base, out, onto=wanted, data=data, examples=examples, say=output.step)
    output.document(
        {
            "folder": str(result.folder),
            "trained_on": result.trained_on,
            "chosen": result.chosen.as_dict(),
            "tried": [one.as_dict() for one in result.tried],
        }
    )
    rows = [(one.onto, _gap(one.as_trained), _gap(one.as_served)) for one in result.tried]
    output.say(
        Text("merged ", "bold green") + Text(f"onto the {result.chosen.onto} base: {result.folder}"),
    )
    if data is not None:
        output.say(
            "",
            "|Δ logprob| of held-out answers, mean (largest):",
            table(("merged onto", "from the adapter as trained", "from the adapter as served"), rows),
        )
    output.hint(f"loradock serve --model {result.folder}")


def _combine(
    output: Output,
    adapters: list[Path],
    base: Path,
    out: Path,
    method: Method,
    weights: list[float],
    density: float,
    seed: int,
) -> None:
    from loradock_adapters.merging.combine import Part, combine

    parts = [Part(folder, weight) for folder, weight in zip(adapters, weights, strict=True)]
    facts = combine(parts, base, out, method=method, density=density, seed=seed)
    output.document(
        {
            "folder": str(out),
            "method": method,
            "weights": weights,
            "digest": facts.digest,
            "rank": facts.rank,
            "alpha": facts.alpha,
            "parameters": facts.parameters,
        }
    )
    output.say(
        Text("combined ", "bold green") + Text(f"{len(parts)} adapters by {method}"),
        fields({"folder": out, "rank": facts.rank, "size": size(facts.size_bytes)}),
    )
    output.hint(f"loradock adapters check {out}", f"loradock adapters register NAME {out}")


def _weights(text: str | None, count: int) -> list[float]:
    if text is None:
        return [1.0] * count
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise Unreadable(f"--weights {text[:60]!r} are no numbers", fix="--weights 0.7,0.3") from error
    if len(found) != count:
        raise Refused(f"--weights has {len(found)} numbers for {count} adapters", fix="one number for each adapter")
    return found


def _gap(found: Gap | None) -> str:
    return NOTHING if found is None else f"{found.mean:.5f} ({found.largest:.4f})"
