from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.generation.generate import generate_completions
from smalltale.generation.hf_model import HuggingFaceModel
from smalltale.generation.language_model import open_language_model
from smalltale.generation.sampler import GenerationConfig
from smalltale.tokens.tokenizer import TokenizerConfig, train_tokenizer

STORIES = ["Mia has a red kite. The kite flies up.", "A small dog ran home. It was happy."] * 5
PROMPTS = ["Mia has", "A small dog ran home. It", "The kite"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama folder as transformers writes it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    tokenizer = train_tokenizer(STORIES, TokenizerConfig(vocabulary=290))
    tokenizer.save(folder)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=290,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=tokenizer.end_id,
        eos_token_id=tokenizer.end_id,
        pad_token_id=tokenizer.pad_id,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_greedy_completions_of_a_hugging_face_folder_equal_transformers_generate(llama: Path) -> None:
    model = open_language_model(str(llama), "cpu", "float32")
    assert isinstance(model, HuggingFaceModel)
    config = GenerationConfig(samples=1, temperature=0, max_tokens=12, loop_repeats=0, batch=2)
    for row in generate_completions(model, PROMPTS, config):
        ids = torch.tensor([model.encode(row.prompt)])
        output = model.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        assert row.completion == model.decode(output[0, ids.shape[1] :].tolist())


def test_completions_of_a_hugging_face_folder_do_not_depend_on_the_batch(llama: Path) -> None:
    model = open_language_model(str(llama), "cpu", "float32")
    wide, narrow = (
        generate_completions(model, PROMPTS, GenerationConfig(samples=2, max_tokens=10, batch=batch))
        for batch in (6, 2)
    )
    assert wide == narrow


class NextLetterModel:
    """A NextLogitsModel: after each letter comes the next one, until z."""

    context = 64

    def encode(self, prompt: str) -> list[int]:
        return [ord(letter) for letter in prompt]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def ends(self, token: int) -> bool:
        return token == ord("z") + 1

    def next_logits(self, rows: list[list[int]]) -> Tensor:
        logits = torch.full((len(rows), 128), -20.0)
        for index, row in enumerate(rows):
            logits[index, row[-1] + 1] = 20.0
        return logits


def test_any_object_with_next_logits_generates(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("next_letter")
    module.factory, module.nothing = NextLetterModel, dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "next_letter", module)
    model = open_language_model("next_letter:factory")
    config = GenerationConfig(samples=1, temperature=0.5)
    rows = generate_completions(model, ["once u", "once w", "v"], config)
    assert [row.completion for row in rows] == ["vwxyz", "xyz", "wxyz"]
    with pytest.raises(SmalltaleError, match="without encode"):
        open_language_model("next_letter:nothing")
    with pytest.raises(SmalltaleError, match="importing next_letter:missing failed"):
        open_language_model("next_letter:missing")


def test_a_folder_of_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="does not exist"):
        open_language_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"a": 1}')
    with pytest.raises(FileProblem, match="neither the architecture"):
        open_language_model(str(tmp_path))
