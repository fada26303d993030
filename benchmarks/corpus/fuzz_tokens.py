"""Encodes a million seeded texts: no text is lossy, no id is outside the vocabulary, the ids equal the tokenizer's.

Output: results/tokens_fuzz.json, and as the last line of standard output one JSON object with the key `cases`.
A failing case stops the run and is printed; the same seed reproduces it.

    python -m benchmarks.corpus.fuzz_tokens [--cases 1000000] [--seed 0]
"""

from __future__ import annotations

import argparse
import random
import time

import numpy as np
import pyarrow as pa

from benchmarks.lib.records import RESULTS, add_record_arguments, provenance, write_record
from smalltale.corpus.fable.generator import generate_stories
from smalltale.files import END_OF_STORY
from smalltale.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from smalltale.tokens.word_encoder import WordEncoder

BATCH = 10_000
PIECES = [
    *" \n\t.,!?\"'-’“”…()0123456789",
    *(
        "  ",
        "   ",
        "\n\n",
        " \n",
        "\r\n",
        "\u00a0",
        "\u3000",
        "\u2028",
        "\x1c",
        "\x85",
        "\x00",
        "\ufeff",
        "\u200b",
    ),
    *(
        "Once",
        " upon",
        " a",
        " time",
        "Tom",
        "'s",
        "n't",
        "’ll",
        " I",
        "MUM",
        "McTom",
        "the",
        "<|padding|>",
        "<|endof",
    ),
    *(
        "é",
        "e\u0301",
        "\u0301",
        "ß",
        "Ω",
        "ж",
        "日本",
        "한",
        "ह\u093f",
        "ا",
        "🙂",
        "👨\u200d👩\u200d👧",
        "\U0010ffff",
    ),
]


def random_text(generator: random.Random, stories: list[str]) -> str:
    """Random characters, a random sequence of difficult pieces, or a story with a piece inserted."""
    draw = generator.random()
    if draw < 0.3:
        return "".join(
            chr(code)
            for _ in range(generator.randrange(20))
            if not 0xD800 <= (code := generator.randrange(0x110000)) < 0xE000
        )
    if draw < 0.9:
        return "".join(generator.choices(PIECES, k=generator.randrange(16)))
    text = generator.choice(stories)[: generator.randrange(200)]
    position = generator.randrange(len(text) + 1)
    return text[:position] + generator.choice(PIECES) + text[position:]


def check_encoding(encoder: WordEncoder, texts: list[str]) -> None:
    """Exit with the first text whose ids differ from the tokenizer's or that does not decode to itself."""
    tokenizer = encoder.tokenizer
    encoded = encoder.encode(pa.array(texts, pa.string()))
    ids = [story[:-1].tolist() for story in np.split(encoded.tokens, encoded.ends)[:-1]]
    decoded = tokenizer.engine.decode_batch(ids, skip_special_tokens=False)
    for text, ours, expected, round_trip in zip(
        texts, ids, tokenizer.encode_batch(texts), decoded, strict=True
    ):
        if ours != expected or round_trip != text or max(ours, default=0) >= tokenizer.vocabulary_size:
            raise SystemExit(f"{text!r}: ids {ours}, the tokenizer's {expected}; decoded to {round_trip!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    add_record_arguments(parser, RESULTS / "tokens_fuzz.json")
    arguments = parser.parse_args()
    began = time.monotonic()
    stories = list(generate_stories(1, 2_000))
    tokenizers: list[Tokenizer] = [
        train_tokenizer(stories, TokenizerConfig(vocabulary=1024)),
        train_tokenizer(stories, TokenizerConfig(vocabulary=1024, kind="unigram")),
    ]
    generator, cases = random.Random(arguments.seed), 0
    encoders = [WordEncoder(tokenizer) for tokenizer in tokenizers]
    if arguments.quick:
        arguments.cases = min(arguments.cases, 20_000)
    while cases < arguments.cases:
        texts = [random_text(generator, stories) for _ in range(min(BATCH, arguments.cases - cases))]
        texts = [text for text in texts if END_OF_STORY not in text]
        # Every tenth batch also goes through the unigram tokenizer.
        for encoder in encoders if cases // BATCH % 10 == 0 else encoders[:1]:
            check_encoding(encoder, texts)
        cases += len(texts)
    result = {
        "cases": cases,
        "lossy": 0,
        "other_ids": 0,
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - began),
    }
    write_record(arguments.out, {**result, **provenance(("tokenizers", "pyarrow"), arguments.commit)}, result)


if __name__ == "__main__":
    main()
