"""What is measured: over HTTP against real gateways, one request at a time, in milliseconds."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from loadtest.registry import gateways
from loadtest.registry.seed import name_of, seed
from loradock_adapters.base_model import BaseModel

PAGE = 100
STARTS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of work; milliseconds of all its runs."""

    work: str
    runs: int
    p50: float
    p99: float
    worst: float

    @classmethod
    def of(cls, work: str, seconds: list[float]) -> Row:
        times = sorted(second * 1000 for second in seconds)
        return cls(work, len(times), times[len(times) // 2], times[-1 - len(times) // 100], times[-1])


def measure(url: str, adapters: int, versions: int, repeat: int, say: Callable[[str], None]) -> list[Row]:
    """Fill the (empty) database and measure. Raises RuntimeError when something answers wrongly."""
    work = Path(tempfile.mkdtemp(prefix="loradock-bench-registry-"))
    try:
        base = BaseModel.read(gateways.write_base(work / "base"))
        say(f"filling it with {adapters} adapters of {versions} versions")
        seed(url, adapters, versions, base.digest)
        return _measure(url, base.folder, work, adapters, versions, repeat, say)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _measure(
    url: str, base: Path, work: Path, adapters: int, versions: int, repeat: int, say: Callable[[str], None]
) -> list[Row]:
    dice = random.Random(1)
    names = [name_of(dice.randrange(adapters)) for _ in range(repeat)]
    say("starting gateways")
    starts = []
    for number in range(STARTS):
        with gateways.running(url, work / f"start-{number}", base) as gateway:
            starts.append(gateway.started)
    with ExitStack() as stack:
        one, two = (stack.enter_context(gateways.running(url, work / name, base)).http for name in ("one", "two"))
        say("asking")
        rows = [Row.of("start a gateway until it answers", starts)]
        first = _get(one, f"/admin/adapters?limit={PAGE}")
        rows.append(
            Row.of(
                f"list adapters, {len(first['data'])} on a page",
                _each(lambda _: _get(one, f"/admin/adapters?limit={PAGE}"), names[: repeat // 10]),
            )
        )
        rows.append(Row.of("list models as clients do, all", _each(lambda _: _models(one, adapters), names[:20])))
        rows.append(Row.of("show one adapter", _each(lambda name: _get(one, f"/admin/adapters/{name}"), names)))
        rows.append(Row.of("resolve a name", _each(lambda name: _resolve(one, name, versions), names)))
        promoted = [(name, 1 + index % (versions - 1)) for index, name in enumerate(dict.fromkeys(names))]
        answers, followed = [], []
        for name, version in promoted:
            began = time.perf_counter()
            _put(one, f"/admin/adapters/{name}/aliases/live", {"version": version})
            answers.append(time.perf_counter() - began)
            followed.append(_until_live(two, name, f"{name}@{version}"))
            time.sleep(dice.uniform(0, 0.05))  # or we would run in step with whoever asks now and then
        rows.append(Row.of("promote", answers))
        rows.append(Row.of("until another gateway answers so", followed))
    return rows


def _each(work: Callable[[str], Any], names: list[str]) -> list[float]:
    times = []
    for name in names:
        began = time.perf_counter()
        work(name)
        times.append(time.perf_counter() - began)
    return times


def _until_live(http: httpx.Client, name: str, wanted: str) -> float:
    began = time.perf_counter()
    while _live(http, name) != wanted:
        if time.perf_counter() - began > 30:
            raise RuntimeError("another gateway did not follow within 30 s")
        time.sleep(0.002)
    return time.perf_counter() - began


def _get(http: httpx.Client, path: str) -> Any:
    answer = http.get(path)
    if not answer.is_success:
        raise RuntimeError(f"{path} was answered {answer.status_code}: {answer.text[:300]}")
    return answer.json()


def _put(http: httpx.Client, path: str, body: Any) -> None:
    answer = http.put(path, json=body)
    if not answer.is_success:
        raise RuntimeError(f"{path} was answered {answer.status_code}: {answer.text[:300]}")


def _models(http: httpx.Client, adapters: int) -> None:
    found = len(_get(http, "/v1/models")["data"])
    if found != adapters + 1:
        raise RuntimeError(f"{found} models, not {adapters} adapters and the base")


def _live(http: httpx.Client, name: str) -> str:
    return str(_get(http, f"/v1/models/{name}")["root"])


def _resolve(http: httpx.Client, name: str, versions: int) -> None:
    if _live(http, name) != f"{name}@{versions}":
        raise RuntimeError(f"{name} is {_live(http, name)}, not version {versions}")
