"""LitGPT: LitData chunks for its TokensLoader, written here, and a YAML for `litgpt pretrain`; lit_model.pth comes back.

Beware: the chunks are written whole or not at all, for a LitData run that fails leaves an empty folder which the next
run takes as it is. Only a Llama-shaped LitGPT model maps exactly to Hugging Face's Llama.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from smalltale.errors import FileProblem
from smalltale.files import new_file, read_text, write_json
from smalltale.frameworks.exporting import fill
from smalltale.frameworks.framework import Export, Framework, Native
from smalltale.frameworks.llama import EMBEDDING, HEAD, native_llama
from smalltale.frameworks.reading import load_weights, near

CHUNK_TOKENS = 32_000_000
DATA_TYPES = {"uint16": 20, "uint32": 17}
"""LitData's numbers for what is written: uint16, and int64 where ids do not fit."""
LLAMA = {
    "norm_class_name": "RMSNorm",
    "mlp_class_name": "LLaMAMLP",
    "rotary_percentage": 1.0,
    "bias": False,
    "parallel_residual": False,
}
SIZES = (
    "padded_vocab_size",
    "n_embd",
    "intermediate_size",
    "n_layer",
    "n_head",
    "n_query_groups",
    "head_size",
    "block_size",
    "norm_eps",
    "rope_base",
)
NAMES = {
    "transformer.wte.weight": EMBEDDING,
    "transformer.ln_f.weight": "model.norm.weight",
    "lm_head.weight": HEAD,
}
LAYER_NAMES = {
    "norm_1": "input_layernorm",
    "norm_2": "post_attention_layernorm",
    "attn.proj": "self_attn.o_proj",
    "mlp.fc_1": "mlp.gate_proj",
    "mlp.fc_2": "mlp.up_proj",
    "mlp.proj": "mlp.down_proj",
}
LAYER = re.compile(r"transformer\.h\.(\d+)\.(.+)\.weight")
STEP = re.compile(r"loss train: ([\d.]+|nan),.*iter time: ([\d.]+) ms")


def export(to: Export) -> None:
    """Chunks of both splits, the YAML, and the held-out ids for the reference logits."""
    for split, stream in (("train", to.tokens.train), ("val", to.tokens.val)):
        write_chunks(to.out / "data" / split, stream, to.plan.context + 1)
    np.asarray(to.tokens.val[: 2 * min(64, to.plan.context)], dtype=np.int64).tofile(
        to.out / "reference_ids.bin"
    )
    extra = {"max_tokens": to.plan.steps * to.plan.batch_rows * to.plan.context}
    fill(FRAMEWORK, "pretrain.yaml", to.out, to.plan, **extra)
    fill(FRAMEWORK, "reference.py", to.out, to.plan)


def write_chunks(folder: Path, stream: NDArray[Any], block: int) -> None:
    """LitData's files: each chunk is one item, a header of uint32 (items, offsets) and then the ids."""
    dtype = "<u2" if stream.dtype == np.uint16 else "<i8"
    length = max(block, CHUNK_TOKENS // block * block)
    chunks: list[dict[str, int | str]] = []
    largest = 0
    for number, start in enumerate(range(0, len(stream), length)):
        ids = np.asarray(stream[start : start + length]).astype(dtype)
        header = np.array([1, 12, 12 + ids.nbytes], dtype="<u4")
        name = f"chunk-0-{number}.bin"
        with new_file(folder / name) as temporary, temporary.open("wb") as out:
            header.tofile(out)
            ids.tofile(out)
        largest = max(largest, ids.nbytes + 12)
        chunks.append({"chunk_bytes": ids.nbytes + 12, "chunk_size": 1, "dim": len(ids), "filename": name})
    config = {
        "chunk_bytes": largest,
        "chunk_size": None,
        "compression": None,
        "data_format": [f"no_header_tensor:{DATA_TYPES[stream.dtype.name]}"],
        "data_spec": '[1, {"type": null, "context": null, "children_spec": []}]',
        "encryption": None,
        "item_loader": "TokensLoader",
    }
    write_json(folder / "index.json", {"chunks": chunks, "config": config, "updated_at": "0"})


def read(checkpoint: Path, trust: bool) -> Native:
    """lit_model.pth, its model_config.yaml beside it."""
    path = checkpoint / "lit_model.pth" if checkpoint.is_dir() else checkpoint
    loaded = load_weights(path, trust, "litgpt", ("model",))
    found = near(path, "model_config.yaml")
    if found is None:
        raise FileProblem(f"no model_config.yaml beside {path}; litgpt writes it there: copy it too")
    shape = read_shape(found)
    other = [name for name, wanted in LLAMA.items() if shape.get(name) != wanted]
    if other:
        raise FileProblem(
            f"{found}: {other[0]} is {shape.get(other[0])!r}; only a Llama-shaped model ({LLAMA[other[0]]!r}) maps exactly"
        )
    weights = renamed(loaded, shape)
    tied = HEAD not in weights or torch.equal(weights[HEAD], weights[EMBEDDING])
    return native_llama(weights, config_of(shape, tied))


def read_shape(path: Path) -> dict[str, Any]:
    """The table of a model_config.yaml. Raises FileProblem where it is no shape."""
    try:
        shape = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise FileProblem(f"{path} is not YAML ({error}); copy it again") from error
    lacking = [key for key in SIZES if not isinstance(shape, dict) or key not in shape]
    if lacking:
        raise FileProblem(f"{path} has no {lacking[0]}; copy the one that litgpt wrote beside the checkpoint")
    return dict(shape)


def config_of(shape: Mapping[str, Any], tied: bool) -> dict[str, Any]:
    """The same Llama in Hugging Face's words."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape["padded_vocab_size"],
        "hidden_size": shape["n_embd"],
        "intermediate_size": shape["intermediate_size"],
        "num_hidden_layers": shape["n_layer"],
        "num_attention_heads": shape["n_head"],
        "num_key_value_heads": shape["n_query_groups"],
        "head_dim": shape["head_size"],
        "max_position_embeddings": shape["block_size"],
        "rms_norm_eps": shape["norm_eps"],
        "rope_theta": float(shape["rope_base"]),
        "tie_word_embeddings": tied,
        "hidden_act": "silu",
    }


def renamed(weights: Mapping[str, Tensor], shape: Mapping[str, Any]) -> dict[str, Tensor]:
    """LitGPT's names to Hugging Face's; the fused queries, keys and values are cut apart."""
    sizes = [shape[key] * shape["head_size"] for key in ("n_head", "n_query_groups", "n_query_groups")]
    found: dict[str, Tensor] = {}
    for name, each in weights.items():
        name = name.removeprefix("_orig_mod.")
        layer = LAYER.fullmatch(name)
        known = name in NAMES if layer is None else layer[2] in {**LAYER_NAMES, "attn.qkv": ""}
        if not known or (layer and layer[2] == "attn.qkv" and len(each) != sum(sizes)):
            raise FileProblem(
                f"the weight {name} of shape {tuple(each.shape)} has no place in LitGPT's Llama; train the exported "
                "pretrain.yaml with the version that `smalltale frameworks install litgpt` brings"
            )
        if layer is None:
            found[NAMES[name]] = each
        elif layer[2] == "attn.qkv":
            for part, piece in zip("qkv", torch.split(each, sizes), strict=True):
                found[f"model.layers.{layer[1]}.self_attn.{part}_proj.weight"] = piece.clone()
        else:
            found[f"model.layers.{layer[1]}.{LAYER_NAMES[layer[2]]}.weight"] = each
    return found


FRAMEWORK = Framework(
    name="litgpt",
    title="LitGPT",
    export=export,
    read=read,
    train=("litgpt pretrain --config pretrain.yaml", "python reference.py"),
    checkpoint="out/final/lit_model.pth",
    package="litgpt",
    needs_trust=True,
    step_line=STEP,
    cheap=True,
)
