"""A model's shape by its config.json: transformers builds the model without a number in it, and its modules tell.

Without transformers a few families are counted from the config's own numbers (`families`). What would be counted wrong
is refused with what is missing. It reads no weight.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from loradock_adapters.base_model import MAX_JSON_BYTES
from loradock_adapters.base_modules import read_modules
from loradock_adapters.errors import BaseModelError
from loradock_adapters.files import read_capped
from loradock_adapters.linear_shape import LinearShape
from loradock_adapters.module_table import BaseModules, can_build
from loradock_adapters.planning.caches import caches_of
from loradock_adapters.planning.families import FAMILIES, parse_shape
from loradock_adapters.planning.shape import LinearKind, ModelShape
from loradock_adapters.strict_json import parse_object

_NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_EXPERTS_OF_A_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "top_k_experts")
# "model.layers.3.self_attn.q_proj": the first number is the layer's, the part is what lies between it and the module.
_LAYER = re.compile(r"\.(?P<layer>\d+)\.(?:(?P<part>.*)\.)?[^.]+$")
_ATTENTION = frozenset({"full_attention", "sliding_attention", "chunked_attention", "attention"})


def read_shape(folder: Path) -> ModelShape:
    """The shape of a model folder, or of a config.json. Imports torch where it is installed. Raises BaseModelError."""
    path = folder if folder.name == "config.json" else folder / "config.json"
    try:
        config = parse_object(read_capped(path, MAX_JSON_BYTES))
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"{path} cannot be read: {error}; give a model folder, or a hub id like org/name"
        ) from error
    name = path.resolve().parent.name
    if can_build():
        return built_shape(read_modules(path.parent), name=name)
    if config.get("model_type") in FAMILIES:
        return parse_shape(config, name=name)
    raise BaseModelError(
        f"{name}: to know the modules of model_type {repr(config.get('model_type'))[:40]} it takes torch and "
        f"transformers: pip install 'loradock[train]'; without them are known: {', '.join(sorted(FAMILIES))}"
    )


def built_shape(modules: BaseModules, *, name: str) -> ModelShape:
    """The shape of a model that was built. Raises BaseModelError for what the arithmetic does not cover."""
    config = modules.config
    _refuse(modules, name)
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    linears = _kinds(modules)
    attentions = _layers(modules)
    if not attentions:
        raise BaseModelError(
            f"{name}: no linear module belongs to an attention in a layer, so neither its work nor its cache can be "
            "planned"
        )
    experts, active = _experts(modules, name)
    mlp = [kind for kind in linears if not kind.is_attention]
    return ModelShape(
        name=name,
        hidden=hidden,
        layers=layers,
        # Where layers differ, on an average of them.
        attention=sum(given for given, _ in attentions) // layers,
        kv_dim=sum(keys for _, keys in attentions) // layers,
        vocab=config["vocab_size"],
        parameters=modules.parameters,
        linears=linears,
        # What goes into and comes out of products of this size: 3 f of a gated MLP, 2 f of a plain one.
        mlp_kept=(sum(kind.numbers for kind in mlp) + active) // hidden,
        mlp_inner=max([kind.in_features for kind in mlp if kind.is_output] + [active // (3 * hidden * layers)]),
        caches=caches_of(config, [keys for _, keys in attentions]),
        dtype=modules.dtype,
        experts=experts,
        active_experts=active,
        packed_besides=sum(
            shape.in_features * shape.out_features
            for module, shape in modules.linear.items()
            if module not in modules.language
        ),
    )


def _refuse(modules: BaseModules, name: str) -> None:
    config = modules.config
    if config.get("is_encoder_decoder"):
        raise BaseModelError(f"{name} is an encoder with a decoder; only models that are one decoder can be planned")
    if not modules.generates:
        raise BaseModelError(
            f"{name} has no output head: it answers with vectors. It cannot be trained here, and has no key/value "
            f"cache; its weights are {modules.parameters:,} numbers"
        )
    if missing := [field for field in _NEEDED if type(config.get(field)) is not int or config[field] < 1]:
        raise BaseModelError(f"{name}: its config has no {', '.join(missing)}, without which nothing can be planned")
    if other := sorted({str(kind) for kind in config.get("layer_types") or ()} - _ATTENTION):
        raise BaseModelError(
            f"{name}: layers of the kind {', '.join(other)} keep a state in place of keys and values, whose memory is "
            "not known here"
        )
    if apart := next((module for module in modules.linear if ".experts." in module), None):
        raise BaseModelError(
            f"{name}: its experts are modules of their own ({apart}), and how many a token goes through is not counted"
        )


def _kinds(modules: BaseModules) -> tuple[LinearKind, ...]:
    """The language model's linear modules, those of one name, shape and part counted together."""
    outputs = _outputs(modules)
    counts: dict[tuple[str, LinearShape, str, bool], int] = {}
    for module, shape in modules.adaptable.items():
        found = _LAYER.search(module)
        key = (module.rpartition(".")[2], shape, found["part"] or "" if found else "", module in outputs)
        counts[key] = counts.get(key, 0) + 1
    return tuple(
        LinearKind(short, shape.in_features, shape.out_features, count, part, is_output)
        for (short, shape, part, is_output), count in counts.items()
    )


def _outputs(modules: BaseModules) -> frozenset[str]:
    """Of each part of each layer that has several modules, the last one that gives as much as a layer takes."""
    parts = defaultdict[str, list[str]](list)
    for module in modules.adaptable:
        parts[module.rpartition(".")[0]].append(module)
    hidden = modules.config["hidden_size"]
    ends = (
        [module for module in part if modules.linear[module].out_features == hidden]
        for part in parts.values()
        if len(part) > 1
    )
    return frozenset(found[-1] for found in ends if found)


def _layers(modules: BaseModules) -> list[tuple[int, int]]:
    """For each layer with attention, in order: how wide what its attention gives and its keys are."""
    config, heads = modules.config, modules.config["num_attention_heads"]
    given, taken = defaultdict[int, int](int), defaultdict[int, int](int)
    outputs = _outputs(modules)
    for module, shape in modules.adaptable.items():
        found = _LAYER.search(module)
        if found is None or "att" not in (found["part"] or ""):
            continue
        if module in outputs:
            given[int(found["layer"])] += shape.in_features
        else:
            taken[int(found["layer"])] += shape.out_features
    if config.get("kv_lora_rank"):  # keys and values are unpacked from a latent, as wide as the queries
        wide = heads * ((config.get("qk_nope_head_dim") or 0) + (config.get("qk_rope_head_dim") or 0))
        return [(given[layer], wide) for layer in sorted(given)]
    stated = (config.get("num_key_value_heads") or heads) / heads
    found_keys = {layer: (taken[layer] - given[layer]) // 2 for layer in given}
    return [
        (wide, keys if 0 < (keys := found_keys[layer]) <= wide else round(wide * stated))
        for layer, wide in sorted(given.items())
    ]


def _experts(modules: BaseModules, name: str) -> tuple[int, int]:
    """Numbers in fused experts, and in those of them that one token goes through."""
    if not modules.experts:
        return 0, 0
    config = modules.config
    chosen = next((config[field] for field in _EXPERTS_OF_A_TOKEN if type(config.get(field)) is int), None)
    if chosen is None:
        raise BaseModelError(
            f"{name} is a mixture of experts, and its config does not say how many of them a token goes through "
            f"({', '.join(_EXPERTS_OF_A_TOKEN)})"
        )
    sizes = [(shape[0], shape[0] * shape[1] * shape[2]) for shape in modules.experts.values()]
    return sum(size for _, size in sizes), sum(size * min(chosen, count) // count for count, size in sizes)
