"""One engine process: reads its launch order, runs vLLM behind the guard, and leaves when told or when broken.

Started by the supervisor as `python -m loradock_server.engine.process`. Its exit status says why it left: 0 it was
told to, otherwise see `exits`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import uvicorn

from loradock_adapters.base_model import BaseModel

from . import exits, orphans, vllm_compat, vllm_versions
from .admission import Admission
from .guard import Guard
from .internal import Internal
from .launch import LaunchOrder, trace_endpoint, vllm_flags
from .leaving import end_with, leave
from .limits import MemoryLimits
from .observer import EngineObserver
from .probe import Probe
from .pulse import Pulse, cpu_seconds_of_group
from .residency import Residency
from .selftest import EMBEDDINGS, LOGPROBS, PASSED, Numbers, SelfTestFailed, self_test
from .signatures import Signatures
from .stager import Stager, StagerOrder
from .usage import UsageFeed

log = logging.getLogger("loradock.engine")

DEATH_CHECK_SECONDS = 0.1
# Long enough for the guard's 503s to leave, far below the 5 s in which clients must hear of a crash.
LAST_WORDS_SECONDS = 0.5


def main() -> None:
    order = LaunchOrder.from_json(sys.stdin.readline())
    logging.basicConfig(level=order.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("loradock", "loradock_server"):
        # Set here too: something that vLLM imports turns the root logger down.
        logging.getLogger(name).setLevel(order.log_level.upper())
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # series nobody reads
    orphans.lead()
    import uvloop

    end_with(lambda: uvloop.run(run(order)))


async def run(order: LaunchOrder) -> None:
    """Serve until SIGTERM or until something breaks; the latter ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watch_supervisor(loop)
    refuse_taken(order.address)
    known_good = vllm_versions.version_warning() is None
    log.log(logging.INFO if known_good else logging.WARNING, "%s", vllm_versions.start_message())
    signatures = Signatures()
    stager = Stager(
        StagerOrder(
            artifacts=order.artifacts,
            base=order.model,
            max_rank=order.max_rank,
            max_bytes=order.max_adapter_bytes,
            dtype=order.dtype,
            require_signature=order.require_signature,
            trusted_keys=order.trusted_keys,
            artifacts_cache=order.artifacts_cache,
            artifacts_cache_bytes=order.artifacts_cache_bytes,
        ),
        signatures=signatures,
    )
    stager.start()  # it is ready long before the engine is
    flags = vllm_flags(order, on_cpu=vllm_compat.on_cpu(), trace_endpoint=trace_endpoint(os.environ))
    async with vllm_compat.running_engine(flags) as engine:
        base = BaseModel.read(Path(order.model))
        loader = await vllm_compat.AdapterLoader.of(engine, stager, base)
        log.info("LoRA is computed by %s", loader.kernel)
        await prove_sound(engine, base, loader)
        vllm_compat.track_requests(engine.client)
        vllm_compat.explain_failed_grammars(engine.client)
        vllm_compat.trace_adapters(engine.client)
        guard = build_guard(order, engine, base, stager, signatures, loader)
        server = _Server(uvicorn.Config(guard, log_config=None, access_log=False, timeout_keep_alive=75, **bind(order)))
        serving = asyncio.create_task(server.serve())
        dying = asyncio.create_task(leave_when_dead(engine))
        pulse = Pulse(
            engine.round_trip, lambda: guard.drain.in_flight > 0, cpu_seconds_of_group, hang_timeout=order.hang_timeout
        )
        hanging = asyncio.create_task(leave_when_hung(pulse))
        log.info("serving on %s", order.address)
        await _first(asyncio.create_task(stop.wait()), serving)
        drain = guard.drain
        drain.begin()
        if not await drain.idle(order.drain_timeout):
            log.warning("%d requests still run after %.0f s and are cut off", drain.in_flight, order.drain_timeout)
        server.should_exit = True
        server.force_exit = drain.in_flight > 0
        dying.cancel()
        hanging.cancel()
        await serving
        stager.close()


async def prove_sound(engine: vllm_compat.Engine, base: BaseModel, loader: vllm_compat.AdapterLoader) -> None:
    """End this process, before anybody was answered, when adapters and base do not keep apart."""
    prober = vllm_compat.prober_of(engine)
    if prober is None:
        log.warning("no self-test: %s gives neither text nor embeddings", base.name)
        return
    began = time.monotonic()
    log.info("self-test begins")
    try:
        found = await self_test(
            prober,
            loader,
            base,
            slots=engine.max_loras,
            dtype=engine.dtype,
            max_model_len=engine.max_model_len,
            numbers=numbers_of(engine),
        )
    except SelfTestFailed as error:
        log.error("self-test failed, the engine will not serve: %s", error)
        leave(exits.UNSOUND)
    log.info(
        PASSED,
        time.monotonic() - began,
        numbers_of(engine).name,
        found.noise,
        found.moved,
        found.effect,
    )


def numbers_of(engine: vllm_compat.Engine) -> Numbers:
    """What the engine's answers are made of."""
    return LOGPROBS if engine.generates else EMBEDDINGS


def build_guard(
    order: LaunchOrder,
    engine: vllm_compat.Engine,
    base: BaseModel,
    stager: Stager,
    signatures: Signatures,
    loader: vllm_compat.AdapterLoader,
) -> Guard:
    """Everything between vLLM's application and the socket."""
    observer = EngineObserver(order.metrics_adapter_limit, vllm_compat.vllm_families)
    residency = Residency(
        loader,
        stager,
        observer,
        limits=MemoryLimits(
            adapters=max(order.max_loras, order.max_cpu_loras),
            size_bytes=order.adapter_memory_bytes,
            places=order.max_loras,
        ),
    )
    admission = Admission(
        order.admission,
        places=order.max_loras,
        # One seat for each sequence that the engine runs at a time: beyond that vLLM would choose, first come first.
        seats=max(engine.max_num_seqs, order.max_loras + 1),
    )
    feed = UsageFeed()
    probe = None
    if prober := vllm_compat.prober_of(engine, "probe"):
        probe = Probe(
            prober,
            residency,
            admission,
            vocab_size=base.vocab_size,
            max_model_len=engine.max_model_len,
            number=numbers_of(engine).name,
        )

    def describe() -> dict[str, Any]:
        return {
            "ready": not guard.drain.draining and not engine.errored,
            "generation": order.generation,
            "restarts": order.restarts,
            "base": {"name": order.served_name, "digest": order.base_digest},
            "max_model_len": order.max_model_len,
            "max_loras": order.max_loras,
            "dtype": engine.dtype,
            "kernel": loader.kernel,
            "in_flight": guard.drain.in_flight,
            "waiting": admission.waiting,
        }

    internal = Internal(
        residency=residency,
        signatures=signatures,
        feed=feed,
        generation=order.generation,
        describe=describe,
        places=admission.places,
        metrics=observer.exposition,
        probe=probe,
    )
    guard = Guard(
        engine.app,
        token=order.token,
        admission=admission,
        residency=residency,
        feed=feed,
        internal=internal,
        health=engine,
        signatures=signatures,
        answered=observer.answered,
        routes=engine.routes,
        serves=f"the base model {order.served_name} "
        + ("generates text" if engine.generates else "is one for embeddings and their like"),
    )
    return guard


def bind(order: LaunchOrder) -> dict[str, Any]:
    """uvicorn's arguments for an address like unix:/path or http://host:port."""
    if order.address.startswith("unix:"):
        path = Path(order.address.removeprefix("unix:"))
        path.unlink(missing_ok=True)  # left by a predecessor that was killed
        return {"uds": str(path)}
    host, _, port = order.address.removeprefix("http://").rpartition(":")
    return {"host": host.strip("[]"), "port": int(port)}


def refuse_taken(address: str) -> None:
    """Raises OSError when somebody listens there: better now than after a minute of loading."""
    if not address.startswith("unix:"):
        host, _, port = address.removeprefix("http://").rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        socket.create_server((host.strip("[]"), int(port)), family=family).close()


def watch_supervisor(loop: asyncio.AbstractEventLoop) -> None:
    """Leave, with every vLLM process, as soon as the supervisor's end of our standard input closes."""

    def on_input() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            leave_with_everything()

    os.set_blocking(sys.stdin.fileno(), False)
    loop.add_reader(sys.stdin.fileno(), on_input)


async def leave_when_dead(engine: vllm_compat.Engine) -> None:
    """End this process shortly after vLLM's engine core or a worker has died: it never recovers by itself."""
    while not engine.errored:  # noqa: ASYNC110  # vLLM tells of its death by a flag only
        await asyncio.sleep(DEATH_CHECK_SECONDS)
    log.error("the vLLM engine died; leaving so that the supervisor starts a new one")
    await asyncio.sleep(LAST_WORDS_SECONDS)
    leave(exits.DIED)


async def leave_when_hung(pulse: Pulse) -> None:
    """End this process when vLLM's engine core or a worker is there but does nothing any more."""
    log.error("the vLLM engine hangs: %s; leaving so that the supervisor starts a new one", await pulse.hung())
    leave(exits.HUNG)


def leave_with_everything() -> None:
    """End our whole process group: without a supervisor nobody else would end vLLM's core and workers."""
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(exits.ORPHANED)


async def _first(*tasks: asyncio.Task[Any]) -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: a signal must first turn new requests away and drain."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


if __name__ == "__main__":
    main()
