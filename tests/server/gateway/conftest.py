"""A whole gateway for each test: real registry, store, checks, sockets; behind it the scripted engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from openai import OpenAI
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from loradock_adapters.base_model import BaseModel
from loradock_server.base import ServedBase
from loradock_server.gateway import accounting, engine_client
from loradock_server.gateway.server import Started, run_gateway
from loradock_server.settings import Settings, load_settings
from tests.adapters.making import lora_config, lora_tensors, write_adapter, write_base
from tests.fakes.engine import FakeEngine, running_engine
from tests.fakes.loop import LoopThread
from tests.server.gateway.documented import DocumentedClient, DocumentedOpenAIClient

TOKEN = "between-the-two"
PATIENCE_SECONDS = 60.0


@dataclass(slots=True)
class Gateway:
    """A running gateway and what a test needs around it."""

    url: str
    key: str
    settings: Settings
    engine: FakeEngine
    exporter: InMemorySpanExporter
    folder: Path
    http: DocumentedClient
    stop: Callable[[], None]
    wait_stopped: Callable[[], None]
    clients: ExitStack

    def openai(self, key: str | None = None) -> OpenAI:
        """The official client; it does not retry, so that a test sees each answer."""
        client = OpenAI(
            base_url=f"{self.url}/v1",
            api_key=key or self.key,
            max_retries=0,
            timeout=PATIENCE_SECONDS,
            http_client=DocumentedOpenAIClient(),
        )
        self.clients.callback(client.close)
        return client

    def register(self, name: str, *, alpha: int = 4, query: str = "") -> dict[str, Any]:
        """Upload an adapter; another `alpha` makes other bytes."""
        folder = write_adapter(self.folder / f"{name}-{alpha}", config=lora_config(lora_alpha=alpha))
        answer = self.upload(name, {path.name: path.read_bytes() for path in folder.iterdir()}, query)
        assert answer.is_success, answer.text
        view: dict[str, Any] = answer.json()
        return view

    def upload(self, name: str, files: Mapping[str, bytes], query: str = "") -> httpx.Response:
        form = [("file", (file, data)) for file, data in files.items()]
        return self.http.post(f"/admin/adapters/{name}/versions{query}", files=form)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with this name and these labels on the metrics page; 0 if there is none."""
        page = self.http.get("/metrics").text
        return sum(
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def notice_ended_connections(self) -> None:
        """A turn of its loop, in which it sees which have ended; else it may be late for a second try."""
        assert self.http.get("/healthz").status_code == 200

    def spans(self, *, named: str, count: int = 1) -> list[ReadableSpan]:
        """Wait until so many spans whose name starts so have ended."""
        eventually(lambda: len(self._spans(named)) >= count)
        return self._spans(named)

    def _spans(self, named: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(named)]


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds that another thread brings about."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def good_files(folder: Path) -> dict[str, bytes]:
    return files_of(write_adapter(folder, config=lora_config(), tensors=lora_tensors()))


Start = Callable[..., AbstractContextManager[Gateway]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start a gateway with other settings than the default."""
    # These limits are for engines that hang. On a machine with much to do this one takes longer now and then, and then
    # it would be taken for lost.
    for limit in ("STATE_SECONDS", "METRICS_SECONDS"):
        monkeypatch.setattr(engine_client, limit, PATIENCE_SECONDS)
    monkeypatch.setattr(accounting, "USAGE_WAIT_SECONDS", 10.0)

    @contextmanager
    def started(*, engine_up: bool = True, **flags: Any) -> Iterator[Gateway]:
        folder = tmp_path / "here"
        folder.mkdir(exist_ok=True)
        base = BaseModel.read(tmp_path / "tiny" if (tmp_path / "tiny").exists() else write_base(tmp_path))
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        with ExitStack() as stack:
            # Not below tmp_path: a socket's path must be short.
            socket = Path(stack.enter_context(TemporaryDirectory(prefix="ld-"))) / "engine.sock"
            settings = load_settings(
                **{
                    "home": home,
                    "port": 0,
                    "model": str(base.folder),
                    "admin_key": "ld-test-admin-key-0123456789",
                    "engine_url": f"unix:{socket}",
                    **flags,
                }
            )
            engine = stack.enter_context(
                running_engine(socket, token=TOKEN, base={"name": base.name, "digest": base.digest})
            )
            if not engine_up:
                engine.die()
            thread = stack.enter_context(LoopThread())
            yield from _running(
                stack,
                thread,
                settings,
                engine,
                ServedBase(base, settings.served_model_name or base.name),
                folder,
                engine_up,
            )

    return started


def _running(
    stack: ExitStack,
    thread: LoopThread,
    settings: Settings,
    engine: FakeEngine,
    base: ServedBase,
    folder: Path,
    engine_up: bool,
) -> Iterator[Gateway]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    stop = thread.call(asyncio.Event)
    started: list[Started] = []
    serving = asyncio.run_coroutine_threadsafe(
        run_gateway(
            settings, base=base, engine_token=TOKEN, stop=stop, on_started=started.append, tracer_provider=provider
        ),
        thread.loop,
    )
    eventually(lambda: bool(started) or serving.done())
    if not started:
        serving.result()
    stack.callback(lambda: serving.result(PATIENCE_SECONDS))
    stack.callback(lambda: thread.call(stop.set))
    key = settings.admin_key.get_secret_value() if settings.admin_key else ""
    http = stack.enter_context(
        DocumentedClient(
            base_url=started[0].url,
            headers={"authorization": f"Bearer {key}"},
            timeout=PATIENCE_SECONDS,
            trust_env=False,
        )
    )
    if engine_up:
        eventually(lambda: http.get("/readyz").status_code == 200)
    gateway = Gateway(
        url=started[0].url,
        key=key,
        settings=settings,
        engine=engine,
        exporter=exporter,
        folder=folder,
        http=http,
        stop=lambda: thread.call(stop.set),
        wait_stopped=lambda: serving.result(PATIENCE_SECONDS),
        clients=stack.enter_context(ExitStack()),
    )
    yield gateway


@pytest.fixture
def gateway(start: Start) -> Iterator[Gateway]:
    """A gateway as it comes, its engine ready."""
    with start() as running:
        yield running
