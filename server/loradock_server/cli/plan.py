"""`loradock plan`: memory and time of training and serving, before either is begun.

The arithmetic is the adapters side's; here it becomes tables.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
import typer
from rich.table import Table
from rich.text import Text

from loradock_adapters.planning.choice import Choice, choose, judge, least
from loradock_adapters.planning.device import GIB, Device, find_device
from loradock_adapters.planning.lora_size import LoraSize, explain, lora_size
from loradock_adapters.planning.processor import timed_processor
from loradock_adapters.planning.reading import read_shape
from loradock_adapters.planning.serving import Service, host_memory, serving_memory
from loradock_adapters.planning.serving_dtype import Choice as ServingChoice
from loradock_adapters.planning.serving_dtype import choose_dtype
from loradock_adapters.planning.shape import ModelShape
from loradock_adapters.planning.terms import Sum
from loradock_adapters.planning.training import Method, Run
from loradock_adapters.planning.training_dtype import DtypeChoice, choose_training_dtype
from loradock_adapters.processor import Processor
from loradock_adapters.servable import Engine, Obstacle
from loradock_adapters.servable import obstacle as obstacle_of
from loradock_server.cli.errors import Refused, Unreadable
from loradock_server.cli.home import base_folder, read_settings
from loradock_server.cli.options import AsJson
from loradock_server.cli.output import Output, answering, table
from loradock_server.cli.wording import NOTHING, size
from loradock_server.engine.machine_memory import MachineMemory
from loradock_server.engine.memory_need import besides_bytes

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(GiB|GB|G|MiB|MB|M)?", re.IGNORECASE)
_UNITS = {"g": GIB, "gib": GIB, "gb": 10**9, "m": 1 << 20, "mib": 1 << 20, "mb": 10**6}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def plan(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A model folder, its config.json, or a hub id like org/name: only the config is read. Default: the "
            "base that this home serves.",
        ),
    ] = None,
    rank: Annotated[int, typer.Option("--rank", min=1, max=512, help="Rank of the adapter.")] = 16,
    targets: Annotated[
        str, typer.Option("--targets", metavar="NAMES", help="Modules it is on: all-linear, or names with commas.")
    ] = "all-linear",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, max=4096, help="Examples in a step.")] = 8,
    sequence_length: Annotated[
        int, typer.Option("--sequence-length", min=8, max=1 << 20, help="Tokens of the longest example.")
    ] = 512,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Compute activations anew instead of keeping them.")
    ] = False,
    double: Annotated[bool, typer.Option("--double/--single", help="QLoRA: quantise the scales of NF4 too.")] = True,
    dropout: Annotated[bool, typer.Option("--dropout", help="The adapter trains with dropout.")] = False,
    optimizer: Annotated[
        Literal["adamw", "adamw-8bit"], typer.Option("--optimizer", help="Its state takes 8 or 2 bytes a number.")
    ] = "adamw",
    examples: Annotated[int, typer.Option("--examples", min=1, help="Training examples, for the time.")] = 1000,
    epochs: Annotated[float, typer.Option("--epochs", min=0.01, help="How often each is seen, for the time.")] = 3.0,
    device_name: Annotated[
        str, typer.Option("--device", metavar="NAME", help="cpu, gpu, or one by name: rtx-4090, a100-80gb, h100 …")
    ] = "cpu",
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", metavar="SIZE", help="What there is, such as 24GiB. Default: the device's, or this machine's."
        ),
    ] = None,
    streams: Annotated[int, typer.Option("--streams", min=1, help="Serving: requests at the same time.")] = 16,
    context: Annotated[
        int, typer.Option("--context", min=16, help="Serving: tokens of each, prompt and answer.")
    ] = 2048,
    slots: Annotated[int, typer.Option("--slots", min=1, help="Serving: adapters in one batch.")] = 8,
    adapters: Annotated[int, typer.Option("--adapters", min=1, help="Serving: adapters kept in memory.")] = 64,
    max_rank: Annotated[int, typer.Option("--max-rank", min=1, help="Serving: the highest rank allowed.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Say what training and serving will take, in memory and time, before they are begun.

    Full fine-tuning, LoRA and QLoRA side by side with their arithmetic, the quickest way that fits into the memory,
    and the server's memory. No weight is read.
    """
    with answering(as_json) as output:
        with _model(model) as folder:
            shape, obstacle = read_shape(folder), _obstacle(folder, device_name)
        lora = lora_size(shape, rank, [name.strip() for name in targets.split(",") if name.strip()])
        device = find_device(device_name)
        memory_bytes = _memory(memory, device)
        wanted = Run(
            "lora",
            device.is_gpu,
            batch_size=batch_size,
            sequence_length=sequence_length,
            checkpointing=checkpointing,
            double_quantization=double,
            dropout=dropout,
            optimizer=optimizer,
        )
        dtypes = _dtypes(shape, lora, wanted, device, memory_bytes, here=memory is None)
        if not device.is_gpu:
            output.step(f"timing this processor in {dtypes.training.dtype}")
            device = timed_processor(shape, dtypes.training.dtype)
        wanted = replace(wanted, dtype=dtypes.training.dtype)
        service = Service(device.is_gpu, streams, context, slots, max(max_rank, rank), adapters, dtypes.serving.dtype)
        steps = max(1, round(examples * epochs / batch_size))
        page = _Page(shape, lora, device, memory_bytes, dtypes, wanted, service, steps, obstacle)
        output.document(page.document())
        page.say(output)
        if page.best is None:
            smallest = least(shape, lora, wanted, device)
            raise Refused(
                f"no way to train fits into {size(page.memory_bytes)}: the least, {_way(smallest)}, needs "
                f"{size(smallest.needs_bytes)}",
                fix="a shorter --sequence-length, fewer --targets, or a smaller model",
            )


@dataclass(frozen=True, slots=True)
class _Dtypes:
    """What is computed in, and why."""

    training: DtypeChoice
    serving: ServingChoice


def _dtypes(
    shape: ModelShape, lora: LoraSize, wanted: Run, device: Device, memory_bytes: int, *, here: bool
) -> _Dtypes:
    """By the rules that training and the engine go by; the engine, if it is to start `here`, by what is free now."""
    processor = None if device.is_gpu else Processor.here()
    lightest = least(shape, lora, replace(wanted, dtype="float32"), device).needs_bytes
    training = choose_training_dtype("auto", processor, lightest, memory_bytes)
    set_dtype = read_settings().dtype
    if set_dtype != "auto":
        return _Dtypes(training, ServingChoice(set_dtype, "LORADOCK_DTYPE says so"))
    if processor is None:
        return _Dtypes(training, ServingChoice("bfloat16", "a GPU serves"))
    free = MachineMemory.here() if here else None
    left = memory_bytes if free is None else free.available_bytes
    return _Dtypes(
        training,
        choose_dtype(processor, shape.dtype, shape.parameters, left, besides_bytes=besides_bytes(compiling=True)),
    )


class _Page:
    """Everything that the command shows, worked out once."""

    def __init__(
        self,
        shape: ModelShape,
        lora: LoraSize,
        device: Device,
        memory_bytes: int,
        dtypes: _Dtypes,
        wanted: Run,
        service: Service,
        steps: int,
        obstacle: Obstacle | None,
    ) -> None:
        self.memory_bytes, self._dtypes, self._obstacle = memory_bytes, dtypes, obstacle
        self._shape, self._lora, self._device, self._steps = shape, lora, device, steps
        self._ways = [judge(shape, lora, replace(wanted, method=method), device) for method in _METHODS]
        self.best = choose(shape, lora, wanted, device, memory_bytes)
        self._serving = serving_memory(shape, lora, service)
        self._host = host_memory(lora, service) if device.is_gpu else None

    def document(self) -> dict[str, Any]:
        shape, lora = self._shape, self._lora
        return {
            "model": {"name": shape.name, "parameters": shape.parameters, "linear_parameters": shape.linear_parameters},
            "adapter": {
                "rank": lora.rank,
                "target_modules": list(lora.targets),
                "parameters": lora.parameters,
                "file_bytes": lora.file_bytes,
                "arithmetic": explain(shape, lora),
            },
            "device": {"name": self._device.name, "memory_bytes": self.memory_bytes},
            "training_dtype": asdict(self._dtypes.training),
            "training": [self._choice(way) for way in self._ways],
            "recommended": None if self.best is None else self._choice(self.best),
            "serving": {"obstacle": None if self._obstacle is None else asdict(self._obstacle)}
            | asdict(self._dtypes.serving)
            | self._serving.as_dict()
            | ({} if self._host is None else {"host": self._host.as_dict()}),
        }

    def _choice(self, choice: Choice) -> dict[str, Any]:
        run = choice.run
        return {
            "method": run.method,
            "batch_size": run.batch_size,
            "gradient_accumulation": choice.accumulation,
            "sequence_length": run.sequence_length,
            "gradient_checkpointing": run.checkpointing,
            "optimizer": run.optimizer,
            "dtype": run.dtype,
            "peak": choice.peak.as_dict(),
            "needs_bytes": choice.needs_bytes,
            "fits": choice.needs_bytes <= self.memory_bytes,
            "steps": self._steps,
            "seconds": None if choice.seconds_a_step is None else self._steps * choice.seconds_a_step,
        }

    def say(self, output: Output) -> None:
        shape, lora = self._shape, self._lora
        output.say(
            Text(shape.name, "bold")
            + Text(f": {shape.parameters:,} numbers, {shape.linear_parameters:,} in linear modules"),
            "",
            Text("Adapter", "bold") + Text(f": rank {lora.rank}, {size(lora.file_bytes)} as a file"),
            *(f"  {line}" for line in explain(shape, lora)),
            "",
            Text("Training", "bold")
            + Text(
                f" on {self._device.name} with {size(self.memory_bytes)}, batches of {self._ways[0].run.batch_size} × "
            )
            + Text(f"{self._ways[0].run.sequence_length} tokens"),
            f"  computing in {self._dtypes.training.dtype}: {self._dtypes.training.reason}",
            table(_COLUMNS, [self._row(way) for way in self._ways]),
        )
        if self.best is not None:
            output.say("", Text("Recommended", "bold green") + Text(f": {_way(self.best)}{self._time(self.best)}"))
            output.say(_terms(self.best.peak), f"  {self._besides(self.best)}")
        output.say(
            "",
            Text("Serving", "bold") + Text(f": {size(self._serving.size_bytes)}, the engine's own buffers aside"),
            f"  in {self._dtypes.serving.dtype}: {self._dtypes.serving.reason}",
        )
        if self._obstacle is not None:
            output.say(Text("  not here: ", "bold red") + Text(str(self._obstacle)))
        output.say(_terms(self._serving))
        if self._host is not None:
            output.say("  in main memory:", _terms(self._host))

    def _row(self, choice: Choice) -> tuple[object, ...]:
        peak = choice.peak
        learning = sum(peak.of(what) for what in ("adapter", "optimizer", "gradients", "optimizer's step"))
        weights = peak.of("base weights")
        fits = Text("yes", "green") if choice.needs_bytes <= self.memory_bytes else Text("no", "red")
        seconds = choice.seconds_a_step
        return (
            choice.run.method,
            size(weights),
            size(learning),
            size(peak.size_bytes - weights - learning),
            size(choice.needs_bytes),
            fits,
            NOTHING if seconds is None else _duration(self._steps * seconds),
        )

    def _time(self, choice: Choice) -> str:
        if choice.seconds_a_step is None:
            return ""
        return f", about {_duration(self._steps * choice.seconds_a_step)} for {self._steps} steps"

    def _besides(self, choice: Choice) -> str:
        besides = choice.needs_bytes - choice.peak.size_bytes
        return f"+ {size(besides)} that driver, libraries and allocator take = {size(choice.needs_bytes)}"


_METHODS: tuple[Method, ...] = ("full", "lora", "qlora")
_COLUMNS = ("method", "base weights", "what learns", "activations and the rest", "needs", "fits", "time, about")


def _terms(found: Sum) -> Table:
    drawn = table(("", "", ""), ((f"  {term.what}", size(term.size_bytes), term.how) for term in found.terms))
    drawn.show_header = False
    return drawn


def _way(choice: Choice) -> str:
    run = choice.run
    parts = [run.method, f"batches of {run.batch_size}"]
    if choice.accumulation > 1:
        parts.append(f"gradients of {choice.accumulation} of them summed up")
    parts.append("with checkpointing" if run.checkpointing else "without checkpointing")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(1, round(seconds))} s"


def _memory(text: str | None, device: Device) -> int:
    if text is None:
        if device.memory_bytes is not None:
            return device.memory_bytes
        if not device.is_gpu:
            return int(psutil.virtual_memory().total)
        raise Unreadable(f"nothing says how much memory {device.name!r} has", fix="--memory 24GiB, for instance")
    found = _SIZE.fullmatch(text.strip())
    if found is None or not (amount := round(float(found[1]) * _UNITS[(found[2] or "GiB").lower()])):
        raise Unreadable(f"--memory {text[:40]!r} is no size", fix="a number with GiB, GB, MiB or MB: --memory 24GiB")
    return amount


@contextmanager
def _model(model: str | None) -> Iterator[Path]:
    """The folder with the model's config.json, of a hub id where no such folder is; there while it is read."""
    if model is None:
        yield base_folder(read_settings())
        return
    folder = Path(model).expanduser()
    if folder.exists() or not _HUB_ID.fullmatch(model):
        yield folder.parent if folder.name == "config.json" else folder
        return
    from loradock_adapters.planning.hub import fetch_config  # takes a second to import

    with tempfile.TemporaryDirectory(prefix="loradock-plan-") as scratch:
        yield fetch_config(model, Path(scratch)).parent


def _obstacle(folder: Path, device_name: str) -> Obstacle | None:
    """What keeps an engine on that device from serving adapters on this base."""
    return obstacle_of(folder, Engine(Engine.here().version, on_cpu=not find_device(device_name).is_gpu))
