"""A model's config.json from a hub, and nothing else of it; the token comes from the environment (HF_TOKEN) only."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from loradock_adapters.errors import BaseModelError

_ANSWER_SECONDS = 10.0


def fetch_config(model: str, scratch: Path) -> Path:
    """Put config.json of the hub id `model` into a folder below `scratch`. Raises BaseModelError."""
    endpoint, token = os.environ.get("HF_ENDPOINT") or None, os.environ.get("HF_TOKEN") or False
    try:
        commit = HfApi(endpoint=endpoint, token=token).model_info(model, timeout=_ANSWER_SECONDS).sha
        path = hf_hub_download(
            model,
            "config.json",
            revision=commit,
            local_dir=scratch / model.rpartition("/")[2],
            cache_dir=scratch / "cache",
            token=token,
            endpoint=endpoint,
            etag_timeout=_ANSWER_SECONDS,
        )
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        httpx.HTTPError,
        OSError,
    ) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BaseModelError(f"{model} cannot be had from the hub, and is no folder here: {reason}") from error
    return Path(path)
