"""nanoGPT (github.com/karpathy/nanoGPT, a checkout): train.bin, val.bin, meta.pkl and a config; ckpt.pt comes back.

Beware: nanoGPT reads uint16 alone, and its checkpoint is a pickle. Its model stays its own (model/gpt.py).
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path

from smalltale.errors import FileProblem
from smalltale.files import new_file
from smalltale.frameworks.exporting import fill, write_streams
from smalltale.frameworks.framework import Export, Framework, Native
from smalltale.frameworks.reading import load_pickle
from smalltale.model.gpt import GPT_ARCHITECTURE, GPTConfig
from smalltale.tokens.tokenizer import Tokenizer

EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"
STEP = re.compile(r"^iter \d+: loss ([\d.]+|nan), time ([\d.]+)ms", re.MULTILINE)


def export(to: Export) -> None:
    """nanoGPT's files: the folder is linked into its data folder."""
    if to.tokens.meta["dtype"] != "uint16":
        raise FileProblem(
            f"a vocabulary of {to.tokens.meta['vocabulary']:,} does not fit nanoGPT's uint16; "
            "train a tokenizer of at most 65,536 tokens"
        )
    write_streams(to, to.out)
    tokenizer = Tokenizer.load(to.tokenizer)
    pieces = {number: tokenizer.decode([number]) for number in range(tokenizer.vocabulary)}
    pieces[tokenizer.end_id] = "\n\n"
    # What nanoGPT's sample.py wants: it looks prompts up a character at a time and joins the pieces of what it wrote.
    letters = {piece: number for number, piece in reversed(pieces.items()) if len(piece) == 1}
    table = {"vocab_size": to.plan.vocabulary, "itos": pieces, "stoi": letters}
    with new_file(to.out / "meta.pkl") as temporary:
        temporary.write_bytes(pickle.dumps(table))
    for name in ("train_smalltale.py", "reference.py"):
        fill(FRAMEWORK, name, to.out, to.plan)


def read(checkpoint: Path, trust: bool) -> Native:
    """ckpt.pt as its train.py writes it."""
    path = checkpoint / "ckpt.pt" if checkpoint.is_dir() else checkpoint
    loaded = load_pickle(path, trust, "nanogpt")
    if not isinstance(loaded, dict) or not {"model", "model_args"} <= loaded.keys():
        raise FileProblem(
            f"{path} has no model and model_args, so it is not nanoGPT's; name its framework with --from"
        )
    shape = GPTConfig.read(loaded["model_args"], str(path))
    weights = {name.removeprefix("_orig_mod."): each for name, each in loaded["model"].items()}
    # Older checkouts keep the causal mask as a buffer of every layer.
    weights = {
        name: each for name, each in weights.items() if not name.endswith((".attn.bias", ".attn.masked_bias"))
    }
    # The pair of embedding and head is one weight, kept once.
    head = weights.pop(HEAD, None)
    if EMBEDDING not in weights and head is None:
        raise FileProblem(f"{path} has no weight {EMBEDDING}; train the exported train_smalltale.py anew")
    weights.setdefault(EMBEDDING, head)
    config = {"architecture": GPT_ARCHITECTURE, **vars(shape)}
    return Native(config=config, weights=weights)


FRAMEWORK = Framework(
    name="nanogpt",
    title="nanoGPT",
    export=export,
    read=read,
    train=(
        'ln -sfn "$PWD" "$NANOGPT/data/smalltale"',
        '(cd "$NANOGPT" && python train.py data/smalltale/train_smalltale.py && python data/smalltale/reference.py)',
    ),
    checkpoint="out/ckpt.pt",
    package=None,
    needs_trust=True,
    needs_checkout="https://github.com/karpathy/nanoGPT",
    step_line=STEP,
    cheap=True,
)
