"""Exported files contain what the loader of each framework reads."""

from __future__ import annotations

import ast
import json
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from smalltale.cli import build_app
from smalltale.counting.count import count_parameters
from smalltale.errors import FileProblem, RecipeError, SmalltaleError
from smalltale.frameworks.exporting import TEMPLATES, export, plan_for_small_class
from smalltale.frameworks.framework import FRAMEWORK_NAMES, ExportPlan, all_frameworks, get_framework
from smalltale.model.gpt import GPT, GPTConfig
from smalltale.tokens.token_folder import read_tokens
from smalltale.tokens.tokenizer import Tokenizer

from .conftest import Prepared


def export_tokens(name: str, prepared: Prepared, out: Path) -> Path:
    return export(get_framework(name), prepared.tokens, prepared.tokenizer, out, prepared.plan)


@pytest.mark.parametrize("name", FRAMEWORK_NAMES)
def test_every_framework_gets_a_readme_a_tokenizer_and_files_without_unfilled_variables(
    name: str, prepared: Prepared, tmp_path: Path
) -> None:
    out = export_tokens(name, prepared, tmp_path / "out")
    assert json.loads((out / "meta.json").read_text())["framework"] == name
    assert Tokenizer.load(out).hash == Tokenizer.load(prepared.tokenizer).hash
    assert "smalltale" in (out / "README.md").read_text()
    for path in [*out.rglob("*.py"), *out.rglob("*.yaml"), *out.rglob("*.toml"), out / "README.md"]:
        text = path.read_text()
        assert not re.search(r"\$[a-z_]+\b", text), path
        if path.suffix == ".py":
            ast.parse(text)
        if path.suffix == ".yaml":
            assert yaml.safe_load(text)


def test_nanogpt_reads_the_same_ids_and_its_vocabulary(prepared: Prepared, tmp_path: Path) -> None:
    out = export_tokens("nanogpt", prepared, tmp_path / "out")
    tokens = read_tokens(prepared.tokens)
    assert np.array_equal(np.memmap(out / "train.bin", dtype=np.uint16, mode="r"), tokens.train)
    table = pickle.loads((out / "meta.pkl").read_bytes())
    assert table["vocab_size"] == tokens.meta["vocabulary"]
    first = [table["itos"][number] for number in tokens.train[: int(tokens.train_offsets[1]) - 1].tolist()]
    assert "".join(first) == Tokenizer.load(prepared.tokenizer).decode(
        tokens.train[: int(tokens.train_offsets[1]) - 1].tolist()
    )


def test_the_trainer_reads_packed_rows(prepared: Prepared, tmp_path: Path) -> None:
    out = export_tokens("trainer", prepared, tmp_path / "out")
    rows = pq.read_table(out / "train.parquet")["input_ids"].to_pylist()
    tokens = read_tokens(prepared.tokens)
    assert {len(row) for row in rows} == {prepared.plan.context}
    assert [token for row in rows for token in row] == tokens.train[
        : len(rows) * prepared.plan.context
    ].tolist()


def test_litdata_chunks_have_the_ids_after_their_header(prepared: Prepared, tmp_path: Path) -> None:
    out = export_tokens("litgpt", prepared, tmp_path / "out")
    index = json.loads((out / "data" / "train" / "index.json").read_text())
    tokens = read_tokens(prepared.tokens)
    assert [chunk["dim"] for chunk in index["chunks"]] == [len(tokens.train)]
    assert index["config"]["data_format"] == ["no_header_tensor:20"]
    raw = (out / "data" / "train" / index["chunks"][0]["filename"]).read_bytes()
    assert np.frombuffer(raw[:12], "<u4").tolist() == [1, 12, len(raw)]
    assert np.array_equal(np.frombuffer(raw[12:], "<u2"), tokens.train)


def test_mds_samples_are_found_by_their_offsets(prepared: Prepared, tmp_path: Path) -> None:
    out = export_tokens("composer", prepared, tmp_path / "out")
    index = json.loads((out / "mds" / "train" / "index.json").read_text())
    (shard,) = index["shards"]
    raw = (out / "mds" / "train" / shard["raw_data"]["basename"]).read_bytes()
    count = int(np.frombuffer(raw[:4], "<u4")[0])
    offsets = np.frombuffer(raw[4 : 4 + 4 * (count + 1)], "<u4")
    tokens, context = read_tokens(prepared.tokens), prepared.plan.context
    assert (count, len(raw), int(offsets[-1])) == (shard["samples"], shard["raw_data"]["bytes"], len(raw))
    sample = raw[offsets[1] : offsets[2]]
    assert int.from_bytes(sample[:4], "little") == 8 * context
    assert np.array_equal(np.frombuffer(sample[4:], "<i8"), tokens.train[context : 2 * context])


def test_llama2c_shards_begin_with_a_start_token_and_the_first_is_held_out(
    prepared: Prepared, tmp_path: Path
) -> None:
    out = export_tokens("llama2c", prepared, tmp_path / "out")
    tokens = read_tokens(prepared.tokens)
    held_out, train = sorted((out / "data" / f"tok{prepared.plan.vocabulary}").glob("*.bin"))
    assert np.fromfile(held_out, "<u2").tolist() == [tokens.meta["end_id"], *tokens.val[:-1].tolist()]
    assert np.fromfile(train, "<u2").tolist() == [tokens.meta["end_id"], *tokens.train[:-1].tolist()]


@pytest.mark.parametrize("vocabulary", [2048, 8192, 32_000])
def test_the_plan_fills_the_small_class_and_stays_inside(vocabulary: int) -> None:
    plan = plan_for_small_class(vocabulary)
    shape = GPTConfig(
        vocab_size=vocabulary,
        block_size=plan.context,
        n_layer=plan.layers,
        n_head=plan.heads,
        n_embd=plan.width,
    )
    counted = count_parameters(GPT(shape)).counted
    assert 0.85 * 30_000_000 < counted <= 30_000_000


def test_an_export_is_never_overwritten(prepared: Prepared, tmp_path: Path) -> None:
    out = export_tokens("nanogpt", prepared, tmp_path / "out")
    with pytest.raises(FileProblem, match="choose a new folder"):
        export_tokens("nanogpt", prepared, out)


def test_a_tokenizer_that_did_not_encode_the_tokens_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    from smalltale.tokens.tokenizer import TokenizerConfig, train_tokenizer

    (tmp_path / "other").mkdir()
    train_tokenizer(["another text entirely"], TokenizerConfig(vocabulary=300)).save(tmp_path / "other")
    with pytest.raises(FileProblem, match="--tokenizer"):
        export(get_framework("trainer"), prepared.tokens, tmp_path / "other", tmp_path / "out", prepared.plan)


def test_an_unknown_framework_and_an_impossible_shape_list_the_choices() -> None:
    with pytest.raises(SmalltaleError, match="choose one of: nanogpt, trainer"):
        get_framework("keras")
    with pytest.raises(RecipeError, match="heads"):
        ExportPlan(vocabulary=300, layers=1, width=30, heads=4)


def test_every_framework_has_training_commands_and_a_checkpoint() -> None:
    for framework in all_frameworks():
        assert framework.train, framework.name
        assert framework.checkpoint, framework.name


def test_the_streams_of_the_shared_scripts_are_the_tokens(prepared: Prepared, tmp_path: Path) -> None:
    out = export_tokens("accelerate", prepared, tmp_path / "out")
    meta = json.loads((out / "meta.json").read_text())
    tokens = read_tokens(prepared.tokens)
    assert np.array_equal(np.memmap(out / "val.bin", dtype=meta["dtype"], mode="r"), tokens.val)


def test_axolotl_reads_each_story_as_a_line_that_encodes_to_its_ids(
    prepared: Prepared, tmp_path: Path
) -> None:
    out = export_tokens("axolotl", prepared, tmp_path / "out")
    from transformers import PreTrainedTokenizerFast

    # The class that axolotl.yaml names.
    tokens, tokenizer = read_tokens(prepared.tokens), PreTrainedTokenizerFast.from_pretrained(out)
    lines = [json.loads(line)["text"] for line in (out / "train.jsonl").read_text().splitlines()]
    # Axolotl adds the end token after a story; the line has the one before it.
    ids = [token for text in lines for token in tokenizer.encode(text, add_special_tokens=False)]
    assert [*ids[1:], ids[0]] == tokens.train.tolist()
    assert yaml.safe_load((out / "axolotl.yaml").read_text())["datasets"] == [
        {"path": "train.jsonl", "ds_type": "json", "type": "completion"}
    ]


def test_llmfoundry_trains_a_llama_on_the_shards_of_composer(prepared: Prepared, tmp_path: Path) -> None:
    out = export_tokens("llmfoundry", prepared, tmp_path / "out")
    settings = yaml.safe_load((out / "train.yaml").read_text())
    assert settings["model"]["name"] == "hf_causal_lm"
    assert not settings["model"]["pretrained"]
    loader = settings["train_loader"]["dataset"]
    ours = (out / loader["local"] / loader["split"] / "shard.00000.mds").read_bytes()
    composers = export_tokens("composer", prepared, tmp_path / "other") / "mds" / "train" / "shard.00000.mds"
    assert ours == composers.read_bytes()


@pytest.mark.parametrize("name", ["nanogpt", "llama2c"])
def test_a_vocabulary_too_large_for_two_bytes_is_refused(
    name: str, prepared: Prepared, tmp_path: Path
) -> None:
    folder = tmp_path / "tokens"
    shutil.copytree(prepared.tokens, folder)
    for split in ("train", "val"):
        array = np.fromfile(folder / f"{split}.bin", dtype=np.uint16)
        array.astype(np.uint32).tofile(folder / f"{split}.bin")
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "dtype": "uint32"}))
    with pytest.raises(FileProblem, match=r"uint16; train a tokenizer of at most 65,536"):
        export(get_framework(name), folder, prepared.tokenizer, tmp_path / "out", prepared.plan)
    assert not (tmp_path / "out").exists()


def test_a_row_longer_than_the_text_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    plan = replace(prepared.plan, context=1_000_000)
    with pytest.raises(FileProblem, match="encode more"):
        export(get_framework("accelerate"), prepared.tokens, prepared.tokenizer, tmp_path / "out", plan)


def test_the_command_needs_a_tokenizer_next_to_the_tokens_or_named(
    prepared: Prepared, tmp_path: Path
) -> None:
    shutil.copytree(prepared.tokens, tmp_path / "tokens")
    command = ["export", str(tmp_path / "tokens"), "--for", "mlx", "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(build_app(), command)
    assert isinstance(refused.exception, FileProblem)
    assert "--tokenizer" in str(refused.exception)
    small = ["--layers", "1", "--width", "32", "--heads", "2", "--context", "32"]
    result = CliRunner().invoke(build_app(), [*command, *small, "--tokenizer", str(prepared.tokenizer)])
    assert result.exit_code == 0
    assert json.loads((tmp_path / "out" / "meta.json").read_text())["plan"]["layers"] == 1


def test_a_stand_in_can_be_imported_called_decorated_with_and_derived_from() -> None:
    script = """
from stand_in import stand_in_for
stand_in_for("absent")
import absent.deep.down as down
from absent.ops import jit, Base

class Real: pass
class Own(Real, Base): pass

@jit
def kernel(): pass

@down.config(key=[1])
def launch(x: Base | None): pass

assert Own.__mro__ == (Own, Real, object)
assert not isinstance(3, Base)
try:
    import missing
except ModuleNotFoundError:
    print("only named packages")
"""
    completed = subprocess.run(
        [sys.executable, "-c", script], cwd=TEMPLATES / "shared", capture_output=True, text=True, check=False
    )
    assert (completed.stdout, completed.stderr) == ("only named packages\n", "")
