"""Adapters that must be let through, and act as in PEFT: what people train, and what lies beside it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.adapters.corpus.case import Build, good, lora, with_fields, with_files, with_tensors
from tests.adapters.corpus.world import TEMPLATE, Tensors, World, adapted, change_config

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
UNSLOTH_PATTERN = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:q_proj|v_proj).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|v_proj)))"
)


def some_modules_untrained(tensors: Tensors) -> Tensors:
    return {name: tensor * ("v_proj.lora_B" not in name) for name, tensor in tensors.items()}


def backwards(tensors: Tensors) -> Tensors:
    return dict(reversed(tensors.items()))


def converted_by_peft(method: str) -> Build:
    def build(world: World, folder: Path) -> None:
        model = adapted(world, trained=False, init_lora_weights=method)
        initial = folder.parent / "pissa_init"
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(initial, save_embedding_layers=False)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.02)
        model.save_pretrained(
            folder, path_initial_model_for_weight_conversion=str(initial), save_embedding_layers=False
        )
        change_config(folder, base_model_name_or_path="someone/Tiny-Llama")

    return build


def manifest(**base: str) -> dict[str, str | bytes]:
    return {"manifest.json": json.dumps({"schema": 1, "base": base})}


def tokenizer(**config: object) -> dict[str, str | bytes]:
    return {"tokenizer_config.json": json.dumps(config)}


GOOD = (
    # What PEFT trains
    good("plain", lora()),
    good("every-linear-module", lora(target_modules=ALL)),
    good("all-linear", lora(target_modules="all-linear")),
    good("all-linear-still-in-the-configuration", with_fields(lora(target_modules=ALL), target_modules="all-linear")),
    good("targets-by-pattern", lora(target_modules=r".*\.(q|down)_proj")),
    good("targets-by-unsloths-pattern", lora(target_modules=UNSLOTH_PATTERN), "pattern_not_run"),
    good("targets-by-full-names", lora(target_modules=["model.layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"])),
    good("rslora", lora(use_rslora=True, lora_alpha=16)),
    good("ranks-and-alphas-by-pattern", lora(rank_pattern={"q_proj": 8}, alpha_pattern={"v_proj": 32})),
    good("ranks-by-anchored-pattern", lora(rank_pattern={r"^model\.layers\.1\.self_attn\.q_proj": 2})),
    good("rslora-and-ranks-by-pattern", lora(use_rslora=True, rank_pattern={r"layers\.[0-9]+\..*v_proj": 9})),
    good("some-layers", lora(layers_to_transform=[1])),
    good("one-layer-of-a-named-list", lora(layers_to_transform=0, layers_pattern="layers")),
    good("excluded-by-name", lora(exclude_modules=["layers.0.self_attn.q_proj"])),
    good("excluded-by-pattern", lora(target_modules=ALL, exclude_modules=r".*layers\.1\.mlp.*")),
    good("dropout", lora(lora_dropout=0.2)),
    good("rank-1", lora(r=1)),
    good("the-highest-rank", lora(r=16)),
    good("alpha-no-whole-number", with_fields(lora_alpha=6.5)),
    good("gaussian-start", lora(init_lora_weights="gaussian")),
    good("orthogonal-start", lora(init_lora_weights="orthogonal")),
    good("mica-start", lora(init_lora_weights="mica")),
    good("eva-start", with_fields(init_lora_weights="eva")),
    good("lora-ga-unconverted", with_fields(init_lora_weights="lora_ga"), "unconverted_lora_ga"),
    good("pissa-converted-by-peft", converted_by_peft("pissa")),
    good("olora-converted-by-peft", converted_by_peft("olora")),
    good("kept-in-bfloat16", lora(how={"dtype": torch.bfloat16})),
    good("kept-in-float16", lora(how={"dtype": torch.float16})),
    good("some-modules-without-effect", with_tensors(some_modules_untrained)),
    good("tensors-in-another-order", with_tensors(backwards)),
    # What the configuration says besides
    good("a-target-that-llamas-lack", lora(target_modules=["q_proj", "query_key_value"]), "unused_target"),
    good("an-unset-field-of-a-later-peft", with_fields(use_next_idea=False)),
    good("a-set-field-of-a-later-peft", with_fields(use_next_idea=True), "unknown_field"),
    good("unsloths-mark", with_fields(unsloth_fixed=True)),
    # The base model by other names
    good("no-base-name", with_fields(base_model_name_or_path=None)),
    good("a-mirrors-base-name", with_fields(base_model_name_or_path="mirror/tiny-llama")),
    good("a-local-path-of-the-base", with_fields(base_model_name_or_path="/data/models/Tiny-Llama/")),
    good("some-other-local-path", with_fields(base_model_name_or_path="/data/merged"), "other_base_name"),
    good("bnb-4bit-sibling", with_fields(base_model_name_or_path="unsloth/tiny-llama-bnb-4bit"), "quantised_base"),
    good(
        "unsloth-bnb-4bit", with_fields(base_model_name_or_path="unsloth/Tiny-Llama-unsloth-bnb-4bit"), "quantised_base"
    ),
    good("awq-sibling", with_fields(base_model_name_or_path="x/Tiny-Llama-AWQ"), "quantised_base"),
    good("gptq-sibling", with_fields(base_model_name_or_path="x/Tiny-Llama-GPTQ-Int4"), "quantised_base"),
    good("recorded-digest", with_files(manifest(digest="d" * 64))),
    good(
        "recorded-digest-under-another-name",
        with_files(manifest(digest="d" * 64), with_fields(base_model_name_or_path="x/other")),
    ),
    # What trainers leave beside it
    good("a-readme", with_files({"README.md": "# Mine"})),
    good("the-bases-chat-template", with_files({"chat_template.jinja": TEMPLATE + "\n"})),
    good("the-template-with-loss-marks", with_files(tokenizer(chat_template="{% generation %}" + TEMPLATE))),
    good("another-chat-template", with_files({"chat_template.jinja": "{{ messages }}"}), "other_chat_template"),
    good(
        "another-default-among-templates",
        with_files(
            tokenizer(chat_template=[{"name": "default", "template": "x"}, {"name": "tool", "template": TEMPLATE}])
        ),
        "other_chat_template",
    ),
    good("the-bases-added-tokens", with_files({"added_tokens.json": '{"<s>": 60, "</s>": 61}'})),
    good(
        "a-padding-token",
        with_files(
            tokenizer(pad_token="[PAD]", added_tokens_decoder={"62": {"content": "[PAD]"}, "60": {"content": "<s>"}})
        ),
    ),
    good("a-tokenizer-configuration-that-is-no-json", with_files({"tokenizer_config.json": "{"})),
    good("optimizer-and-arguments", with_files({"optimizer.pt": b"x", "training_args.bin": b"x"}), "pickle_beside"),
    good("plots-and-logs", with_files({"loss.svg": "", "trainer_state.json": "{}"}), "other_files"),
    good("both-kinds-of-weights", with_files({"adapter_model.bin": b"\x80\x02."}), "pickle_beside"),
)
