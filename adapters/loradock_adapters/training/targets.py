"""The modules that a recipe puts its adapter on, by their names in the very model that will be trained.

`all-linear` is what PEFT makes of it: every linear layer but the output head, of a multimodal model those of its
language model. Fused experts are parameters; PEFT can adapt them, and nothing here can serve that, so they are refused.
"""

from __future__ import annotations

from types import SimpleNamespace

from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

from loradock_adapters.module_table import BaseModules
from loradock_adapters.training.errors import RecipeError
from loradock_adapters.training.recipe import ALL_LINEAR


def target_names(wanted: tuple[str, ...], modules: BaseModules, base: str) -> tuple[str, ...]:
    """What PEFT is told. Names that the model does not have are left to the adapter check.

    Raises RecipeError for what PEFT would put on experts.
    """
    names = _all_linear(modules) if wanted == (ALL_LINEAR,) else wanted
    if not modules.experts:
        return names
    linear = _last_names(modules)
    served = f"name linear modules only: {', '.join(name for name in linear if not _on_experts((name,), modules))}"
    fused = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in modules.experts))
    whole = wanted == (ALL_LINEAR,) and _on_experts((ALL_LINEAR,), modules)
    if whole or (taken := [name for name in names if _on_experts((name,), modules)]):
        what = ALL_LINEAR if whole else ", ".join(taken)
        raise RecipeError(
            f"adapter.target_modules: {base} is a mixture of experts, whose experts are parameters ({fused}) and no "
            f"linear layers. PEFT puts {what} on them, and such an adapter cannot be served; {served}"
        )
    if missing := [name for name in names if name not in linear and name in fused.split(", ")]:
        raise RecipeError(
            f"adapter.target_modules has {', '.join(missing)}, of which {base} has experts' parameters only and no "
            f"linear layer; {served}"
        )
    return names


def _all_linear(modules: BaseModules) -> tuple[str, ...]:
    """Last names where they select these modules and no others, else full names."""
    last = _last_names(modules)
    others = {name.rpartition(".")[2] for name in modules.linear.keys() - modules.language}
    return tuple(modules.adaptable) if others & set(last) else last


def _last_names(modules: BaseModules) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.rpartition(".")[2] for name in modules.adaptable))


def _on_experts(names: tuple[str, ...], modules: BaseModules) -> bool:
    """Whether PEFT, which knows these models by the names of before their experts were fused, would adapt experts."""
    model = SimpleNamespace(
        config=SimpleNamespace(model_type=modules.config.get("model_type")), named_modules=list, named_parameters=list
    )
    config = LoraConfig(target_modules=names[0] if names == (ALL_LINEAR,) else list(names))
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:  # a part of what was fused, without the other
        return True
    return bool(config.target_parameters)
