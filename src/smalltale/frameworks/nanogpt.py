"""nanoGPT (a checkout of github.com/karpathy/nanoGPT): exports train.bin, val.bin, meta.pkl, a config; imports ckpt.pt.

nanoGPT supports uint16 only, and its checkpoint is a pickle. The imported model keeps nanoGPT's architecture (model/gpt.py).
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path

from smalltale.errors import FileProblem
from smalltale.files import atomic_file
from smalltale.frameworks.exporting import render_template, write_streams
from smalltale.frameworks.framework import ExportRequest, Framework, ImportedModel
from smalltale.frameworks.reading import load_pickle
from smalltale.model.gpt import GPT_ARCHITECTURE, GPTConfig
from smalltale.tokens.tokenizer import Tokenizer

EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"
STEP = re.compile(r"^iter \d+: loss ([\d.]+|nan), time ([\d.]+)ms", re.MULTILINE)


def export(request: ExportRequest) -> None:
    """Write nanoGPT's files; training links the folder into its data folder."""
    if request.tokens.meta["dtype"] != "uint16":
        raise FileProblem(
            f"a vocabulary of {request.tokens.meta['vocabulary']:,} does not fit nanoGPT's uint16; "
            "train a tokenizer of at most 65,536 tokens"
        )
    write_streams(request, request.out)
    tokenizer = Tokenizer.load(request.tokenizer)
    pieces = {number: tokenizer.decode([number]) for number in range(tokenizer.vocabulary_size)}
    pieces[tokenizer.end_id] = "\n\n"
    # For nanoGPT's sample.py, which looks prompts up character by character and joins the pieces of its output.
    letters = {piece: number for number, piece in reversed(pieces.items()) if len(piece) == 1}
    table = {"vocab_size": request.plan.vocabulary, "itos": pieces, "stoi": letters}
    with atomic_file(request.out / "meta.pkl") as temporary:
        temporary.write_bytes(pickle.dumps(table))
    for name in ("train_smalltale.py", "reference.py"):
        render_template(FRAMEWORK, name, request.out, request.plan)


def read(checkpoint: Path, trust: bool) -> ImportedModel:
    """Read the ckpt.pt that its train.py writes."""
    path = checkpoint / "ckpt.pt" if checkpoint.is_dir() else checkpoint
    loaded = load_pickle(path, trust, "nanogpt")
    if not isinstance(loaded, dict) or not {"model", "model_args"} <= loaded.keys():
        raise FileProblem(f"{path} has no model and model_args, so it is not of nanoGPT; use another --from")
    shape = GPTConfig.from_dict(loaded["model_args"], path)
    weights = {name.removeprefix("_orig_mod."): weight for name, weight in loaded["model"].items()}
    # Older checkouts save the causal mask as a buffer of every layer.
    masks = (".attn.bias", ".attn.masked_bias")
    weights = {name: weight for name, weight in weights.items() if not name.endswith(masks)}
    # Embedding and head are tied: one weight, kept once.
    head = weights.pop(HEAD, None)
    if EMBEDDING not in weights and head is None:
        raise FileProblem(f"{path} has no weight {EMBEDDING}; train the exported train_smalltale.py again")
    weights.setdefault(EMBEDDING, head)
    config = {"architecture": GPT_ARCHITECTURE, **vars(shape)}
    return ImportedModel(config=config, weights=weights)


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
    quick_to_prove=True,
)
