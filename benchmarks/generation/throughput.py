"""How fast 300 completions are written, against transformers.generate, and whether they are the same words.

In: nothing; a 27M model of ours and a 28M Llama with random weights, prompts of 40 to 69 random tokens, 200 tokens each.
Out: results/generation.json, and as the last line of standard output one JSON object with the key `ratio`
(ours by ours' own choice of number type ÷ the peer at batch 32 in float32, the median of rounds in which each runs once).
Beware: the peer never stops early, and neither do we. It runs in a process of its own, because our threads wait without
spinning, and that costs it a fifth. What happens once a process stands apart as `warm_up_seconds`: decode.cpp compiled, a
device's libraries loaded, its attention planned for each length; no round includes it.

    python -m benchmarks.generation.throughput [--quick] [--device cpu] [--out benchmarks/results/generation.json]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # not in the peer's process
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as `smalltale generate` does; read when torch loads
import torch

from smalltale.files import git_commit
from smalltale.generation.generate import generate_completions
from smalltale.generation.language_model import NativeModel, choose_dtype
from smalltale.generation.native_decoder import load_native_library
from smalltale.generation.sampler import GenerationConfig
from smalltale.machine import usable_cores
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.tokenizer import Tokenizer

HERE = Path(__file__).parents[1]
V, NEW, COMPLETIONS, SAMPLES = 4096, 200, 300, 4
TEMPERATURE, TOP_K = 0.8, 50


class Numbers(Tokenizer):
    """A tokenizer whose texts are the ids themselves; nothing ends a story."""

    def __init__(self) -> None:
        self.end_id = -1

    def encode(self, text: str) -> list[int]:
        return [int(each) for each in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


class Endless(NativeModel):
    """A NativeModel without the start token, which is no number of `Numbers`."""

    def encode(self, prompt: str) -> list[int]:
        return self.tokenizer.encode(prompt)


def our_model(device: str) -> Transformer:
    """27.3M parameters, random, so that logits are neither flat nor sure."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(vocabulary=V, layers=8, width=512, heads=8, context=512))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.15)
        model.embedding.weight.normal_(std=0.05)
    return model.eval().to(device)


@cache
def peer_model(device: str) -> Any:
    """A Llama of 29M parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V,
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


def prompts_of(count: int) -> list[str]:
    chance = random.Random(0)
    return [
        " ".join(str(chance.randrange(2, V)) for _ in range(chance.randint(40, 69))) for _ in range(count)
    ]


def ours_at(model: Transformer, dtype: torch.dtype, count: int, native: bool = True) -> float:
    """Tokens per second of `count` completions."""
    config = GenerationConfig(
        samples=SAMPLES, max_tokens=NEW, temperature=TEMPERATURE, top_k=TOP_K, top_p=1.0, loop_repeats=0
    )
    language_model = Endless(model, Numbers(), dtype, native=native)
    began = time.perf_counter()
    rows = generate_completions(language_model, prompts_of(count // SAMPLES), config)
    return sum(len(row.completion.split()) for row in rows) / (time.perf_counter() - began)


@contextmanager
def peer_on(device: str) -> Iterator[Callable[[int], float]]:
    """The peer in its own process: a batch in, its tokens per second out."""
    policy = os.environ.pop("OMP_WAIT_POLICY", None)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(peer_speed, device, 2).result()
        if policy is not None:
            os.environ["OMP_WAIT_POLICY"] = policy
        yield lambda batch: pool.submit(peer_speed, device, batch).result()


def peer_speed(device: str, batch: int) -> float:
    return peer_at(peer_model(device), batch)[0]


@torch.inference_mode()
def peer_at(model: Any, batch: int, *, sample: bool = True) -> tuple[float, list[list[int]]]:
    """Tokens per second of one batch through transformers.generate, and the ids it wrote."""
    encoded = [list(map(int, each.split())) for each in prompts_of(-(-batch // SAMPLES))]
    rows = [encoded[index // SAMPLES] for index in range(batch)] if sample else prompts_ids(batch)
    longest = max(map(len, rows))
    device = model.device
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    settings = (
        {"do_sample": True, "temperature": TEMPERATURE, "top_k": TOP_K} if sample else {"do_sample": False}
    )
    began = time.perf_counter()
    out = model.generate(ids, attention_mask=mask, max_new_tokens=NEW if sample else 48, **settings)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return batch * NEW / (time.perf_counter() - began), out[:, longest:].tolist()


def prompts_ids(count: int) -> list[list[int]]:
    return [list(map(int, each.split())) for each in prompts_of(count)]


def greedy(language_model: Any, count: int) -> list[list[int]]:
    """48 likeliest tokens behind each prompt."""
    config = GenerationConfig(samples=1, max_tokens=48, temperature=0, loop_repeats=0)
    return [
        list(map(int, row.completion.split()))
        for row in generate_completions(language_model, prompts_of(count), config)
    ]


def parity(model: Transformer, peer: Any, count: int) -> dict[str, Any]:
    """Greedy words: through transformers and through us, from kept keys and from whole rows, in both number types."""
    from smalltale.generation.hf_model import HuggingFaceModel

    outside = HuggingFaceModel.__new__(HuggingFaceModel)
    outside.model, outside.tokenizer, outside.context, outside.batch, outside.refill = peer, None, 512, 3, 0.5
    outside.end_ids = set()
    outside.encode = lambda prompt: list(map(int, prompt.split()))  # type: ignore[method-assign]
    outside.decode = lambda ids: " ".join(map(str, ids))  # type: ignore[method-assign]
    _, theirs = peer_at(peer, count, sample=False)
    through_us = greedy(outside, count)
    exact = greedy(Endless(model, Numbers(), torch.float32), count)
    whole = [whole_rows(model, ids) for ids in prompts_ids(count)]
    low = greedy(Endless(model, Numbers(), torch.bfloat16), count)
    return {
        "prompts": count,
        "tokens_each": 48,
        "a_llama_through_us_equals_generate": theirs == through_us,
        "ours_equals_whole_rows_float32": exact == whole,
        "bfloat16_first_differences": differences(model, prompts_ids(count), exact, low),
    }


@torch.inference_mode()
def whole_rows(model: Transformer, ids: list[int]) -> list[int]:
    """Greedy decoding without keeping anything."""
    row = list(ids)
    for _ in range(48):
        row.append(int(model(torch.tensor([row]))[0, -1].argmax()))
    return row[len(ids) :]


@torch.inference_mode()
def differences(
    model: Transformer, prompts: list[list[int]], exact: list[list[int]], low: list[list[int]]
) -> list[dict[str, Any]]:
    """The first place where bfloat16 chose another token, with the gap of the two logits in float32."""
    found = []
    for number, (prompt, one, two) in enumerate(zip(prompts, exact, low, strict=True)):
        place = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), None)
        if place is not None:
            logits = model(torch.tensor([prompt + one[:place]]))[0, -1]
            gap = float(logits[one[place]] - logits[two[place]])
            spread = float(logits.std())
            found.append({"prompt": number, "token": place, "gap": round(gap, 4), "spread": round(spread, 3)})
    return found


def machine(device: str) -> str:
    """The accelerator's or the processor's name, and how many of its cores this process may use."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    told = Path("/proc/cpuinfo")
    names = (
        [each for each in told.read_text().splitlines() if each.startswith("model name")]
        if told.exists()
        else []
    )
    name = names[0].partition(": ")[2] if names else platform.processor()
    cores = usable_cores()
    return f"{name}, {cores} cores"


def rounds_of(
    model: Transformer, peer: Callable[[int], float], dtype: torch.dtype, count: int, rounds: int
) -> list[tuple[float, float]]:
    """Tokens per second of ours and of the peer at batch 32, one behind the other, so that a slow minute slows both."""
    found = []
    for number in range(rounds):
        found.append((ours_at(model, dtype, count), peer(32)))
        ours, theirs = found[-1]
        print(f"round {number + 1}: ours {ours:.0f}, transformers {theirs:.0f} tokens/s", flush=True)
    return found


def same_in_other_batches(model: Transformer, dtype: torch.dtype) -> float:
    """Share of 48 drawn completions of 64 tokens whose words are the same in batches of 48 and of 7."""
    language_model = Endless(model, Numbers(), dtype)
    wide, narrow = (
        generate_completions(
            language_model, prompts_of(12), GenerationConfig(max_tokens=64, loop_repeats=0, batch=batch)
        )
        for batch in (48, 7)
    )
    return sum(one == two for one, two in zip(wide, narrow, strict=True)) / len(wide)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="60 completions, one round, batch 32 alone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "generation.json")
    chosen = parser.parse_args()
    count = 60 if chosen.quick else COMPLETIONS
    model = our_model(chosen.device)
    dtype = choose_dtype(torch.device(chosen.device), "auto")
    warm_up = seconds(lambda: warm(model, dtype, count))
    print(f"warm-up: {warm_up} s", flush=True)
    with peer_on(chosen.device) as peer:
        rounds = rounds_of(model, peer, dtype, count, 1 if chosen.quick else 3)
        peers = {32: statistics.median(theirs for _, theirs in rounds)}
        for batch in [] if chosen.quick else [1, 8, 64, 128, 256]:
            peers[batch] = peer(batch)
            print(f"transformers.generate, batch {batch}: {peers[batch]:.0f} tokens/s", flush=True)
    ours = statistics.median(each for each, _ in rounds)
    result = {
        "ratio": round(statistics.median(one / two for one, two in rounds), 2),
        "ratio_to_its_best": round(ours / max(peers.values()), 2),
        "tokens_per_second": round(ours, 1),
        "seconds": round(count * NEW / ours, 2),
        "warm_up_seconds": warm_up,
        "rounds": [[round(each, 1) for each in both] for both in rounds],
        "dtype": str(dtype),
        "compiled_step": chosen.device == "cpu" and load_native_library() is not None,
        "peer_tokens_per_second": {batch: round(speed, 1) for batch, speed in sorted(peers.items())},
        "parameters": sum(each.numel() for each in model.parameters()),
        "peer_parameters": sum(each.numel() for each in peer_model(chosen.device).parameters()),
        "machine": machine(chosen.device),
        "threads": torch.get_num_threads(),
        "commit": git_commit(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    }
    result["same_in_other_batches"] = {
        str(each): same_in_other_batches(model, each) for each in (torch.float32, torch.bfloat16)
    }
    if chosen.device == "cpu":
        result["float32_tokens_per_second"] = round(ours_at(model, torch.float32, min(count, 60)), 1)
        result["greedy"] = parity(model, peer_model("cpu"), 4 if chosen.quick else 12)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


def warm(model: Transformer, dtype: torch.dtype, count: int) -> None:
    """A small run everywhere; on an accelerator a whole one, because its libraries plan anew for each new length."""
    load_native_library()
    ours_at(model, dtype, 8 if model.embedding.weight.device.type == "cpu" else count)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 2)


if __name__ == "__main__":
    main()
