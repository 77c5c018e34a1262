"""Every code the check can give, with its meaning and its fix: the table in docs/adapters.md is written from here.

It judges nothing; the rules beside it do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Code(StrEnum):
    """Why an adapter cannot be served."""

    UNREADABLE = "unreadable"
    MISSING_FILE = "missing_file"
    TOO_LARGE = "too_large"
    PICKLE = "pickle"
    BAD_JSON = "bad_json"
    BAD_SAFETENSORS = "bad_safetensors"

    PEFT_TYPE = "peft_type"
    CONFIG_VALUE = "config_value"
    PATTERN = "pattern"
    RANK = "rank"
    DORA = "dora"
    BIAS = "bias"
    LORA_BIAS = "lora_bias"
    ALORA = "alora"
    LAYER_REPLICATION = "layer_replication"
    BD_LORA = "bd_lora"
    QALORA = "qalora"
    VARIANT = "variant"
    UNCONVERTED_INIT = "unconverted_init"
    TRAINABLE_TOKENS = "trainable_tokens"
    MODULES_TO_SAVE = "modules_to_save"
    TARGET_PARAMETERS = "target_parameters"

    UNSIGNED = "unsigned"
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN_SIGNER = "unknown_signer"

    BASE_NOT_SERVED = "base_not_served"
    BASE_DIGEST = "base_digest"
    BASE_NAME = "base_name"
    ADDED_TOKENS = "added_tokens"

    NO_TENSORS = "no_tensors"
    KEY_NAMES = "key_names"
    UNKNOWN_TENSOR = "unknown_tensor"
    UNKNOWN_MODULE = "unknown_module"
    EMBEDDING = "embedding"
    RESIZED_VOCABULARY = "resized_vocabulary"
    INCOMPLETE_PAIR = "incomplete_pair"
    MISSING_TENSORS = "missing_tensors"
    UNTARGETED_TENSORS = "untargeted_tensors"
    SHAPE = "shape"
    RANK_MISMATCH = "rank_mismatch"
    DTYPE = "dtype"

    NOT_FINITE = "not_finite"
    OVERFLOW = "overflow"
    NO_EFFECT = "no_effect"


class NoteCode(StrEnum):
    """What is worth knowing about an adapter that may be served all the same."""

    NO_BASE = "no_base"
    OTHER_FILES = "other_files"
    PICKLE_BESIDE = "pickle_beside"
    OTHER_SIGNER = "other_signer"
    UNKNOWN_FIELD = "unknown_field"
    UNCONVERTED_LORA_GA = "unconverted_lora_ga"
    PATTERN_NOT_RUN = "pattern_not_run"
    UNUSED_TARGET = "unused_target"
    QUANTISED_BASE = "quantised_base"
    OTHER_BASE_NAME = "other_base_name"
    OTHER_CHAT_TEMPLATE = "other_chat_template"
    NOT_APPLIED = "not_applied"


@dataclass(frozen=True, slots=True)
class Meaning:
    """A code in words. `fix` is what a fault says unless its rule knows better."""

    meaning: str
    fix: str


_AS_SAVED = "save the adapter again with PEFT's save_pretrained"
_RETRAIN = "train without it, or merge the adapter into the base model"
_ONE_RUN = "keep the configuration and the weights of one training run together"
_OTHER_BASE = "train on the base model that is served here, or serve that one"

MEANINGS: Mapping[Code, Meaning] = MappingProxyType(
    {
        Code.UNREADABLE: Meaning(
            "A file or the folder cannot be read; what it holds was not judged (exit code 2).",
            "correct its mode or name, and copy it again",
        ),
        Code.MISSING_FILE: Meaning("`adapter_config.json` or `adapter_model.safetensors` is missing.", _AS_SAVED),
        Code.TOO_LARGE: Meaning(
            "The adapter's files together are larger than the server allows.",
            "raise LORADOCK_MAX_ADAPTER_BYTES, or train with a lower rank or fewer modules",
        ),
        Code.PICKLE: Meaning(
            "Weights in a pickle (`.bin`, `.pt`), or a pickle under another name: reading one can run code.",
            "loradock adapters check PATH --fix OUT converts .bin and .pt, reading tensors only (weights_only)",
        ),
        Code.BAD_JSON: Meaning(
            "A JSON file is not one object in UTF-8, has a key twice, holds NaN, is nested too deeply or too large.",
            _AS_SAVED,
        ),
        Code.BAD_SAFETENSORS: Meaning(
            "The header lies: absurd sizes, a name twice, tensors that overlap, leave gaps or are cut short.",
            f"copy the file again, or {_AS_SAVED}",
        ),
        Code.PEFT_TYPE: Meaning(
            "Not a LoRA adapter: AdaLoRA, VeRA, LoHa, LoKr, IA3, OFT, prompt tuning, …", "train a LoRA adapter"
        ),
        Code.CONFIG_VALUE: Meaning("A field of the configuration has a value that makes no sense.", _AS_SAVED),
        Code.PATTERN: Meaning(
            "`rank_pattern` or `alpha_pattern` has a regular expression that could run for ever, or too many.",
            "write module names out",
        ),
        Code.RANK: Meaning("A rank above the server's limit.", "raise LORADOCK_MAX_RANK, or train with a lower r"),
        Code.DORA: Meaning("DoRA: magnitude vectors that the engine does not apply.", _RETRAIN),
        Code.BIAS: Meaning("Trained biases (`bias` is not none).", 'train with bias="none"'),
        Code.LORA_BIAS: Meaning("A bias on lora_B.", "train with lora_bias=False"),
        Code.ALORA: Meaning("Activated LoRA: acts from invocation tokens on, which the engine does not do.", _RETRAIN),
        Code.LAYER_REPLICATION: Meaning("Layers of the base model are repeated.", _RETRAIN),
        Code.BD_LORA: Meaning("Block-diagonal LoRA.", _RETRAIN),
        Code.QALORA: Meaning("QALoRA: inputs are pooled before lora_A.", _RETRAIN),
        Code.VARIANT: Meaning(
            "Another variant with parts the engine does not know: Arrow, KaSA, MonteCLoRA, VeLoRA, Megatron.", _RETRAIN
        ),
        Code.UNCONVERTED_INIT: Meaning(
            "PiSSA, OLoRA, CorDA or LoftQ as trained: it fits a changed base model, not the one served.",
            "with the initial weights (PiSSA, OLoRA, CorDA): loradock adapters check PATH --fix OUT --initial DIR; "
            "or merge it",
        ),
        Code.TRAINABLE_TOKENS: Meaning(
            "Single rows of the embeddings were trained.", "add no tokens in training (look at the chat template)"
        ),
        Code.MODULES_TO_SAVE: Meaning(
            "Whole modules were trained and saved beside the LoRA weights.",
            "train without modules_to_save; embeddings and heads stay the base's",
        ),
        Code.TARGET_PARAMETERS: Meaning(
            "LoRA on bare parameters, such as fused experts.", "target linear modules only, by target_modules"
        ),
        Code.UNSIGNED: Meaning(
            "The server takes signed adapters only, and `signature.json` is missing.",
            "loradock adapters sign PATH --key KEY, with the key of a trusted signer",
        ),
        Code.BAD_SIGNATURE: Meaning(
            "`signature.json` does not hold for the files: they, or it, changed after signing.",
            "copy the adapter again from who signed it; if the change is yours, sign it again",
        ),
        Code.UNKNOWN_SIGNER: Meaning(
            "Signed, but with a key that is not among LORADOCK_TRUSTED_KEYS.",
            "have it signed by a trusted signer, or add the key to LORADOCK_TRUSTED_KEYS",
        ),
        Code.BASE_NOT_SERVED: Meaning(
            "The base model cannot be served with adapters here, whatever the adapter: its class in vLLM takes none, "
            "or it is a mixture of experts or quantised and the engine computes on a CPU, or its weights are a pickle.",
            "take another base model, or another engine",
        ),
        Code.BASE_DIGEST: Meaning(
            "The manifest records another base model's digest than the served one has.", _OTHER_BASE
        ),
        Code.BASE_NAME: Meaning(
            "`base_model_name_or_path` names another model on the hub than the served one.",
            f"{_OTHER_BASE}; if it is the same model, correct base_model_name_or_path",
        ),
        Code.ADDED_TOKENS: Meaning(
            "The tokenizer beside the adapter has tokens that the base model's lacks (a padding token is fine).",
            "train with the base model's tokenizer; if training used none of them, remove the tokenizer's files",
        ),
        Code.NO_TENSORS: Meaning("The weights file is empty.", _AS_SAVED),
        Code.KEY_NAMES: Meaning(
            "Tensors under other names than PEFT gives them for this base model, all by the same rule: a prefix "
            "(AutoModel, Unsloth, wrappers) or the adapter's name inside. vLLM would answer as the base model.",
            "loradock adapters check PATH --fix OUT renames them",
        ),
        Code.UNKNOWN_TENSOR: Meaning("A tensor that is no LoRA weight by its name.", _AS_SAVED),
        Code.UNKNOWN_MODULE: Meaning("LoRA weights for a module that the base model does not have.", _OTHER_BASE),
        Code.EMBEDDING: Meaning(
            "LoRA on, or a copy of, the embeddings or the output head; the engine adapts linear layers only.",
            "train without lm_head and embed_tokens in target_modules",
        ),
        Code.RESIZED_VOCABULARY: Meaning(
            "Embeddings or a head with another number of tokens than the base model has.",
            "train without resize_token_embeddings and without new tokens",
        ),
        Code.INCOMPLETE_PAIR: Meaning("A module has lora_A without lora_B, or the reverse.", _AS_SAVED),
        Code.MISSING_TENSORS: Meaning(
            "Modules that the configuration targets have no tensors, for instance those of some layers.",
            f"the weights file is incomplete: {_AS_SAVED}",
        ),
        Code.UNTARGETED_TENSORS: Meaning("Tensors for modules that the configuration does not target.", _ONE_RUN),
        Code.SHAPE: Meaning("A tensor's shape does not fit the base model's module, or is no matrix.", _OTHER_BASE),
        Code.RANK_MISMATCH: Meaning("A tensor has another rank than the configuration says.", _ONE_RUN),
        Code.DTYPE: Meaning("A tensor's type is not F32, BF16 or F16.", "convert it to float32, and save it again"),
        Code.NOT_FINITE: Meaning(
            "NaN or infinity among the numbers.", "training diverged: lower the learning rate and train again"
        ),
        Code.OVERFLOW: Meaning(
            "A number, with the LoRA scale folded in, is beyond the type the engine computes in (float16: 65504).",
            "serve with LORADOCK_DTYPE=bfloat16, or train with a lower lora_alpha",
        ),
        Code.NO_EFFECT: Meaning(
            "Every B·A is zero: the adapter changes nothing.", "train it, or save it after training"
        ),
    }
)

NOTES: Mapping[NoteCode, str] = MappingProxyType(
    {
        NoteCode.NO_BASE: "No base model was given: names, shapes and the range of numbers were not compared with one.",
        NoteCode.OTHER_FILES: "Files that are not part of an adapter; they are left out.",
        NoteCode.PICKLE_BESIDE: "Pickles beside the adapter (optimizer, training arguments); never opened, left out.",
        NoteCode.OTHER_SIGNER: "Signed with a key that is not among LORADOCK_TRUSTED_KEYS; nobody demands one.",
        NoteCode.UNKNOWN_FIELD: "The configuration sets fields that this version does not know.",
        NoteCode.UNCONVERTED_LORA_GA: "LoRA-GA as trained: the base was shifted in training, here it is not.",
        NoteCode.PATTERN_NOT_RUN: "A target pattern that could run for ever was not run: missing layers go unseen.",
        NoteCode.UNUSED_TARGET: "A target module that neither the base model nor the weights have.",
        NoteCode.QUANTISED_BASE: "Trained on a quantised sibling of the base: a match, answers may differ slightly.",
        NoteCode.OTHER_BASE_NAME: "The base model's name differs, but one of the two is a path and proves nothing.",
        NoteCode.NOT_APPLIED: "Weights for parts of the base model that answer no text: a vision or audio tower, an "
        "encoder's pooler. They are left out; answers to text are the same without them.",
        NoteCode.OTHER_CHAT_TEMPLATE: "Trained under another chat template than the base's, which is what is served.",
    }
)
