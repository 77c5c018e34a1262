"""What offline commands need of this machine's home folder: the settings, and where the base model lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loradock_server.cli.errors import Unreadable
from loradock_server.settings import Settings, SettingsError, load_settings


def read_settings(**flags: Any) -> Settings:
    """The settings, with flags that are not None on top. Raises Unreadable."""
    try:
        return load_settings(**flags)
    except SettingsError as error:
        raise Unreadable(str(error)) from error


def base_folder(settings: Settings) -> Path:
    """Where the base model of these settings lies: a folder as it is, a name below the home folder."""
    given = Path(settings.model).expanduser()
    return given if given.is_dir() else settings.base_dir / settings.model


def require_base(folder: Path) -> Path:
    """The folder, if it is there. Raises Unreadable."""
    if not folder.is_dir():
        raise Unreadable(
            f"no base model at {folder}; an adapter belongs to one base model",
            fix="loradock base fetch, or name a folder with --base DIR",
        )
    return folder
