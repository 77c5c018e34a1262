"""What an operator may set, read once at the edge: flags over LORADOCK_* environment over loradock.toml.

The result is one frozen record that is passed down; nothing imports a global. This module knows no engine, no
database and no HTTP: only names, types, defaults and where the files of a home folder lie.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, PlainValidator, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from loradock_adapters.errors import StoreError
from loradock_adapters.promotion_gate import PromotionGate
from loradock_adapters.rate_limits import HIGHEST, NO_LIMITS, RateLimits
from loradock_adapters.signing import TrustedKey
from loradock_adapters.sources import AllowList
from loradock_adapters.store import Store, is_bucket, open_store
from loradock_adapters.store.opening import CACHE_BYTES
from loradock_server.prices import Prices

ENV_PREFIX = "LORADOCK_"
CONFIG_FILE = "loradock.toml"
# The kernel allows 108 bytes with the closing zero; some systems allow fewer.
LONGEST_SOCKET_PATH = 100
DEFAULT_BASE = "smollm2-135m-instruct"

# Read by the client commands and by tools around us, not by the server: never an "unknown setting".
CLIENT_VARIABLES = frozenset({"LORADOCK_URL", "LORADOCK_API_KEY", "LORADOCK_CONFIG"})


class SettingsError(ValueError):
    """A setting is unknown or has a bad value; the message names it and the nearest valid name."""


def _read_limits(value: Any) -> RateLimits:
    """Words as name=number, several with commas between, or a table. Raises ValueError."""
    if isinstance(value, RateLimits):
        return value
    if not isinstance(value, str):
        return RateLimits.read(value)
    pairs = [word.partition("=") for word in value.replace(",", " ").split()]
    return RateLimits.read({name: int(number) if number.isdecimal() else number for name, _, number in pairs})


class Settings(BaseSettings):
    """Every setting of gateway and engine. Sizes in bytes, times in seconds."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    home: Path = Field(default=Path("var"), description="folder that holds all state")
    host: str = Field(default="127.0.0.1", description="address the gateway listens on")
    port: int = Field(default=8000, ge=0, le=65535, description="port the gateway listens on")
    workers: int = Field(default=1, ge=1, le=64, description="gateway processes on that port")

    # Who may call
    admin_key: SecretStr | None = Field(default=None, description="first admin key, if you want to choose it")
    open_inference: bool = Field(default=False, description="answer inference without a key")

    # Tokens (JWT) beside keys
    jwt_issuer: str | None = Field(default=None, min_length=1, description="whose tokens are taken: their claim iss")
    jwt_audience: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="what their claim aud must name, several with spaces between"
    )
    jwt_jwks_url: str | None = Field(default=None, description="where the issuer publishes its keys (JWKS)")
    jwt_jwks_file: Path | None = Field(default=None, description="a file with these keys instead")
    jwt_tenant_claim: str = Field(default="tenant", min_length=1, description="the claim that names the tenant")
    jwt_scopes_claim: str = Field(default="scope", min_length=1, description="the claim with the scopes")
    jwt_scope_prefix: str = Field(default="loradock:", description="how our scopes begin there, as in loradock:infer")
    jwt_adapters_claim: str = Field(
        default="adapters", min_length=1, description="the claim with patterns of names; without it every one"
    )
    jwt_limits: Annotated[RateLimits, NoDecode, PlainValidator(_read_limits)] = Field(
        default=NO_LIMITS, description="what each bearer may ask for, as requests_per_minute=60,tokens_per_day=100000"
    )

    # Base model
    model: str = Field(default=DEFAULT_BASE, description="bundled base name, local folder, or hub id")
    served_model_name: str | None = Field(default=None, description="name of the base model for clients")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    max_model_len: int = Field(default=2048, ge=16, description="longest prompt + answer, tokens")

    # What all who ask for the base model may take together; of adapters: `loradock adapters set`
    base_requests_per_minute: int | None = Field(default=None, ge=1, le=HIGHEST["requests_per_minute"])
    base_tokens_per_minute: int | None = Field(default=None, ge=1, le=HIGHEST["tokens_per_minute"])
    base_max_concurrency: int | None = Field(default=None, ge=1, le=HIGHEST["max_concurrency"])
    base_tokens_per_day: int | None = Field(default=None, ge=1, le=HIGHEST["tokens_per_day"])

    limits_url: str | None = Field(
        default=None, description="where gateways share limits, as redis://host:6379/0; default the registry"
    )

    # Adapters
    registry_url: str | None = Field(default=None, description="SQLAlchemy URL; default SQLite in home")
    artifacts: str | None = Field(
        default=None, description="where adapters' bytes are kept: a folder (default: in home), or s3://bucket/prefix"
    )
    artifacts_cache_bytes: int = Field(
        default=CACHE_BYTES, ge=0, description="local copies of what lies in a bucket, all together"
    )
    source_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(), description="folders from which a server-side path may be registered"
    )
    source_prefixes: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="what URIs to register may begin with, such as hf://my-org s3://bucket/adapters"
    )
    source_timeout: float = Field(default=600.0, gt=0, description="longest fetch of a source, all of it")
    smoke_probe: Literal["when-up", "required", "off"] = Field(
        default="when-up", description="compare an adapter with the base on the engine before it may answer"
    )
    max_rank: int = Field(default=64, ge=1, le=512, description="highest adapter rank")
    max_adapter_bytes: int = Field(default=1 << 30, ge=1, description="largest adapter, all files together")
    max_loras: int = Field(default=8, ge=1, description="distinct adapters in one batch (slots)")
    max_cpu_loras: int = Field(default=64, ge=1, description="adapters kept in memory")
    require_signature: bool = Field(default=False, description="serve only what one of trusted_keys signed")
    trusted_keys: Annotated[tuple[TrustedKey, ...], NoDecode] = Field(
        default=(), description="public keys of signers, as name=KEY, several with commas between"
    )
    promotion_gate: Annotated[PromotionGate | None, NoDecode] = Field(
        default=None, description="what evaluations must say before a version goes live: metric=…,no_worse_by=…"
    )
    adapter_memory_bytes: int = Field(default=4 << 30, ge=1 << 20, description="memory for adapters, all together")

    # Engine
    engine_url: str | None = Field(default=None, description="unix:/path or http://host:port of the engine")
    engine_token: SecretStr | None = Field(default=None, description="secret between gateway and engine")
    engine_args: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="further vLLM flags, as vllm serve takes them"
    )
    cpu_kernel: Literal["auto", "paired", "wide", "gemm"] = Field(
        default="auto", description="how LoRA is computed on CPU: auto, paired, wide or gemm"
    )
    compile: bool = Field(default=True, description="compile the model on CPU; faster, once over a minute to start")
    kv_cache_bytes: int = Field(default=1 << 30, ge=1 << 20, description="CPU key/value cache")
    engine_start_timeout: float = Field(default=600.0, gt=0, description="a start that takes longer begins anew")
    hang_timeout: float = Field(default=30.0, ge=1, description="an engine without a sign of life is replaced")
    drain_timeout: float = Field(default=30.0, ge=0, description="how long SIGTERM waits for running requests")

    # Fair admission (docs/engine.md)
    max_waiting: int = Field(default=1000, ge=0, description="requests that wait in the engine, then 503")
    max_waiting_per_adapter: int = Field(default=200, ge=0, description="requests that wait for one adapter, then 429")
    fair_quantum_tokens: int = Field(
        default=1000, ge=1, description="service after which a running adapter makes way; an output token counts 2"
    )
    fair_quantum_seconds: float = Field(default=2.0, gt=0, description="time after which it makes way in any case")
    fair_patience: float = Field(default=10.0, ge=0, description="who has waited longer goes first, whatever it used")

    # Requests
    max_body_bytes: int = Field(default=8 << 20, ge=1024, description="largest inference request body")
    connect_timeout: float = Field(default=5.0, gt=0, description="seconds for a connection to the engine")
    first_byte_timeout: float = Field(default=300.0, gt=0, description="seconds until a stream's first event")
    chunk_timeout: float = Field(default=120.0, gt=0, description="longest pause of the engine within a stream")
    request_timeout: float = Field(default=600.0, gt=0, description="seconds for one request, all of it")
    client_timeout: float = Field(
        default=60.0, gt=0, description="how slowly a client may send its request or take its answer"
    )

    # Usage
    prices: Annotated[Prices | None, NoDecode] = Field(
        default=None, description="price list for usage: a .toml or .json file, or the JSON itself"
    )

    # Telemetry
    metrics_adapter_limit: int = Field(default=200, ge=1, description="adapter label values before 'other'")
    record_content: bool = Field(default=False, description="put prompts and answers into traces")
    log_format: Literal["auto", "text", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("source_roots", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        return tuple(p for p in value.split(os.pathsep) if p) if isinstance(value, str) else value

    @field_validator("trusted_keys", mode="before")
    @classmethod
    def _read_keys(cls, value: Any) -> Any:
        words = value.split(",") if isinstance(value, str) else value
        if not isinstance(words, (list, tuple)):
            raise ValueError("a list of name=KEY is needed")
        keys = [one if isinstance(one, TrustedKey) else TrustedKey.parse(str(one)) for one in words if one != ""]
        names = [key.name for key in keys]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the signer {twice[0]!r} is named twice; give every key a name of its own")
        return tuple(keys)

    @field_validator("prices", mode="before")
    @classmethod
    def _read_prices(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return Prices.read(value) if value.strip() else None

    @field_validator("promotion_gate", mode="before")
    @classmethod
    def _read_gate(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return PromotionGate.parse(value) if value.strip() else None

    @field_validator("jwt_jwks_url", mode="after")
    @classmethod
    def _safe_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        loopback = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if not parts.hostname or parts.scheme not in ("https", "http") or (parts.scheme == "http" and not loopback):
            raise ValueError(
                "an https:// address is needed (http:// only to this machine): whoever can change what "
                "it answers can make tokens"
            )
        return value

    @model_validator(mode="after")
    def _whole_issuer(self) -> Settings:
        sources = [one for one in (self.jwt_jwks_url, self.jwt_jwks_file) if one is not None]
        if not (self.jwt_issuer or self.jwt_audience or sources):
            return self
        if not (self.jwt_issuer and self.jwt_audience and len(sources) == 1):
            raise ValueError(
                "tokens need all of jwt_issuer, jwt_audience and one of jwt_jwks_url and jwt_jwks_file: without an "
                "audience a token for any other service would open this one"
            )
        return self

    @model_validator(mode="after")
    def _somebody_may_sign(self) -> Settings:
        if self.require_signature and not self.trusted_keys:
            raise ValueError("require_signature without trusted_keys would refuse every adapter; set both")
        return self

    @field_validator("engine_args", "jwt_audience", mode="before")
    @classmethod
    def _split_words(cls, value: Any) -> Any:
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("source_prefixes", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("source_prefixes", mode="after")
    @classmethod
    def _usable_prefixes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        AllowList.of(value)
        return value

    @field_validator("limits_url", mode="after")
    @classmethod
    def _redis_url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("write redis://host:6379/0, rediss://… or unix:///path; without it the registry is used")
        return value

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("artifacts", mode="after")
    @classmethod
    def _folder_or_bucket(cls, value: str | None) -> str | None:
        try:
            return value if value is None or is_bucket(value) else str(Path(value).expanduser().absolute())
        except StoreError as error:
            raise ValueError(str(error)) from error

    @property
    def store(self) -> str:
        """Where adapters' bytes are kept: an absolute folder, or s3://bucket/prefix."""
        return self.artifacts or str(self.home / "store")

    @property
    def store_cache(self) -> Path:
        """Local copies of what lies in a bucket."""
        return self.home / "cache" / "artifacts"

    def open_store(self) -> Store:
        """The artifact store; nothing is read yet. Raises StoreError."""
        return open_store(self.store, self.store_cache, cache_bytes=self.artifacts_cache_bytes)

    @property
    def registry(self) -> str:
        return self.registry_url or f"sqlite:///{self.home / 'registry.db'}"

    @property
    def run_dir(self) -> Path:
        """Sockets, tokens and keys that live as long as one server run."""
        return self.home / "run"

    @property
    def engine(self) -> str:
        if self.engine_url:
            return self.engine_url
        path = self.run_dir / "engine.sock"
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            mark = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]
            path = Path(tempfile.gettempdir()) / f"loradock-{mark}" / "engine.sock"
        return f"unix:{path}"

    @property
    def base_dir(self) -> Path:
        """Where fetched base models lie, one folder each."""
        return self.home / "base"

    @property
    def base_limits(self) -> RateLimits:
        """Of the base model."""
        return RateLimits(
            requests_per_minute=self.base_requests_per_minute,
            tokens_per_minute=self.base_tokens_per_minute,
            max_concurrency=self.base_max_concurrency,
            tokens_per_day=self.base_tokens_per_day,
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = Path(os.environ.get("LORADOCK_CONFIG", CONFIG_FILE))
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=path)


def load_settings(**flags: Any) -> Settings:
    """Read flags, environment and file; flags that are None do not count.

    Raises SettingsError for unknown names (with the nearest valid one) and bad values, all of them at once.
    """
    _refuse_unknown_environment()
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(fault) for fault in error.errors())) from error
    except (OSError, ValueError) as error:  # an unreadable or malformed TOML file
        raise SettingsError(f"{os.environ.get('LORADOCK_CONFIG', CONFIG_FILE)}: {error}") from error


def _refuse_unknown_environment() -> None:
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_VARIABLES
    unknown = [name for name in os.environ if name.startswith(ENV_PREFIX) and name not in known]
    if unknown:
        raise SettingsError(
            "; ".join(f"unknown setting {name} in the environment{_nearest(name, known)}" for name in unknown)
        )


def _explain(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown setting {name!r}{_nearest(name, Settings.model_fields)}"
    if not name:  # about several at once; the input would be all of them, keys too
        return str(fault["msg"]).removeprefix("Value error, ")
    return f"{name}: {fault['msg']} (got {fault.get('input')!r})"


def _nearest(name: str, valid: Any) -> str:
    found = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""
