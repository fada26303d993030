"""Speed of generating 300 completions against transformers.generate, and whether both generate the same tokens.

Input: a 27M model of ours and a 28M Llama with random weights, prompts of 40 to 69 random tokens, 200 new tokens each.
Output: results/generation-DEVICE.json, and as the last line of standard output one JSON object with the key `ratio`
(ours with its own choice of dtype divided by the peer at batch 32 in float32, median of rounds in which each runs once).
Neither stops early. The peer runs in a process of its own, because our threads wait without spinning, which would cost the peer a
fifth. One-time work is recorded as `warm_up_seconds` and is in no round: compiling decode.cpp, loading a device's libraries,
planning attention for each length.

    python -m benchmarks.generation.throughput [--quick] [--device cpu] [--out benchmarks/results/generation-cpu.json]
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_context
from typing import Any

if __name__ == "__main__":  # not in the peer's process
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as `smalltale generate` does; read when torch loads
import torch

from benchmarks.lib.records import RESULTS, add_record_arguments, provenance, write_record
from smalltale.generation.generate import generate_completions
from smalltale.generation.language_model import NativeModel, choose_dtype
from smalltale.generation.native_decoder import load_native_library
from smalltale.generation.sampler import GenerationConfig
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.tokenizer import Tokenizer

VOCABULARY, NEW_TOKENS, COMPLETIONS, SAMPLES = 4096, 200, 300, 4
TEMPERATURE, TOP_K = 0.8, 50


class NumberTokenizer(Tokenizer):
    """A tokenizer whose texts are numbers, the ids; it has no end token."""

    def __init__(self) -> None:
        self.end_id = -1

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


class EndlessModel(NativeModel):
    """Our model without start token, which `NumberTokenizer` does not have."""

    def encode(self, prompt: str) -> list[int]:
        return self.tokenizer.encode(prompt)


def build_our_model(device: str) -> Transformer:
    """27.3M random parameters, scaled so that the distributions are neither flat nor peaked."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(vocabulary=VOCABULARY, layers=8, width=512, heads=8, context=512))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.15)
        model.embedding.weight.normal_(std=0.05)
    return model.eval().to(device)


@cache
def build_peer_model(device: str) -> Any:
    """A Llama of 29M parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval().to(device)


def make_prompts(count: int) -> list[str]:
    generator = random.Random(0)
    return [
        " ".join(str(generator.randrange(2, VOCABULARY)) for _ in range(generator.randint(40, 69)))
        for _ in range(count)
    ]


def run_ours(model: Transformer, dtype: torch.dtype, count: int, native: bool = True) -> float:
    """Tokens per second of `count` completions."""
    config = GenerationConfig(
        samples=SAMPLES,
        max_tokens=NEW_TOKENS,
        temperature=TEMPERATURE,
        top_k=TOP_K,
        top_p=1.0,
        loop_repeats=0,
    )
    language_model = EndlessModel(model, NumberTokenizer(), dtype, native=native)
    began = time.perf_counter()
    rows = generate_completions(language_model, make_prompts(count // SAMPLES), config)
    return sum(len(row.completion.split()) for row in rows) / (time.perf_counter() - began)


@contextmanager
def start_peer(device: str) -> Iterator[Callable[[int], float]]:
    """Start the peer in its own process; yields a function from batch size to tokens per second.

    Its OpenMP threads spin, as by default: next to other work on the same cores it is many times slower.
    """
    policy = os.environ.pop("OMP_WAIT_POLICY", None)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        seconds = time_seconds(lambda: pool.submit(run_peer_batch, device, 2).result())
        print(f"transformers started in {seconds} s", flush=True)
        if policy is not None:
            os.environ["OMP_WAIT_POLICY"] = policy
        yield lambda batch: pool.submit(run_peer_batch, device, batch).result()


def run_peer_batch(device: str, batch: int) -> float:
    return generate_with_peer(build_peer_model(device), batch)[0]


@torch.inference_mode()
def generate_with_peer(model: Any, batch: int, *, sample: bool = True) -> tuple[float, list[list[int]]]:
    """Tokens per second of one batch through transformers.generate, and the generated ids."""
    encoded = [list(map(int, prompt.split())) for prompt in make_prompts(-(-batch // SAMPLES))]
    rows = [encoded[index // SAMPLES] for index in range(batch)] if sample else make_prompt_ids(batch)
    longest = max(map(len, rows))
    device = model.device
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    settings = (
        {"do_sample": True, "temperature": TEMPERATURE, "top_k": TOP_K} if sample else {"do_sample": False}
    )
    began = time.perf_counter()
    out = model.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS if sample else 48, **settings)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return batch * NEW_TOKENS / (time.perf_counter() - began), out[:, longest:].tolist()


def make_prompt_ids(count: int) -> list[list[int]]:
    return [list(map(int, prompt.split())) for prompt in make_prompts(count)]


def decode_greedily(language_model: Any, count: int) -> list[list[int]]:
    """48 greedy tokens after each prompt."""
    config = GenerationConfig(samples=1, max_tokens=48, temperature=0, loop_repeats=0)
    return [
        list(map(int, row.completion.split()))
        for row in generate_completions(language_model, make_prompts(count), config)
    ]


def check_parity(model: Transformer, peer: Any, count: int) -> dict[str, Any]:
    """Compare greedy tokens: transformers and ours on the same Llama; our cached and uncached decoding, in both dtypes."""
    from smalltale.generation.hf_model import HuggingFaceModel

    adapter = HuggingFaceModel.__new__(HuggingFaceModel)
    adapter.model, adapter.tokenizer, adapter.context, adapter.batch, adapter.refill = peer, None, 512, 3, 0.5
    adapter.end_ids = set()
    adapter.encode = lambda prompt: list(map(int, prompt.split()))  # type: ignore[method-assign]
    adapter.decode = lambda ids: " ".join(map(str, ids))  # type: ignore[method-assign]
    _, expected = generate_with_peer(peer, count, sample=False)
    through_ours = decode_greedily(adapter, count)
    float32_ids = decode_greedily(EndlessModel(model, NumberTokenizer(), torch.float32), count)
    uncached_ids = [decode_uncached(model, ids) for ids in make_prompt_ids(count)]
    bfloat16_ids = decode_greedily(EndlessModel(model, NumberTokenizer(), torch.bfloat16), count)
    return {
        "prompts": count,
        "tokens_each": 48,
        "a_llama_through_us_equals_generate": expected == through_ours,
        "ours_equals_whole_rows_float32": float32_ids == uncached_ids,
        "bfloat16_first_differences": find_differences(
            model, make_prompt_ids(count), float32_ids, bfloat16_ids
        ),
    }


@torch.inference_mode()
def decode_uncached(model: Transformer, ids: list[int]) -> list[int]:
    """Greedy decoding without a cache."""
    row = list(ids)
    for _ in range(48):
        row.append(int(model(torch.tensor([row]))[0, -1].argmax()))
    return row[len(ids) :]


@torch.inference_mode()
def find_differences(
    model: Transformer,
    prompts: list[list[int]],
    float32_ids: list[list[int]],
    bfloat16_ids: list[list[int]],
) -> list[dict[str, Any]]:
    """The first position where bfloat16 chose another token, with the gap of the two logits in float32."""
    differences = []
    for number, (prompt, exact, low) in enumerate(zip(prompts, float32_ids, bfloat16_ids, strict=True)):
        position = next((i for i, (a, b) in enumerate(zip(exact, low, strict=False)) if a != b), None)
        if position is not None:
            logits = model(torch.tensor([prompt + exact[:position]]))[0, -1]
            gap = float(logits[exact[position]] - logits[low[position]])
            spread = float(logits.std())
            differences.append(
                {"prompt": number, "token": position, "gap": round(gap, 4), "spread": round(spread, 3)}
            )
    return differences


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


def run_rounds(
    model: Transformer, peer: Callable[[int], float], dtype: torch.dtype, count: int, rounds: int
) -> list[tuple[float, float]]:
    """Tokens per second of ours and of the peer at batch 32, alternating, so that a slow minute affects both."""
    results = []
    for number in range(rounds):
        results.append((run_ours(model, dtype, count), peer(32)))
        ours, theirs = results[-1]
        print(f"round {number + 1}: ours {ours:.0f}, transformers {theirs:.0f} tokens/s", flush=True)
    return results


def share_independent_of_batch(model: Transformer, dtype: torch.dtype) -> float:
    """Share of 48 sampled completions of 64 tokens that are equal in batches of 48 and of 7."""
    language_model = EndlessModel(model, NumberTokenizer(), dtype)
    wide, narrow = (
        generate_completions(
            language_model, make_prompts(12), GenerationConfig(max_tokens=64, loop_repeats=0, batch=batch)
        )
        for batch in (48, 7)
    )
    return sum(first == second for first, second in zip(wide, narrow, strict=True)) / len(wide)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    add_record_arguments(parser)
    arguments = parser.parse_args()
    count = 60 if arguments.quick else COMPLETIONS
    model = build_our_model(arguments.device)
    dtype = choose_dtype(torch.device(arguments.device), "auto")
    warm_up = time_seconds(lambda: warm_up_model(model, dtype, count))
    print(f"warm-up: {warm_up} s", flush=True)
    with start_peer(arguments.device) as peer:
        rounds = run_rounds(model, peer, dtype, count, 1 if arguments.quick else 3)
        peers = {32: statistics.median(theirs for _, theirs in rounds)}
        for batch in [] if arguments.quick else [1, 8, 64, 128, 256]:
            peers[batch] = peer(batch)
            print(f"transformers.generate, batch {batch}: {peers[batch]:.0f} tokens/s", flush=True)
    ours = statistics.median(speed for speed, _ in rounds)
    result = {
        "ratio": round(statistics.median(own / theirs for own, theirs in rounds), 2),
        "ratio_to_its_best": round(ours / max(peers.values()), 2),
        "tokens_per_second": round(ours, 1),
        "seconds": round(count * NEW_TOKENS / ours, 2),
        "warm_up_seconds": warm_up,
        "rounds": [[round(speed, 1) for speed in pair] for pair in rounds],
        "dtype": str(dtype),
        "compiled_step": arguments.device == "cpu" and load_native_library() is not None,
        "peer_tokens_per_second": {batch: round(speed, 1) for batch, speed in sorted(peers.items())},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "peer_parameters": sum(
            parameter.numel() for parameter in build_peer_model(arguments.device).parameters()
        ),
        **provenance(("torch", "transformers"), arguments.commit),
        "device": device_name(arguments.device),
        "threads": torch.get_num_threads(),
    }
    result["same_in_other_batches"] = {
        str(number_type): share_independent_of_batch(model, number_type)
        for number_type in (torch.float32, torch.bfloat16)
    }
    if arguments.device == "cpu":
        result["float32_tokens_per_second"] = round(run_ours(model, torch.float32, min(count, 60)), 1)
        result["greedy"] = check_parity(model, build_peer_model("cpu"), 4 if arguments.quick else 12)
    write_record(arguments.out or RESULTS / f"generation-{arguments.device}.json", result)


def warm_up_model(model: Transformer, dtype: torch.dtype, count: int) -> None:
    """A small run on a CPU; a full one on an accelerator, whose libraries plan again for each new length."""
    load_native_library()
    run_ours(model, dtype, 8 if model.embedding.weight.device.type == "cpu" else count)


def time_seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 2)


if __name__ == "__main__":
    main()
