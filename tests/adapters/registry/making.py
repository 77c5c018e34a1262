"""Registering without bytes: what the gateway does once a check was passed and the store has the files."""

from __future__ import annotations

from loradock_adapters.registry import Actor, Registry, Staged, VersionFacts

ME = Actor("me", "key-1", "127.0.0.1")


def facts(number: int) -> VersionFacts:
    """What is known of the `number`th bytes."""
    return VersionFacts(
        digest=f"{number:064x}",
        size_bytes=5_000_000_000,
        rank=8,
        target_modules=("q_proj", "v_proj"),
        base_digest="b" * 64,
        source="upload",
        manifest={"recipe": {"steps": number}},
    )


def register(registry: Registry, name: str, number: int, *, by: Actor = ME, alias: str | None = "live") -> Staged:
    """From nothing to a ready version, in three transactions."""
    staged = registry.versions.stage(name, facts(number), by=by)
    registry.versions.verify(staged.ref, by=by)
    registry.versions.make_ready(staged.ref, by=by, alias=alias)
    return staged
