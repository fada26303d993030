from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from smalltale.config import load_recipe, recipe_names
from smalltale.errors import FileProblem, RecipeError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Config:
    minutes: float = 3.0
    names: tuple[str, ...] = ()
    inner: Inner = field(default_factory=Inner)


def recipe_file(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_defaults_then_recipe_then_overrides(tmp_path: Path) -> None:
    name = recipe_file(tmp_path, '[training]\nminutes = 5\nnames = ["a"]\n')
    assert load_recipe(name).section("training", Config) == Config(minutes=5.0, names=("a",))
    recipe = load_recipe(name, ["training.minutes=1.5", "training.inner.rate=0.2"])
    assert recipe.section("training", Config) == Config(minutes=1.5, names=("a",), inner=Inner(rate=0.2))


def test_every_shipped_recipe_is_valid_for_its_stages() -> None:
    from smalltale.corpus.config import CorpusConfig
    from smalltale.generation.sampler import GenerationConfig
    from smalltale.model.transformer import ModelConfig
    from smalltale.tokens.tokenizer import TokenizerConfig
    from smalltale.training.config import TrainingConfig

    assert "demo" in recipe_names()
    for name in recipe_names():
        recipe = load_recipe(name)
        recipe.section("corpus", CorpusConfig)
        recipe.section("tokenizer", TokenizerConfig)
        recipe.section("model", ModelConfig)
        recipe.section("training", TrainingConfig)
        recipe.section("generation", GenerationConfig)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("[training]\nminuts = 5\n", [], "did you mean 'minutes'"),
        ("[training.inner]\nrat = 5\n", [], "did you mean 'rate'"),
        ("[trainin]\n", [], "did you mean 'training'"),
        ("[training]\nminutes = 'long'\n", [], "training.minutes = 'long'"),
        ("[training\n", [], "is not TOML"),
        ("# nothing", ["minutes=5"], "section.key=value"),
        ("x = 1\n[training]\n", ["trining.minutes=5"], "section"),
    ],
)
def test_a_mistake_is_reported_with_the_nearest_valid_key(
    tmp_path: Path, text: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe_file(tmp_path, text + "\n"), overrides).section("training", Config)


def test_a_missing_recipe_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'demo'"):
        load_recipe("dmo")
    with pytest.raises(FileProblem, match="does not exist"):
        load_recipe(str(tmp_path / "none.toml"))


def test_a_recipe_is_merged_over_the_one_it_extends(tmp_path: Path) -> None:
    below = recipe_file(
        tmp_path, 'weight_class = "medium"\n[training]\nminutes = 5.0\n[training.inner]\nrate = 0.5\n'
    )
    above = tmp_path / "above.toml"
    above.write_text(f'extends = "{below}"\n[training.inner]\nrate = 0.25\n')
    recipe = load_recipe(str(above))
    assert recipe.weight_class == "medium"
    assert recipe.tables == {"training": {"minutes": 5.0, "inner": {"rate": 0.25}}}
    Path(below).write_text(f'extends = "{above}"\n')
    with pytest.raises(RecipeError, match="extends itself"):
        load_recipe(str(above))
