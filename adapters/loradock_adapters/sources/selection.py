"""Which of a remote folder's files are an adapter's: only those are fetched."""

from __future__ import annotations

from collections.abc import Iterable

from loradock_adapters.errors import SourceMissing
from loradock_adapters.peft_folder import ADAPTER_FILES, CONFIG_FILE, JUDGED_FILES, PICKLED_WEIGHTS, WEIGHTS_FILE


def adapter_names(names: Iterable[str], where: str, *, pickles: bool) -> list[str]:
    """Those of the plain names that are worth fetching, sorted.

    Weights in a pickle count only with `pickles`, and if there are no others. Raises SourceMissing.
    """
    there = set(names)
    if CONFIG_FILE not in there:
        seen = ", ".join(ascii(name[:80]) for name in sorted(there)[:5]) or "nothing"
        raise SourceMissing(
            f"{where} has no {CONFIG_FILE}; there is {seen}",
            "an adapter is what PEFT's save_pretrained wrote",
            "name the folder it lies in",
        )
    pickled = there.intersection(PICKLED_WEIGHTS)
    if WEIGHTS_FILE not in there and pickled and not pickles:
        raise SourceMissing(
            f"{where} has its weights in {min(pickled)}, a pickle, which can run code when it is read",
            f"only {WEIGHTS_FILE} is fetched",
            f"loradock adapters check {where} --fix OUT converts it without running any",
        )
    wanted = ADAPTER_FILES | JUDGED_FILES | (pickled if WEIGHTS_FILE not in there else frozenset())
    return sorted(there & wanted)
