"""llama2.c (a checkout of github.com/karpathy/llama2.c): exports its pre-tokenized shards; checkpoints cannot be imported.

Its loader reads the first shard as test data, supports uint16 only, and expects a start token before each story: the end token
of the previous story serves as one, and the export adds one before the first story.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalltale.errors import FileProblem
from smalltale.files import atomic_file
from smalltale.frameworks.exporting import render_template
from smalltale.frameworks.framework import ExportRequest, Framework

SHARD_TOKENS = 20_000_000
STEP = re.compile(r"^\d+ \| loss ([\d.]+|nan) \| lr \S+ \| ([\d.]+)ms", re.MULTILINE)


def export(request: ExportRequest) -> None:
    """Write data/tokV/data00.bin with the held-out text and the following shards with the training text."""
    if request.tokens.meta["dtype"] != "uint16":
        raise FileProblem(
            f"a vocabulary of {request.plan.vocabulary:,} does not fit llama2.c's uint16; "
            "train a tokenizer of at most 65,536 tokens"
        )
    end = request.tokens.meta["end_id"]
    shards = [request.tokens.val, *split_into_shards(request.tokens.train, request.tokens.train_offsets)]
    for number, stream in enumerate(shards):
        path = request.out / "data" / f"tok{request.plan.vocabulary}" / f"data{number:02d}.bin"
        with atomic_file(path) as temporary, temporary.open("wb") as out:
            np.array([end], dtype="<u2").tofile(out)
            np.asarray(stream[:-1], dtype="<u2").tofile(out)
    render_template(FRAMEWORK, "train_smalltale.py", request.out, request.plan)


def split_into_shards(stream: NDArray[Any], offsets: NDArray[np.uint64]) -> list[NDArray[Any]]:
    """Split the stream at story boundaries into shards of about SHARD_TOKENS."""
    cuts = [0]
    while cuts[-1] < len(stream):
        story = int(np.searchsorted(offsets, cuts[-1] + SHARD_TOKENS))
        cuts.append(int(offsets[min(max(story, 1), len(offsets) - 1)]))
    return [stream[start:end] for start, end in pairwise(cuts)]


FRAMEWORK = Framework(
    name="llama2c",
    title="llama2.c (export only)",
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
