"""llama2.c (github.com/karpathy/llama2.c, a checkout): its pre-tokenized shards. There is no way back here.

Beware: its loader keeps the first shard for testing, reads uint16 alone and wants a start token before each story: the end
token of the story before stands there, and one is put before the first.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalltale.errors import FileProblem
from smalltale.files import new_file
from smalltale.frameworks.exporting import fill
from smalltale.frameworks.framework import Export, Framework

SHARD_TOKENS = 20_000_000
STEP = re.compile(r"^\d+ \| loss ([\d.]+|nan) \| lr \S+ \| ([\d.]+)ms", re.MULTILINE)


def export(to: Export) -> None:
    """data/tokV/data00.bin is the held-out text, the others the training text."""
    if to.tokens.meta["dtype"] != "uint16":
        raise FileProblem(
            f"a vocabulary of {to.plan.vocabulary:,} does not fit llama2.c's uint16; "
            "train a tokenizer of at most 65,536 tokens"
        )
    end = to.tokens.meta["end_id"]
    shards = [to.tokens.val, *pieces(to.tokens.train, to.tokens.train_offsets)]
    for number, stream in enumerate(shards):
        path = to.out / "data" / f"tok{to.plan.vocabulary}" / f"data{number:02d}.bin"
        with new_file(path) as temporary, temporary.open("wb") as out:
            np.array([end], dtype="<u2").tofile(out)
            np.asarray(stream[:-1], dtype="<u2").tofile(out)
    fill(FRAMEWORK, "train_smalltale.py", to.out, to.plan)


def pieces(stream: NDArray[Any], offsets: NDArray[np.uint64]) -> list[NDArray[Any]]:
    """The stream in whole stories, about SHARD_TOKENS each."""
    cuts = [0]
    while cuts[-1] < len(stream):
        story = int(np.searchsorted(offsets, cuts[-1] + SHARD_TOKENS))
        cuts.append(int(offsets[min(max(story, 1), len(offsets) - 1)]))
    return [stream[start:end] for start, end in pairwise(cuts)]


FRAMEWORK = Framework(
    name="llama2c",
    title="llama2.c (out only)",
    export=export,
    read=None,
    train=(
        'ln -sfn "$PWD/data" "$LLAMA2C/data"',
        '(cd "$LLAMA2C" && python train.py "$OLDPWD/train_smalltale.py")',
    ),
    checkpoint="out/ckpt.pt",
    package=None,
    needs_checkout="https://github.com/karpathy/llama2.c",
    step_line=STEP,
)
