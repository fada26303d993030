"""nanoGPT (github.com/karpathy/nanoGPT, a checkout): train.bin, val.bin, meta.pkl and a config; ckpt.pt comes back.

Beware: nanoGPT reads uint16 alone, and its checkpoint is a pickle. Its model stays its own (model/gpt.py).
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path

from smalltale.errors import FileProblem
from smalltale.files import new_file, read_json
from smalltale.frameworks.exporting import fill, write_streams
from smalltale.frameworks.framework import Export, Framework, Native, Run
from smalltale.frameworks.reading import load_pickle
from smalltale.model.gpt import GPT_ARCHITECTURE, GPTConfig
from smalltale.tokens.tokenizer import Tokenizer

EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"
STEP = re.compile(r"^iter (\d+): loss ([\d.]+|nan), time ([\d.]+)ms", re.MULTILINE)


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
    head = weights.pop(HEAD, None)
    weights.setdefault(EMBEDDING, head)
    config = {"architecture": GPT_ARCHITECTURE, **vars(shape)}
    return Native(config=config, weights=weights)


def read_run(folder: Path, printed: str) -> Run:
    """Losses and speed from train.py's own lines."""
    found = [(float(loss), float(milliseconds)) for _, loss, milliseconds in STEP.findall(printed)]
    times = sorted(each for _, each in found[5:])
    plan = read_json(folder / "meta.json")["plan"]
    rate = plan["batch_rows"] * plan["context"] / times[len(times) // 2] * 1000 if times else None
    return Run(losses=[loss for loss, _ in found], tokens_per_second=rate)


FRAMEWORK = Framework(
    name="nanogpt",
    title="nanoGPT",
    export=export,
    read=read,
    train=(
        'ln -sfn "$PWD" "${NANOGPT:=../nanogpt}/data/smalltale"',
        '(cd "$NANOGPT" && python train.py data/smalltale/train_smalltale.py && python data/smalltale/reference.py)',
    ),
    checkpoint="out/ckpt.pt",
    package=None,
    needs_trust=True,
    needs_checkout="https://github.com/karpathy/nanoGPT",
    read_run=read_run,
    cheap=True,
)
