"""Adapters by other methods than LoRA, and LoRA in the variants that the engine does not compute. Made by PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft

from tests.adapters.corpus.case import Build, bad, lora, with_fields
from tests.adapters.corpus.world import ATTENTION, World, llama, saved, shaken


def other(config: Any) -> Build:
    def build(world: World, folder: Path) -> None:
        saved(shaken(peft.get_peft_model(world.model(), config())), folder)

    return build


def resized(targets: list[str]) -> Build:
    def build(world: World, folder: Path) -> None:
        model = world.model()
        model.resize_token_embeddings(72)
        config = peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
        saved(shaken(peft.get_peft_model(model, config)), folder, embeddings=True)

    return build


METHODS = {
    "adalora": lambda: peft.AdaLoraConfig(target_modules=ATTENTION, init_r=4, target_r=2, total_step=10),
    "vera": lambda: peft.VeraConfig(r=4, target_modules=["q_proj"]),
    "loha": lambda: peft.LoHaConfig(r=4, target_modules=ATTENTION),
    "lokr": lambda: peft.LoKrConfig(r=4, target_modules=ATTENTION),
    "ia3": lambda: peft.IA3Config(target_modules=ATTENTION, feedforward_modules=[]),
    "oft": lambda: peft.OFTConfig(r=0, oft_block_size=8, target_modules=ATTENTION),
    "boft": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=["q_proj"]),
    "hra": lambda: peft.HRAConfig(r=4, target_modules=ATTENTION),
    "miss": lambda: peft.MissConfig(r=4, target_modules=ATTENTION),
    "randlora": lambda: peft.RandLoraConfig(r=4, target_modules=["q_proj"]),
    "vblora": lambda: peft.VBLoRAConfig(r=4, num_vectors=8, vector_length=8, target_modules=["q_proj"]),
    "fourierft": lambda: peft.FourierFTConfig(n_frequency=16, target_modules=ATTENTION),
    "delora": lambda: peft.DeloraConfig(r=4, target_modules=ATTENTION),
    "ln-tuning": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "prompt-tuning": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "prefix-tuning": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}

BLOCKS = peft.BdLoraConfig(nblocks=2, target_modules_bd_a=["q_proj"])

OTHER_METHODS = (
    *(bad(name, other(config), "peft_type") for name, config in METHODS.items()),
    bad("no-peft-type", with_fields(peft_type=None), "peft_type"),
    bad("dora", lora(use_dora=True), "dora"),
    bad("dora-that-its-configuration-denies", with_fields(lora(use_dora=True), use_dora=False), "dora"),
    bad("every-bias", lora(bias="all"), "bias"),
    bad("bias-of-the-adapted", lora(bias="lora_only"), "bias"),
    bad("bias-on-b", lora(lora_bias=True), "lora_bias"),
    bad("activated-lora", lora(alora_invocation_tokens=[1, 2]), "alora"),
    bad("layers-repeated", lora(layer_replication=[[0, 2], [0, 2]]), "layer_replication", "unknown_module"),
    bad(
        "block-diagonal",
        lora(use_bdlora=BLOCKS, target_modules=["q_proj"]),
        "bd_lora",
        "shape",
    ),
    bad("qalora", with_fields(use_qalora=True), "qalora"),
    bad("kasa", lora(kasa_config=peft.KasaConfig()), "variant"),
    bad("monteclora", lora(monteclora_config=peft.MontecloraConfig()), "variant"),
    bad("velora", lora(velora_config=peft.VeloraConfig(num_groups=4)), "variant"),
    bad("arrow", with_fields(arrow_config={"top_k": 2}), "variant"),
    bad("megatron", with_fields(megatron_config={"tensor_parallel": 2}), "variant"),
    bad("pissa", lora(init_lora_weights="pissa"), "unconverted_init"),
    bad("pissa-by-iterations", lora(init_lora_weights="pissa_niter_4"), "unconverted_init"),
    bad("olora", lora(init_lora_weights="olora"), "unconverted_init"),
    bad("corda", with_fields(init_lora_weights="corda"), "unconverted_init"),
    bad("loftq", with_fields(init_lora_weights="loftq"), "unconverted_init"),
    bad("trainable-tokens", lora(trainable_token_indices=[1, 2]), "trainable_tokens"),
    bad("head-saved", lora(modules_to_save=["lm_head"]), "modules_to_save", "embedding"),
    bad("norm-saved", lora(modules_to_save=["norm"]), "modules_to_save"),
    bad("lora-on-the-head", lora(target_modules=["q_proj", "lm_head"]), "embedding"),
    bad("lora-on-the-embeddings", lora(target_modules=["q_proj", "embed_tokens"]), "embedding"),
    bad("resized-vocabulary", resized(["q_proj"]), "resized_vocabulary"),
    bad("resized-vocabulary-and-lora-on-it", resized(["q_proj", "embed_tokens"]), "resized_vocabulary", "embedding"),
    bad(
        "lora-on-a-parameter",
        lora(target_modules=[], target_parameters=["q_proj.weight"]),
        "target_parameters",
    ),
    # Adapters of other base models
    bad("a-wider-base", lora(model=llama(hidden=64)), "shape"),
    bad("a-base-with-fewer-layers", lora(model=llama(layers=1)), "missing_tensors"),
    bad("a-base-with-more-layers", lora(model=llama(layers=3)), "unknown_module"),
)
