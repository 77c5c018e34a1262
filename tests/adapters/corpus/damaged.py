"""LoRA adapters that something went wrong with: in training, in saving, on the way, or on purpose."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from loradock_adapters.peft_folder import CONFIG_FILE, WEIGHTS_FILE
from tests.adapters.corpus.case import Build, bad, lora, with_fields, with_files, with_tensors
from tests.adapters.corpus.good import manifest, tokenizer
from tests.adapters.corpus.world import LIMITS, Tensors, World, adapted, saved

Q = "base_model.model.model.layers.0.self_attn.q_proj"
A, B = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"
HALF = replace(LIMITS, dtype="float16")


def renamed(change: Callable[[str], str]) -> Build:
    return with_tensors(lambda tensors: {change(name): tensor for name, tensor in tensors.items()})


def without(*names: str) -> Build:
    return with_tensors(lambda tensors: {name: tensors[name] for name in tensors if name not in names})


def replaced(**sides: torch.Tensor) -> Build:
    """Layer 0's q_proj with another A or B."""
    return with_tensors(lambda tensors: tensors | {f"{Q}.lora_{side}.weight": new for side, new in sides.items()})


def one_number(side: str, number: float) -> Build:
    def change(tensors: Tensors) -> Tensors:
        tensors[f"{Q}.lora_{side}.weight"][0, 0] = number
        return tensors

    return with_tensors(change)


def zeroed(part: str) -> Build:
    return with_tensors(lambda tensors: {name: tensor * (part not in name) for name, tensor in tensors.items()})


def trained_as_auto_model(world: World, folder: Path) -> None:
    saved(adapted(world, model=world.model().model, task_type=None), folder)


def as_torch_saves(name: str, *, keep: bool = False) -> Build:
    def build(world: World, folder: Path) -> None:
        lora()(world, folder)
        tensors = load_file(folder / WEIGHTS_FILE)
        if not keep:
            (folder / WEIGHTS_FILE).unlink()
        torch.save(tensors, folder / name)

    return build


def raw_weights(change: Callable[[bytes], bytes]) -> Build:
    def build(world: World, folder: Path) -> None:
        lora()(world, folder)
        path = folder / WEIGHTS_FILE
        path.write_bytes(change(path.read_bytes()))

    return build


def raw_header(change: Callable[[str], str]) -> Build:
    def changed(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        header = change(data[8 : 8 + length].decode().rstrip()).encode()
        return len(header).to_bytes(8, "little") + header + data[8 + length :]

    return raw_weights(changed)


def entry(header: str, number: int, **fields: object) -> str:
    parsed = json.loads(header)
    name = [key for key in parsed if key != "__metadata__"][number]
    parsed[name] = {**parsed[name], **fields}
    return json.dumps(parsed)


def overlapping(header: str) -> str:
    """The second tensor lies where the first one does."""
    names = [name for name in json.loads(header) if name != "__metadata__"]
    starts = {number: json.loads(header)[name]["data_offsets"] for number, name in enumerate(names)}
    (start, _), (second_start, second_end) = sorted(starts.values())[:2]
    number = next(number for number, (begin, _) in starts.items() if begin == second_start)
    return entry(header, number, data_offsets=[start, start + second_end - second_start])


def one_name_twice(header: str) -> str:
    return header[:-1] + f',"{A}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}}}'


def no_config(world: World, folder: Path) -> None:
    lora()(world, folder)
    (folder / CONFIG_FILE).unlink()


def no_weights(world: World, folder: Path) -> None:
    lora()(world, folder)
    (folder / WEIGHTS_FILE).unlink()


def config_is_a_folder(world: World, folder: Path) -> None:
    no_config(world, folder)
    (folder / CONFIG_FILE).mkdir()


def everything_at_once(world: World, folder: Path) -> None:
    saved(adapted(world, r=32, use_dora=True, target_modules=["q_proj", "lm_head"]), folder)
    tensors = load_file(folder / WEIGHTS_FILE)
    tensors[A][0, 0] = float("nan")
    del tensors[B]
    save_file(tensors, folder / WEIGHTS_FILE)
    with_fields(lambda *_: None, base_model_name_or_path="x/other", lora_alpha=-1)(world, folder)
    with_files({"added_tokens.json": '{"<mine>": 63}'}, lambda *_: None)(world, folder)


def a_zip_of_torch() -> bytes:
    buffer = io.BytesIO()
    torch.save({}, buffer)
    return buffer.getvalue()


DAMAGED = (
    # Names
    bad("trained-as-auto-model", trained_as_auto_model, "key_names"),
    bad(
        "under-a-language-model",
        renamed(lambda n: n.replace("model.layers", "model.language_model.layers")),
        "key_names",
    ),
    bad("no-prefix", renamed(lambda n: n.removeprefix("base_model.model.")), "key_names"),
    bad("prefix-twice", renamed(lambda n: f"base_model.model.{n}"), "key_names"),
    bad("compiled", renamed(lambda n: n.replace(".model.layers", "._orig_mod.model.layers")), "key_names"),
    bad("adapters-name-inside", renamed(lambda n: n.replace(".weight", ".default.weight")), "key_names"),
    bad(
        "two-prefixes",
        renamed(lambda n: n.replace("model.layers.0", "language_model.layers.0")),
        "unknown_module",
        "missing_tensors",
    ),
    bad("misspelt", renamed(lambda n: n.replace("q_proj", "q_porj")), "unknown_module", "missing_tensors"),
    bad("a-stranger", with_tensors(lambda t: t | {"step": torch.ones(1)}), "unknown_tensor"),
    # Pairs and shapes
    bad("half-a-pair-a", without(A), "incomplete_pair"),
    bad("half-a-pair-b", without(B), "incomplete_pair"),
    bad("a-module-missing", without(A, B), "missing_tensors"),
    bad("a-layer-missing", with_fields(lora(layers_to_transform=[1]), layers_to_transform=None), "missing_tensors"),
    bad("nothing", with_tensors(lambda tensors: {}), "no_tensors", "missing_tensors"),
    bad("untargeted", with_fields(target_modules=["q_proj"]), "untargeted_tensors"),
    bad("another-rank-than-said", with_fields(r=8), "rank_mismatch"),
    bad("another-rank-in-one-module", replaced(A=torch.ones(3, 32), B=torch.ones(32, 3)), "rank_mismatch"),
    bad("transposed", replaced(A=torch.ones(32, 4)), "shape", "rank_mismatch"),
    bad("a-shard-of-zero-3", replaced(A=torch.ones(128)), "shape"),
    bad("an-empty-shard", replaced(B=torch.ones(0, 4)), "shape"),
    bad("rank-above-the-limit", lora(r=17), "rank"),
    bad("rank-above-the-limit-by-pattern", lora(rank_pattern={"q_proj": 20}), "rank"),
    bad("float64", replaced(A=torch.ones(4, 32, dtype=torch.float64)), "dtype"),
    bad("int8", replaced(A=torch.ones(4, 32, dtype=torch.int8)), "dtype"),
    # Numbers
    bad("untrained", lora(trained=False), "no_effect"),
    bad("every-b-zero", zeroed("lora_B"), "no_effect"),
    bad("every-a-zero", zeroed("lora_A"), "no_effect"),
    bad(
        "a-zero-here-b-zero-there",
        with_tensors(lambda t: {n: x * (("q_proj" in n) != ("lora_A" in n)) for n, x in t.items()}),
        "no_effect",
    ),
    bad("nan", one_number("A", float("nan")), "not_finite"),
    bad("infinity", one_number("B", float("inf")), "not_finite"),
    bad("beyond-float16", one_number("A", 70_000.0), "overflow", limits=HALF),
    bad("beyond-float16-by-the-scale", with_fields(one_number("B", 40_000.0), lora_alpha=8), "overflow", limits=HALF),
    bad(
        "below-float16",
        with_tensors(lambda t: {n: x * 1e-9 if "lora_B" in n else x for n, x in t.items()}),
        "no_effect",
        limits=HALF,
    ),
    # Configuration
    bad("rank-0", with_fields(r=0), "config_value"),
    bad("no-alpha", with_fields(lora_alpha=None), "config_value"),
    bad("no-targets", with_fields(target_modules=None), "config_value"),
    bad("a-pattern-for-ever", with_fields(rank_pattern={"(a+)+b": 4}), "pattern"),
    bad("a-hundred-slow-patterns", with_fields(alpha_pattern={f".*x{n}": 4 for n in range(100)}), "pattern"),
    bad("one-key-twice", with_files({CONFIG_FILE: '{"peft_type": "LORA", "r": 4, "r": 64}'}), "bad_json"),
    bad("nan-in-json", with_files({CONFIG_FILE: '{"peft_type": "LORA", "r": NaN}'}), "bad_json"),
    bad("half-a-json", with_files({CONFIG_FILE: '{"peft_type": "LORA"'}), "bad_json"),
    bad("a-json-list", with_files({CONFIG_FILE: "[]"}), "bad_json"),
    bad("megabytes-of-json", with_files({CONFIG_FILE: " " * (1 << 20) + "{}"}), "bad_json", "too_large"),
    bad("a-manifest-that-is-none", with_files({"manifest.json": "{"}), "bad_json"),
    # Base model and tokenizer
    bad("another-recorded-base", with_files(manifest(digest="e" * 64)), "base_digest"),
    bad("another-base-by-name", with_fields(base_model_name_or_path="someone/Tiny-Llama-Instruct"), "base_name"),
    bad("another-base-4bit", with_fields(base_model_name_or_path="unsloth/Huge-Llama-bnb-4bit"), "base_name"),
    bad("added-tokens", with_files({"added_tokens.json": '{"<s>": 60, "<mine>": 63}'}), "added_tokens"),
    bad("a-known-token-elsewhere", with_files({"added_tokens.json": '{"<s>": 62}'}), "added_tokens"),
    bad(
        "added-tokens-in-the-tokenizers-configuration",
        with_files(tokenizer(pad_token="</s>", added_tokens_decoder={"64": {"content": "<tool>"}})),
        "added_tokens",
    ),
    # Pickles
    bad("bin", as_torch_saves("adapter_model.bin"), "pickle", notes=("pickle_beside",)),
    bad("pt", as_torch_saves("adapter_model.pt"), "pickle", notes=("pickle_beside",)),
    bad("torch-archive-called-safetensors", with_files({WEIGHTS_FILE: a_zip_of_torch()}), "pickle"),
    bad("pickle-called-safetensors", with_files({WEIGHTS_FILE: pickle.dumps({"a": [1.0] * 99})}), "pickle"),
    bad("pickle-called-readme", with_files({"README.md": pickle.dumps({"a": [1.0] * 99}, 2)}), "pickle"),
    # safetensors with a lie in them
    bad("a-header-beyond-the-file", raw_weights(lambda d: (1 << 20).to_bytes(8, "little") + d[8:]), "bad_safetensors"),
    bad("a-header-of-exabytes", raw_weights(lambda d: (1 << 62).to_bytes(8, "little") + d[8:]), "bad_safetensors"),
    bad("cut-short", raw_weights(lambda d: d[:-100]), "bad_safetensors"),
    bad("bytes-behind-the-end", raw_weights(lambda d: d + b"\0"), "bad_safetensors"),
    bad("a-few-bytes", with_files({WEIGHTS_FILE: b"abc"}), "bad_safetensors"),
    bad("overlapping", raw_header(overlapping), "bad_safetensors"),
    bad("a-shape-without-its-bytes", raw_header(lambda h: entry(h, 0, shape=[1 << 40, 1 << 40])), "bad_safetensors"),
    bad("negative-offsets", raw_header(lambda h: entry(h, 0, data_offsets=[-512, 0])), "bad_safetensors"),
    bad("an-unknown-type", raw_header(lambda h: entry(h, 0, dtype="F3")), "bad_safetensors"),
    bad("one-tensor-twice", raw_header(one_name_twice), "bad_safetensors"),
    bad("header-no-json", raw_header(lambda h: h[:-1]), "bad_safetensors"),
    # Files
    bad("no-configuration", no_config, "missing_file"),
    bad("no-weights", no_weights, "missing_file"),
    bad("too-large", with_files({"README.md": " " * (1 << 19)}), "too_large"),
    bad("a-folder-for-a-file", config_is_a_folder, "unreadable"),
    bad(
        "everything-at-once",
        everything_at_once,
        *("rank", "dora", "config_value", "base_name", "added_tokens", "embedding", "not_finite", "incomplete_pair"),
    ),
)
