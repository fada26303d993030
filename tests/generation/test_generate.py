from __future__ import annotations

import pytest
import torch

from smalltale.errors import SmalltaleError
from smalltale.generation.candidate import Candidate
from smalltale.generation.generate import complete_prompts, generate_completions
from smalltale.generation.inference_weights import Decoder, InferenceWeights
from smalltale.generation.language_model import NativeModel
from smalltale.generation.native_decoder import NativeDecoder, load_native_library
from smalltale.generation.sampler import GenerationConfig
from smalltale.generation.torch_decoder import TorchDecoder
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer

STORIES = ["Mia has a red kite. The kite flies up.", "A small dog ran home. It was happy."] * 5


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(STORIES, TokenizerConfig(vocabulary=290))


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    """A tiny model without zero weights, so that every module affects the logits."""
    torch.manual_seed(0)
    model = Transformer(
        ModelConfig(vocabulary=tokenizer.vocabulary_size, layers=2, width=32, heads=2, context=48)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(params=["torch", "native"])
def decoder(request: pytest.FixtureRequest, model: Transformer) -> Decoder:
    """Both decoders of a Transformer."""
    weights = InferenceWeights(model, torch.float32)
    if request.param == "torch":
        return TorchDecoder(weights, longest_prompt=9, max_new_tokens=10)
    library = load_native_library()
    if library is None:
        pytest.skip("no C++ compiler on this machine")
    return NativeDecoder(weights, library, rows=4, longest_prompt=9, max_new_tokens=10)


def test_decoding_with_a_kv_cache_equals_reading_the_complete_row(
    model: Transformer, decoder: Decoder
) -> None:
    torch.manual_seed(1)
    rows = [torch.randint(2, 290, (length,)).tolist() for length in (3, 9, 5)]
    rows.append(list(rows[0]))
    logits = decoder.add(rows)
    for step in range(8):
        for index, row in enumerate(rows):
            with torch.inference_mode():
                expected = model(torch.tensor([row]))[0, -1]
            torch.testing.assert_close(logits[index], expected, atol=2e-4, rtol=1e-3)
        if step == 3:
            decoder.keep([0, 2])
            rows, logits = [rows[0], rows[2]], logits[[0, 2]]
        if step == 4:
            rows.append([5, 6, 7])
            logits = torch.cat((logits, decoder.add([[5, 6, 7]])))
        next_ids = logits.argmax(-1)
        rows = [[*row, int(token)] for row, token in zip(rows, next_ids, strict=True)]
        logits = decoder.step(next_ids)


def test_a_completion_does_not_depend_on_the_rest_of_its_batch(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    prompts = ["Mia has", "A small dog ran home. It", "The"]
    config = GenerationConfig(samples=2, max_tokens=12, temperature=0.9)
    together = complete_prompts(model, tokenizer, prompts, config)
    alone = [
        row for prompt in reversed(prompts) for row in complete_prompts(model, tokenizer, [prompt], config)
    ]
    assert sorted(map(str, together)) == sorted(map(str, alone))
    assert [row.prompt for row in together] == [prompt for prompt in prompts for _ in range(2)]


def test_completions_of_a_prompt_differ_and_do_not_repeat_the_prompt(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    rows = complete_prompts(
        model, tokenizer, ["Mia has"], GenerationConfig(samples=4, max_tokens=8, temperature=1.0)
    )
    assert len({row.completion for row in rows}) == 4
    assert not any(row.completion.startswith("Mia has") for row in rows)


def test_greedy_decoding_cannot_give_different_completions(model: Transformer, tokenizer: Tokenizer) -> None:
    with pytest.raises(SmalltaleError, match="raise generation"):
        complete_prompts(
            model, tokenizer, ["Mia"], GenerationConfig(samples=2, max_tokens=4, temperature=0.0)
        )


def test_a_prompt_longer_than_the_context_is_refused(model: Transformer, tokenizer: Tokenizer) -> None:
    with pytest.raises(SmalltaleError, match="the model reads 48"):
        complete_prompts(model, tokenizer, ["kite " * 60], GenerationConfig())


def test_a_model_that_gives_nan_is_refused(model: Transformer, tokenizer: Tokenizer) -> None:
    broken = Transformer(model.config)
    torch.nn.init.constant_(broken.embedding.weight, float("nan"))
    with pytest.raises(SmalltaleError, match="NaN"):
        complete_prompts(broken, tokenizer, ["Mia"], GenerationConfig(samples=1))


def test_every_batch_size_generates_the_same_text_at_a_realistic_width() -> None:
    """Wide enough that a BLAS uses different algorithms for different numbers of rows."""
    tokenizer = train_tokenizer(STORIES, TokenizerConfig(vocabulary=290))
    torch.manual_seed(4)
    model = Transformer(ModelConfig(vocabulary=290, layers=2, width=256, heads=2, context=64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    prompts = ["Mia has", "A small dog ran home. It", "The", "The kite flies"]
    texts = [
        complete_prompts(
            model.eval(), tokenizer, prompts, GenerationConfig(max_tokens=20, batch=batch, dtype="float32")
        )
        for batch in (1, 3, 16)
    ]
    assert texts[0] == texts[1] == texts[2]


def test_penalised_tokens_repeat_less_often(model: Transformer, tokenizer: Tokenizer) -> None:
    def count_distinct(penalty: float) -> int:
        config = GenerationConfig(
            samples=1, max_tokens=30, temperature=0, repetition_penalty=penalty, loop_repeats=0
        )
        text = complete_prompts(model, tokenizer, ["Mia has"], config)[0].completion
        return len(set(tokenizer.encode(text)))

    assert count_distinct(1.5) >= count_distinct(1.0)


def test_an_empty_prompt_is_refused(model: Transformer, tokenizer: Tokenizer) -> None:
    with pytest.raises(SmalltaleError, match="prompt is empty"):
        complete_prompts(model, tokenizer, [" \u200b"], GenerationConfig())


def test_an_interrupted_run_resumes_with_the_same_text(model: Transformer, tokenizer: Tokenizer) -> None:
    native_model = NativeModel(model, tokenizer, torch.float32)
    config, prompts = GenerationConfig(samples=3, max_tokens=10), ["Mia has", "The"]
    first: list[Candidate] = []
    uninterrupted = generate_completions(native_model, prompts, config, on_candidate=first.append)
    second: list[Candidate] = []
    resumed = generate_completions(
        native_model, prompts, config, finished=first[:4], on_candidate=second.append
    )
    assert resumed == uninterrupted
    assert len(second) == len(first) - 4
