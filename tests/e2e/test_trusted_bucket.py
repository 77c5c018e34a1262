"""A server as one of many: its registry in PostgreSQL, its adapters in a bucket, and only what a trainer signed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import obstore
import openai
import pytest

from loadtest.correctness.loud import make_loud
from loradock_adapters.base_model import BaseModel
from loradock_adapters.signing import make_key, read_key, write_signature
from tests.e2e.server import Server, run_server
from tests.postgres import Postgres
from tests.seaweed import Seaweed

pytestmark = pytest.mark.e2e

NAMES = ("vouched", "second")


@pytest.fixture(scope="module")
def bucket(seaweed: Seaweed) -> str:
    return seaweed.new_bucket()


@pytest.fixture(scope="module")
def trusting(
    base: BaseModel, postgres: Postgres, seaweed: Seaweed, bucket: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, dict[str, Path]]]:
    """Memory for one adapter, so that each load of the other makes it leave; and both adapters, signed."""
    folder = tmp_path_factory.mktemp("signed")
    trusted = make_key(folder / "trainer.key", "trainer")
    with run_server(
        base.folder,
        **seaweed.environment,
        LORADOCK_REGISTRY_URL=postgres.new_database(),
        LORADOCK_ARTIFACTS=f"s3://{bucket}/adapters",
        LORADOCK_REQUIRE_SIGNATURE="true",
        LORADOCK_TRUSTED_KEYS=trusted.text,
        LORADOCK_MAX_LORAS="1",
        LORADOCK_MAX_CPU_LORAS="1",
    ) as server:
        folders = {}
        for seed, name in enumerate(NAMES):
            folders[name] = make_loud(folder / name, base, seed=80 + seed)
            write_signature(folders[name], read_key(folder / "trainer.key"))
            assert server.register(name, folders[name]) == f"{name}@1"
        yield server, folders


def answer(server: Server, name: str) -> str:
    with server.client() as client:
        done = client.completions.create(model=name, prompt="The tree", max_tokens=8, temperature=0)
    assert done.model == f"{name}@1"
    return done.choices[0].text


def forget_copies(server: Server) -> None:
    """As if this machine had never had these adapters."""
    for blob in (server.home / "cache/artifacts").rglob("*"):
        if blob.is_dir():
            blob.chmod(0o755)
    shutil.rmtree(server.home / "cache/artifacts")


def test_what_nobody_vouches_for_is_refused_and_the_signed_say_whose_they_are(
    trusting: tuple[Server, dict[str, Path]], base: BaseModel, tmp_path: Path
) -> None:
    server, _ = trusting
    unsigned = make_loud(tmp_path / "unsigned", base, seed=90)
    refused = httpx.post(
        f"{server.url}/admin/adapters/stranger/versions",
        files=[("file", (path.name, path.read_bytes())) for path in unsigned.iterdir()],
        headers={"authorization": f"Bearer {server.key}"},
        trust_env=False,
        timeout=60,
    )
    assert refused.status_code == 422
    assert "unsigned" in refused.text
    assert server.get("/admin/adapters/stranger").status_code == 404
    (version,) = server.loradock("adapters", "show", "vouched")["versions"]
    assert version["signature"]["signer"] == "trainer"


def test_adapters_come_out_of_the_bucket_again_on_a_machine_that_has_no_copy(
    trusting: tuple[Server, dict[str, Path]],
) -> None:
    server, _ = trusting
    expected = {name: answer(server, name) for name in NAMES}
    assert len(set(expected.values())) == len(NAMES)
    assert not (server.home / "store").exists()
    for name in NAMES:
        forget_copies(server)
        assert answer(server, name) == expected[name]


def test_bytes_that_somebody_changed_in_the_bucket_never_answer_and_nothing_else_notices(
    trusting: tuple[Server, dict[str, Path]], seaweed: Seaweed, bucket: str
) -> None:
    server, folders = trusting
    expected = {name: answer(server, name) for name in NAMES}  # the last one stays in memory
    store, changed = seaweed.store(bucket), NAMES[0]
    digest = server.loradock("adapters", "show", changed)["versions"][0]["digest"].removeprefix("sha256:")
    weights = f"adapters/files/{digest}/adapter_model.safetensors"
    data = bytearray(obstore.get(store, weights).bytes())
    data[len(data) // 2] ^= 1
    obstore.put(store, weights, bytes(data))
    forget_copies(server)
    with pytest.raises(openai.NotFoundError, match="holds other bytes"):
        answer(server, changed)
    assert answer(server, NAMES[1]) == expected[NAMES[1]]
    server.register(changed, folders[changed])
    assert {name: answer(server, name) for name in NAMES} == expected
