"""Where the base model's files are, for whoever serves them: the bundled one, a local folder, or a hub snapshot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from loradock_adapters.base_model import BaseModel
from loradock_adapters.errors import BaseModelError
from loradock_adapters.servable import obstacle
from loradock_server.base import ServedBase
from loradock_server.settings import DEFAULT_BASE, Settings


def open_base(settings: Settings, *, say: Callable[[str], None] = lambda text: None) -> ServedBase:
    """Find the base model of `settings`, downloading it when it is not here yet; `say` gets a line per step.

    Raises BaseModelError when it cannot be had or read, or not be served with adapters.
    """
    folder = _folder(settings, say)
    if found := obstacle(folder):
        raise BaseModelError(f"{folder} cannot be served with adapters: {found}")
    base = BaseModel.read(folder)
    hub_name = settings.model if not Path(settings.model).exists() else base.name
    return ServedBase(base, settings.served_model_name or hub_name)


def _folder(settings: Settings, say: Callable[[str], None]) -> Path:
    if settings.model == DEFAULT_BASE:
        from loradock_adapters.base_fetch import fetch

        return fetch(settings.base_dir, progress=say)
    local = Path(settings.model).expanduser()
    if local.is_dir():
        return local.absolute()
    if local.is_absolute() or settings.model.startswith((".", "~")) or settings.model.count("/") != 1:
        raise BaseModelError(
            f"base model {settings.model!r} is no folder here; "
            f"give {DEFAULT_BASE!r}, a folder, or a hub id like org/name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    say(f"fetching {settings.model} from the hub")
    try:
        return Path(
            snapshot_download(settings.model, allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"])
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise BaseModelError(f"base model {settings.model!r} cannot be fetched from the hub: {error}") from error
