"""The checks of a running server, in order; each leaves a step in the findings."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench import rows, tables
from loadtest.bench.__main__ import touch
from loadtest.bench.adapters import make_adapters as make_weights
from loadtest.bench.servers import Running
from loadtest.correctness.asking import Reply, distance, some_text
from loadtest.correctness.oracle import Oracle
from loradock_adapters.base_model import BaseModel

from .answers import Made, Question, apart_in_company, as_peft_has_it, ask_all, questions, rounding
from .findings import Findings, Step

SELF_TEST = r"moves by (\S+) beside other requests and by (\S+) beside adapters, which move theirs by (\S+)"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is checked. `prompts`: for each adapter; `fresh`: adapters that are loaded while others answer."""

    adapters: int = 4  # of each kind, loud and as trained
    prompts: int = 2
    tokens: int = 8
    fresh: int = 24
    turns: int = 3  # of quiet and of loading
    streams: int = 8  # in each turn
    rounds: int = 2  # of the bench; 0 leaves it out


SHORT = Size(adapters=2, prompts=1, tokens=4, fresh=4, turns=1, streams=4, rounds=0)


def check_self_test(findings: Findings, log: str) -> None:
    """The engine's own, which it passes before it says ready; its log has the figures."""
    with findings.step("self-test", "the engine's test of itself before it was ready") as step:
        found = re.search(SELF_TEST, log)
        if found is None:
            step.must("no self-test" in log, "the engine's log has no self-test")
            step.skipped = "" if step.problem else "this model does not generate text"
            return
        step.figures |= dict(
            zip(("base noise", "base beside adapters", "effect"), map(float, found.groups()), strict=True)
        )


def register(findings: Findings, server: Running, made: Sequence[Made]) -> None:
    with findings.step("adapters", "adapters that code made are registered and probed") as step:
        asyncio.run(rows.register(server, [(adapter.name, adapter.folder) for adapter in made]))
        step.figures["adapters"] = len(made)


def check_isolation(
    findings: Findings, server: Running, base: BaseModel, made: Sequence[Made], size: Size, dtype: str
) -> None:
    """The base between loud adapters, all in one batch: each as if it were alone."""
    with findings.step("isolation", "base and loud adapters in one batch answer as each alone") as step:
        loud = [adapter.name for adapter in made if adapter.loud]
        prompts = [some_text(base.folder, 40, seed=900 + turn) for turn in range(size.prompts)]
        asked: list[Question] = [(name, prompt) for prompt in prompts for name in (None, *loud)]
        alone = ask_all(server, asked, size.tokens, together=False)
        of_base: list[Question] = [(None, some_text(base.folder, 40, seed=900 + turn)) for turn in range(8)]
        among_its_like = ask_all(server, of_base, size.tokens, together=True)
        noise = max(distance(*pair) for pair in zip(ask_all(server, of_base, size.tokens, together=False),
                                                    among_its_like, strict=True))  # fmt: skip
        step.figures["base among its like"] = noise
        together = ask_all(server, asked, size.tokens, together=True)
        apart_in_company(step, asked, alone, together, rounding(dtype, noise))


def ask_for_oracle(
    findings: Findings, server: Running, base: BaseModel, made: Sequence[Made], size: Size
) -> tuple[list[Question], list[Reply]]:
    """Answers for PEFT to judge, given in one batch by base and adapters of every kind."""
    with findings.step("answers", "base and adapters answer, for PEFT to judge") as step:
        asked = questions(base, [None, None, *(adapter.name for adapter in made)], size.prompts)
        replies = ask_all(server, asked, size.tokens, together=True)
        step.figures["answers"] = len(replies)
        return asked, replies
    return [], []


def check_oracle(
    findings: Findings, base: BaseModel, made: Sequence[Made], asked: Sequence[Question], replies: Sequence[Reply],
    dtype: str, device: str,
) -> None:  # fmt: skip
    """PEFT on the same base, in float32; after the server has left, so that its memory is free."""
    with findings.step("oracle", f"those answers as transformers and PEFT have them, in float32 on {device}") as step:
        if not replies:
            step.skipped = "there were no answers"
            return
        oracle = Oracle(base.folder, device)
        for adapter in made:
            oracle.load(adapter.name, adapter.folder)
        as_peft_has_it(step, oracle, asked, replies, dtype)


def check_hot_load(
    findings: Findings, server: Running, base: BaseModel, made: Sequence[Made], size: Size, work: Path, dtype: str
) -> None:
    """New adapters arrive four times a second while others answer; nobody fails, nobody's answer changes."""
    with findings.step("hot load", "adapters are loaded while others stream; answers stay what they were") as step:
        asked = questions(base, [made[0].name, None], 1)
        before = ask_all(server, asked, size.tokens, together=False)
        fresh = [(f"fresh-{name}", folder) for name, folder in make_weights(work / "fresh", base, size.fresh, rank=16)]
        asyncio.run(rows.register(server, fresh))
        loaded: list[str] = []
        load = touch(server)

        def counted(name: str) -> None:
            load(name)
            loaded.append(name)

        names, arriving = [adapter.name for adapter in made], [name for name, _ in fresh]
        row = asyncio.run(rows.hot_load_row(server, names, arriving, counted, turns=size.turns, requests=size.streams))
        shutil.rmtree(work / "fresh")
        after = ask_all(server, asked, size.tokens, together=False)
        moved = max(distance(*pair) for pair in zip(before, after, strict=True))
        step.figures |= {
            "loaded": len(loaded),
            **row.detail,
            "p99 loading / quiet": row.ratio,
            "answers moved by": moved,
        }
        step.must(bool(loaded), "no adapter was loaded while others answered")
        limit = rounding(dtype)
        step.must(moved <= limit, f"an answer after the loads differs by {moved:.3g} from before, more than {limit:g}")


def bench(findings: Findings, server: Running, base: BaseModel, size: Size, work: Path) -> None:
    """The rows of `make bench-engine` that need one server; goals are for CPU, so none is a failure."""
    with findings.step("bench", "adapter speed over base speed, as make bench-engine has it; no goal here") as step:
        if not size.rounds:
            step.skipped = "left out in the short form"
            return
        made = [(f"bench-{name}", folder) for name, folder in make_weights(work / "bench", base, 8, rank=16)]
        asyncio.run(rows.register(server, made))
        found = asyncio.run(rows.throughput_rows(server, [name for name, _ in made], rounds=size.rounds, goals=False))
        step.figures |= {row.name: row.ratio for row in found}
        findings.table = tables.rows_table(found)


def state(step: Step, server: Running) -> str:
    """The engine's dtype, which tolerances depend on; it and the kernel way go into the step."""
    said = server.engine_state()
    step.figures |= {"dtype": str(said.get("dtype", "unknown")), "LoRA by": str(said.get("kernel", "unknown"))}
    return str(said.get("dtype", "bfloat16"))
