"""Make the examples: check the data, train, evaluate on a server of its own, write the figures into the READMEs.

`make examples`, or `make examples ARGS="home-commands"` for one. Every figure in a README between two marks comes from
a `result.json`, which `loradock evaluate` measured; nobody writes one by hand. `--no-train` evaluates the adapters that
are there; `--write` only writes the READMEs anew.

It runs the commands that users have (`loradock data check`, `train`, `serve`, `evaluate`) and knows nothing that they
do not print or write.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parent
ROOT = EXAMPLES.parents[1]
LORADOCK = Path(sys.executable).with_name("loradock")
BEGIN = "<!-- figures: written by `make examples` -->"
END = "<!-- end of figures -->"
SAMPLES = 4
SHOWN = 200  # characters of a text in result.json: enough to see the difference
START_SECONDS = 480
VERDICTS = (0, 1, 3)  # promote, don't, not enough data: all are answers


@dataclass(frozen=True, slots=True)
class Task:
    """What counts on a task, and how many training examples the base is shown in its prompt. `kept`: whether the
    adapter is committed and served; one that a prompt replaces is not.
    """

    does: str
    metric: str
    words: str
    shots: int
    kept: bool = True


TASKS = {
    "home-commands": Task(
        "spoken smart-home command → Home Assistant's intent as JSON", "json_equal", "JSON exactly right", 12
    ),
    "python-docstrings": Task("Python function → one-line docstring", "rouge_l", "ROUGE-L F1", 8),
    "mail-triage": Task("opening of an e-mail → spam or ham, as JSON", "accuracy", "accuracy", 8),
    "change-numbers": Task(
        "entry of a changelog → the number of the issue it names", "exact", "exactly the number", 8, kept=False
    ),
}
ROLES = {"base": "base", "prompted": "base, prompted", "adapter": "adapter"}


class Failed(Exception):
    """A step that did not end well; the message says what to do."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make examples", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: every example")
    parser.add_argument("--no-train", action="store_true", help="only evaluate the adapters that are there")
    parser.add_argument("--write", action="store_true", help="only write the READMEs anew, from result.json")
    parser.add_argument("--var", type=Path, default=ROOT / "var", help="where the base model and what is made lie")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends with it
    if unknown := set(options.names) - TASKS.keys():
        parser.error(f"no example {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
    names = options.names or list(TASKS)
    try:
        if not options.write:
            make(names, options.var, train=not options.no_train)
        for name in names:
            write_readme(name)
        write_tables()
    except Failed as error:
        sys.exit(f"make examples: {error}")


def make(names: Sequence[str], var: Path, *, train: bool) -> None:
    base = Path(json.loads(loradock("base", "fetch", "--json", home=var, quiet=True))["folder"])
    work = var / "examples"
    for name in names if train else ():
        check(name, var)
    adapters = {name: trained(name, base, work, var) if train else ready(name, work) for name in names}
    with server(base, work) as home:
        for name, adapter in adapters.items():
            loradock("adapters", "register", name, str(adapter), home=home, quiet=True)
            evaluate(name, adapter, home, work)


def check(name: str, var: Path) -> None:
    """Raises Failed unless the data is fit to train on."""
    folder = EXAMPLES / name
    train, held_out = folder / "data/train.jsonl", folder / "data/held_out.jsonl"
    if not train.exists() or not held_out.exists():
        raise Failed(f"{name} has no data; it is made by {folder / 'prepare.py'}, which says how")
    longest = re.search(r"(?m)^max_length = (\d+)", (folder / "recipe.toml").read_text(encoding="utf-8"))
    limit = longest[1] if longest else "256"
    loradock("data", "check", str(train), "--held-out", str(held_out), "--max-length", limit, home=var)


def trained(name: str, base: Path, work: Path, var: Path) -> Path:
    """A new adapter; a committed one is replaced by it. A training that was broken off is gone on with."""
    made = work / "trained" / name
    shutil.rmtree(made, ignore_errors=True)
    recipe = EXAMPLES / name / "recipe.toml"
    began = time.monotonic()
    loradock("train", str(recipe), "--base", str(base), "--out", str(made.parent), "--resume", home=var)
    say(f"{name} was trained in {(time.monotonic() - began) / 60:.0f} minutes")
    return made


def ready(name: str, work: Path) -> Path:
    """The committed adapter, or the one that was trained here before."""
    for folder in (EXAMPLES / name / "adapter", work / "trained" / name):
        if folder.is_dir():
            return folder
    raise Failed(f"there is no adapter of {name} yet; leave --no-train out")


@contextlib.contextmanager
def server(base: Path, work: Path) -> Iterator[Path]:
    """`loradock serve` in a home that is thrown away; the commands find it there."""
    work.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="loradock-examples-"))
    settings = {"LORADOCK_MODEL": str(base), "LORADOCK_PORT": "0", "LORADOCK_COMPILE": "false"}
    with (home / "printed.log").open("wb") as sink:
        process = subprocess.Popen(
            [LORADOCK, "serve"], env=environment(home) | settings, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL
        )
    try:
        say("starting a server")
        deadline = time.monotonic() + START_SECONDS
        while not (home / "run/server.json").exists() or not is_ready(home):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the server did not start:\n{(home / 'printed.log').read_text()[-2000:]}")
            time.sleep(0.5)
        yield home
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(home, ignore_errors=True)


def is_ready(home: Path) -> bool:
    url = json.loads((home / "run/server.json").read_text(encoding="utf-8"))["url"]
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/readyz", timeout=5) as reply:
        return bool(reply.status == 200)
    return False


def evaluate(name: str, adapter: Path, home: Path, work: Path) -> None:
    """Write result.json of an example, whatever the verdict. Answers that an interrupted run left are used."""
    folder, task = EXAMPLES / name, TASKS[name]
    out = work / "evaluated" / name
    loradock(
        *("evaluate", name, "--data", str(folder / "data/held_out.jsonl"), "--metric", task.metric),
        *("--prompt", str(folder / "prompt.txt"), "--train", str(folder / "data/train.jsonl")),
        *("--shots", str(task.shots), "--out", str(out), "--concurrency", "32", "--no-loss"),
        home=home,
        good=VERDICTS,
    )
    found = json.loads((out / "report.json").read_text(encoding="utf-8"))
    manifest = json.loads((adapter / "manifest.json").read_text(encoding="utf-8"))
    result = (
        {key: value for key, value in found.items() if key not in ("examples", "data")}
        | {
            "training_minutes": round(float(manifest["training_seconds"]) / 60, 1),  # in optimiser steps
            "training_cores": manifest["hardware"]["cpu_cores"],
            "samples": [
                {
                    "asked": shorten(one["asked"][-1]["content"]),
                    "wanted": one["wanted"],
                    **{role: shorten(text) for role, text in one["answers"].items()},
                }
                for one in found["examples"][:SAMPLES]
            ],
        }
    )
    (folder / "result.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if task.kept and adapter != folder / "adapter":
        shutil.rmtree(folder / "adapter", ignore_errors=True)
        shutil.copytree(adapter, folder / "adapter", ignore=shutil.ignore_patterns("train.jsonl", "loss.html"))


# The READMEs


def read_result(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((EXAMPLES / name / "result.json").read_text(encoding="utf-8"))
    return result


def write_readme(name: str) -> None:
    """The figures of one example, in its README."""
    result, task = read_result(name), TASKS[name]
    shots = result["contenders"]["prompted"]["shots"]
    others = [metric for metric in result["measured"] if metric != task.metric]
    heads = ["", task.words, *(metric.replace("_", " ") for metric in others), "prompt tokens", "answer tokens"]
    rows = []
    for role, words in ROLES.items():
        cells = [interval(metric, result["measured"][metric].get(role)) for metric in (task.metric, *others)]
        spent = result["tokens"][role]
        words = f"base, the prompt and {shots} examples" if role == "prompted" else words
        rows.append([words, *cells, f"{spent['prompt_tokens']:.0f}", f"{spent['answer_tokens']:.0f}"])
    strongest = result["verdict"]["rival"]
    over = result["measured"][task.metric][f"adapter_over_{strongest}"]
    text = (
        f"{result['count']} held-out examples, greedy, on the served engine, {result['created_at'][:10]}; "
        "95 % intervals by bootstrap:\n\n"
        f"{table(heads, rows)}\n\n"
        f"Verdict of `loradock evaluate`: **{result['verdict']['line']}**. Over the "
        f"{ROLES[strongest]} the adapter gains {signed(task.metric, over)}.\n\n"
        f"{forgotten(result['forgetting'])}\n\n"
        f"Trained in {result['training_minutes']:.0f} minutes on {result['training_cores']} CPU cores."
    )
    insert(EXAMPLES / name / "README.md", text)


def forgotten(found: Mapping[str, Any]) -> str:
    """What the adapter cost its base in general, in a sentence."""
    right = [round(found["questions"][role]["mean"] * found["questions"][role]["n"]) for role in ("base", "adapter")]
    loss = [found["text"][role]["mean"] for role in ("base", "adapter")]
    return (
        f"Forgetting: of {found['questions']['base']['n']} general questions the base answers {right[0]}, the adapter "
        f"{right[1]} ({signed('general', found['questions']['adapter_over_base'])}); the loss on general text is "
        f"{loss[0]:.3f} and {loss[1]:.3f} nats a token."
    )


def write_tables() -> None:
    """All examples in one table, in README.md here and of the repository."""
    found = {name: read_result(name) for name in TASKS if (EXAMPLES / name / "result.json").exists()}
    results = {name: result for name, result in found.items() if "contenders" in result}
    for path, prefix in ((EXAMPLES / "README.md", ""), (ROOT / "README.md", "adapters/examples/")):
        rows = []
        for name, result in results.items():
            task = TASKS[name]
            each = [interval(task.metric, result["measured"][task.metric].get(role)) for role in ROLES]
            rows.append([f"[{name}]({prefix}{name})", task.does, task.words, *each, result["verdict"]["line"]])
        days = sorted({result["created_at"][:10] for result in results.values()})
        said = f"Held out: {', '.join(sorted({str(r['count']) for r in results.values()}))} examples each; "
        said += f"95 % intervals by bootstrap; {' to '.join(dict.fromkeys((days[0], days[-1])))}."
        heads = ["example", "task", "measure", *ROLES.values(), "verdict"]
        insert(path, f"{table(heads, rows)}\n\n{said}")


def insert(path: Path, text: str) -> None:
    """Replace what stands between the marks. Raises Failed where there are none."""
    old = path.read_text(encoding="utf-8")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise Failed(f"{path} has no place for figures; write {BEGIN} and {END} there")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def interval(metric: str, found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    if metric in ("loss", "rouge_l"):
        return f"{found['mean']:.3f} ({found['low']:.3f} … {found['high']:.3f})"
    return f"{100 * found['mean']:.1f} % ({100 * found['low']:.1f} … {100 * found['high']:.1f})"


def signed(metric: str, over: Mapping[str, Any]) -> str:
    if metric in ("loss", "rouge_l"):
        return f"{over['gain']:+.3f} ({over['low']:+.3f} … {over['high']:+.3f})"
    return f"{100 * over['gain']:+.1f} points ({100 * over['low']:+.1f} … {100 * over['high']:+.1f})"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shorten(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + " …"


# Running the program


def loradock(*args: str, home: Path, quiet: bool = False, good: Sequence[int] = (0,)) -> str:
    """Run one command as a user would; what it printed, if it is not shown. Raises Failed."""
    say("loradock " + " ".join(args[:3]))
    done = subprocess.run(
        [LORADOCK, *args], env=environment(home), stdout=subprocess.PIPE if quiet else None, text=True, check=False
    )
    if done.returncode not in good:
        raise Failed(f"loradock {' '.join(args)} ended with {done.returncode}")
    return done.stdout or ""


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LORADOCK_")}
    return kept | {"LORADOCK_HOME": str(home)}


def say(text: str) -> None:
    sys.stderr.write(f"» {text}\n")


if __name__ == "__main__":
    main()
