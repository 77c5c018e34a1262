"""What a recipe may say, and how it is told what is wrong with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from loradock_adapters.training.errors import RecipeError
from loradock_adapters.training.recipe import ALL_LINEAR, parse_recipe, read_recipe

SMALLEST = """
name = "greeter"
base = "someone/some-model"
[data]
train = "train.jsonl"
"""


def test_the_smallest_recipe_trains_all_linear_layers_in_nf4() -> None:
    recipe = parse_recipe(SMALLEST)

    assert recipe.adapter.target_modules == (ALL_LINEAR,)
    assert recipe.quantization.type == "nf4"
    assert recipe.data.held_out is None


def test_values_reach_the_records_as_their_types() -> None:
    recipe = parse_recipe(
        SMALLEST + '[adapter]\nrank = 2\nalpha = 4\ntarget_modules = ["q_proj"]\n[training]\nlearning_rate = 1\n'
    )

    assert (recipe.adapter.rank, recipe.adapter.target_modules) == (2, ("q_proj",))
    assert isinstance(recipe.adapter.alpha, float)
    assert isinstance(recipe.training.learning_rate, float)


def test_an_unknown_key_is_refused_with_the_nearest_valid_one() -> None:
    with pytest.raises(RecipeError, match=r"unknown key training\.learning_rat; did you mean learning_rate\?"):
        parse_recipe(SMALLEST + "[training]\nlearning_rat = 0.1\n")


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe('base = "b/b"\nspeed = 3\n[data]\ntrain = 7\n[training]\nsteps = "many"\nseed = true\n')

    message = str(caught.value)
    assert "unknown key speed" in message
    assert "name is missing" in message
    assert "data.train is 7; it is a path" in message
    assert "training.steps is 'many'; it is int" in message
    assert "training.seed is True; it is int" in message


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("[adapter]\nrank = 0\n", "adapter.rank is 0; it lies between 1 and 512"),
        ("[adapter]\nalpha = nan\n", "adapter.alpha is nan"),
        ("[training]\nlearning_rate = inf\n", "training.learning_rate is inf"),
        ("[adapter]\ntarget_modules = []\n", "target_modules is empty"),
        ('[adapter]\ntarget_modules = ["q_proj", "lm_head"]\n', "'lm_head', which cannot be served"),
        ('[quantization]\ntype = "int3"\n', "quantization.type is 'int3'; it is one of 'nf4', 'none'"),
        ("[adapter]\nrank = 2.5\n", "adapter.rank is 2.5; it is int"),
        ("[training]\nbatch_size = -8\n", "training.batch_size is -8"),
    ],
)
def test_what_could_not_be_trained_or_served_is_refused(lines: str, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(SMALLEST + lines)

    assert told in str(caught.value)


@pytest.mark.parametrize("base", ["/models/smol", "./smol", "~/smol"])
def test_a_path_is_no_name_of_a_base_model(base: str) -> None:
    with pytest.raises(RecipeError, match="public name, not a path"):
        parse_recipe(SMALLEST.replace("someone/some-model", base))


def test_a_name_that_would_leave_the_output_folder_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"name: adapter name '\.\./greeter'"):
        parse_recipe(SMALLEST.replace("greeter", "../greeter"))


def test_text_that_is_not_toml_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("name = \n")

    with pytest.raises(RecipeError, match=r"recipe\.toml is not TOML: .*line 1"):
        read_recipe(path)


def test_a_missing_recipe_is_told_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe at .*nowhere\.toml"):
        read_recipe(tmp_path / "nowhere.toml")


def test_a_huge_file_is_not_read_as_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"#" * ((1 << 20) + 1))

    with pytest.raises(RecipeError, match="has 1048577 bytes"):
        read_recipe(path)


def test_data_lies_beside_the_recipe_and_the_text_has_a_digest(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(SMALLEST)

    found = read_recipe(path)

    assert found.beside(found.recipe.data.train) == tmp_path / "train.jsonl"
    assert found.digest == hashlib.sha256(path.read_bytes()).hexdigest()


EXAMPLES = sorted((Path(__file__).parents[3] / "adapters" / "examples").glob("*/recipe.toml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_the_recipes_in_the_repository_are_named_as_their_folders(path: Path) -> None:
    assert read_recipe(path).recipe.name == path.parent.name


@pytest.mark.parametrize(("aim", "rank"), [("style", 8), ("domain", 16), ("deep", 64)])
def test_the_aim_decides_the_rank_and_the_rank_alpha(aim: str, rank: int) -> None:
    recipe = parse_recipe(f'aim = "{aim}"\n{SMALLEST}')

    assert (recipe.adapter.rank, recipe.adapter.alpha) == (rank, 2.0 * rank)


def test_a_rank_that_is_named_wins_over_the_aim_and_alpha_follows_it() -> None:
    recipe = parse_recipe(f'aim = "deep"\n{SMALLEST}[adapter]\nrank = 32\n')

    assert (recipe.adapter.rank, recipe.adapter.alpha) == (32, 64.0)


def test_an_aim_that_nobody_knows_is_refused() -> None:
    with pytest.raises(RecipeError, match="aim is 'wide'; it is one of 'style', 'domain', 'deep'"):
        parse_recipe(f'aim = "wide"\n{SMALLEST}')


def test_all_linear_is_a_word_for_all_of_them() -> None:
    recipe = parse_recipe(SMALLEST + '[adapter]\ntarget_modules = "all-linear"\n')

    assert recipe.adapter.target_modules == (ALL_LINEAR,)


@pytest.mark.parametrize(
    ("lines", "steps", "warmup"),
    [
        ("", 300, 15),  # three epochs of 100 steps, a twentieth of them
        ("epochs = 2.5\n", 250, 12),
        ("steps = 40\nwarmup_steps = 7\n", 40, 7),
        ("epochs = 1\ngradient_accumulation = 3\n", 34, 2),  # 33 steps of 24 examples and one of 4 … 8
    ],
)
def test_steps_follow_from_epochs_and_examples(lines: str, steps: int, warmup: int) -> None:
    schedule = parse_recipe(f"{SMALLEST}[training]\n{lines}").training.schedule(examples=799)

    assert (schedule.steps, schedule.warmup_steps) == (steps, warmup)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("steps = 5\nepochs = 1\n", "training has steps = 5 and epochs = 1; give one of the two"),
        ("epochs = 0\n", "training.epochs is 0.0"),
        ("early_stopping = {}\n", "early_stopping needs data.held_out"),
        ("early_stopping = {patience = 0}\n", "training.early_stopping.patience is 0"),
        ("early_stopping = {patient = 3}\n", "training.early_stopping.patient; did you mean patience?"),
        ("early_stopping = 3\n", "training.early_stopping is 3; it is a table"),
        ('report_to = ["wandb"]\n', "report_to has 'wandb'; known: mlflow, tensorboard"),
        ("checkpoint_every = 0\n", "training.checkpoint_every is 0"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(lines: str, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f"{SMALLEST}[training]\n{lines}")

    assert told in str(caught.value)
