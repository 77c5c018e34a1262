"""Every way in which a recipe can stray, and that a usual one is left in peace."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loradock_adapters.training.lint import Figures, lint
from loradock_adapters.training.recipe import parse_recipe

USUAL = """
name = "greeter"
base = "someone/some-model"
aim = "domain"
[data]
train = "train.jsonl"
held_out = "held_out.jsonl"
"""
FIGURES = Figures(
    examples=1000,
    too_long=0,
    held_out=100,
    leaked=0,
    base_parameters=8_000_000_000,
    modules=frozenset({"q_proj", "k_proj", "v_proj", "o_proj"}),
)


def advice(lines: str = "", figures: Figures = FIGURES) -> dict[str, str]:
    """What is said of a recipe with these lines, by key."""
    return {one.where: f"{one.text} (usual: {one.usual})" for one in lint(parse_recipe(USUAL + lines), figures)}


def test_a_usual_recipe_is_left_in_peace() -> None:
    assert advice() == {}
    assert advice("[training]\nepochs = 2\nearly_stopping = {patience = 2}\neval_examples = 60\n") == {}


@pytest.mark.parametrize(
    ("lines", "where", "told"),
    [
        ("[training]\nlearning_rate = 1e-3\n", "training.learning_rate", "0.001 is above the usual"),
        ("[training]\nlearning_rate = 1e-5\n", "training.learning_rate", "1e-05 is below the usual"),
        ("[adapter]\nalpha = 128\n", "adapter.alpha", "128 is 8 times the rank"),
        ("[adapter]\nalpha = 8\n", "adapter.alpha", "usual: 32 (twice the rank)"),
        ('[adapter]\ntarget_modules = ["q_proj"]\n', "adapter.target_modules", "without v_proj"),
        ('[adapter]\ntarget_modules = ["up_proj"]\n', "adapter.target_modules", "without q_proj and v_proj"),
        ("[adapter]\nrank = 4\n", "adapter.rank", "4 for the aim 'domain': it may hold too little (usual: 16 to 32)"),
        ("[adapter]\nrank = 40\n", "adapter.rank", "it has room to learn the examples by heart"),
        ("[adapter]\ndropout = 0.5\n", "adapter.dropout", "0.5 leaves out so much"),
        ("[training]\nepochs = 12\n", "training.epochs", "every example is seen 12.0 times"),
        ("[training]\nsteps = 1250\n", "training.steps", "every example is seen 10.0 times"),
        ("[training]\nsteps = 20\nwarmup_steps = 1\n", "training.steps", "ends after 16% of the examples"),
        ("[training]\nwarmup_steps = 500\n", "training.warmup_steps", "the learning rate is never reached"),
        ("[training]\nwarmup_steps = 100\n", "training.warmup_steps", "much of the run"),
        ("[training]\nbatch_size = 1\n", "training.batch_size", "1 examples in a step"),
        ("[training]\nbatch_size = 64\ngradient_accumulation = 4\n", "training.batch_size", "256 examples"),
        ("[training]\neval_every = 1000\n", "training.eval_every", "measured at its ends only"),
        ("[training]\nearly_stopping = {}\n", "training.eval_examples", "measured on 32 examples"),
        (
            "[training]\nearly_stopping = {patience = 9}\neval_examples = 100\n",
            "training.early_stopping",
            "9 evaluations 50 steps apart",
        ),
    ],
)
def test_what_strays_is_told_with_its_reason(lines: str, where: str, told: str) -> None:
    assert told in advice(lines)[where]


@pytest.mark.parametrize(
    ("figures", "where", "told"),
    [
        (replace(FIGURES, examples=150), "data.train", "150 examples: gains will be small, and of format only"),
        (replace(FIGURES, examples=300), "data.train", "300 examples are borderline"),
        (replace(FIGURES, too_long=100), "data.max_length", "100 of 1100 examples are longer than 256 tokens"),
        (replace(FIGURES, held_out=None), "data.held_out", "there is none"),
        (replace(FIGURES, leaked=3), "data.held_out", "3 of its questions are trained on too"),
    ],
)
def test_data_that_strays_is_told(figures: Figures, where: str, told: str) -> None:
    assert told in advice(figures=figures)[where]


def test_a_high_rank_wants_many_examples() -> None:
    few = advice("[adapter]\nrank = 32\n", replace(FIGURES, examples=400))

    assert "32 with 400 examples" in few["adapter.rank"]


def test_of_a_small_base_it_says_that_the_usual_rate_is_of_large_ones() -> None:
    lines = "[training]\nlearning_rate = 2e-3\n"

    small = advice(lines, replace(FIGURES, base_parameters=135_000_000))["training.learning_rate"]
    large = advice(lines)["training.learning_rate"]

    assert "this one has 135 million, and small ones take more" in small
    assert "million" not in large


def test_attention_by_other_names_is_no_attention_left_out() -> None:
    fused = replace(FIGURES, modules=frozenset({"query_key_value", "dense"}))
    assert "adapter.target_modules" not in advice('[adapter]\ntarget_modules = ["query_key_value"]\n', fused)
