"""A million seeded texts through the encoder: none is lossy, no id is outside the vocabulary, the ids are the tokenizer's.

In: nothing. Out: results/tokens_fuzz.json, and as the last line of standard output one JSON object with the key `cases`.
Beware: a failing case stops the run and is shown; the same seed shows it again.

    python -m benchmarks.corpus.fuzz_tokens [--cases 1000000] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from smalltale.corpus.fable.generator import generate_stories
from smalltale.files import END_OF_STORY, git_commit
from smalltale.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from smalltale.tokens.word_encoder import WordEncoder

HERE = Path(__file__).parents[1]
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


def case(chance: random.Random, told: list[str]) -> str:
    """A text: any characters, pieces that meet badly, or a story with a piece put into it."""
    draw = chance.random()
    if draw < 0.3:
        return "".join(
            chr(code)
            for _ in range(chance.randrange(20))
            if not 0xD800 <= (code := chance.randrange(0x110000)) < 0xE000
        )
    if draw < 0.9:
        return "".join(chance.choices(PIECES, k=chance.randrange(16)))
    text = chance.choice(told)[: chance.randrange(200)]
    at = chance.randrange(len(text) + 1)
    return text[:at] + chance.choice(PIECES) + text[at:]


def check(encoder: WordEncoder, texts: list[str]) -> None:
    """Raise SystemExit with the first text that is encoded otherwise than by the tokenizer, or does not come back."""
    tokenizer = encoder.tokenizer
    found = encoder.encode(pa.array(texts, pa.string()))
    ids = [each[:-1].tolist() for each in np.split(found.tokens, found.ends)[:-1]]
    back = tokenizer.engine.decode_batch(ids, skip_special_tokens=False)
    for text, ours, theirs, returned in zip(texts, ids, tokenizer.encode_batch(texts), back, strict=True):
        if ours != theirs or returned != text or max(ours, default=0) >= tokenizer.vocabulary_size:
            raise SystemExit(f"{text!r}: {ours} where the tokenizer has {theirs}; decoded {returned!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "tokens_fuzz.json")
    args = parser.parse_args()
    began = time.monotonic()
    told = list(generate_stories(1, 2_000))
    tokenizers: list[Tokenizer] = [
        train_tokenizer(told, TokenizerConfig(vocabulary=1024)),
        train_tokenizer(told, TokenizerConfig(vocabulary=1024, kind="unigram")),
    ]
    chance, done = random.Random(args.seed), 0
    encoders = [WordEncoder(each) for each in tokenizers]
    while done < args.cases:
        texts = [case(chance, told) for _ in range(min(BATCH, args.cases - done))]
        texts = [text for text in texts if END_OF_STORY not in text]
        # Every tenth batch also goes through the other model.
        for encoder in encoders if done // BATCH % 10 == 0 else encoders[:1]:
            check(encoder, texts)
        done += len(texts)
    result = {
        "cases": done,
        "lossy": 0,
        "other_ids": 0,
        "seed": args.seed,
        "seconds": round(time.monotonic() - began),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({**result, "commit": git_commit()}, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
