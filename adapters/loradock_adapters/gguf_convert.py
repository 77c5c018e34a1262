"""`python -m loradock_adapters.gguf_convert GGUF FOLDER MAX_LENGTH`: a GGUF file as transformers saves a model.

A process of its own, so that nobody else has to hold torch and transformers. Why it failed is the last line of its
standard output.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

# Written by transformers about the run, not the model; without them the same weights get the same digest.
_RUN_FACTS = frozenset({"transformers_version", "is_local", "local_files_only", "_from_model_config"})


def main() -> None:
    gguf, made, max_length = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    try:
        convert(gguf, made, max_length)
    except ImportError as error:
        _fail(f"it needs {error.name}; install loradock[cpu] or loradock[train]")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        _fail(f"transformers failed: {error}")


def convert(gguf: Path, made: Path, max_length: int) -> None:
    """Dequantise to float32, round once to bf16, save as transformers does, with tokenizer and chat template.

    Raises what transformers raises.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    network = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    tokenizer.model_max_length = max_length
    network.to(torch.bfloat16).save_pretrained(made)
    tokenizer.save_pretrained(made)
    for path in made.glob("*config.json"):
        kept = {k: v for k, v in json.loads(path.read_bytes()).items() if k not in _RUN_FACTS}
        path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for path in made.iterdir():
        path.chmod(0o644)


def _fail(reason: str) -> None:
    sys.stdout.write(" ".join(reason.split()) + "\n")
    sys.exit(1)


if __name__ == "__main__":
    main()
