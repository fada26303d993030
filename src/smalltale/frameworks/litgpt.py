"""LitGPT: exports LitData chunks for its TokensLoader and a YAML for `litgpt pretrain`; imports lit_model.pth.

Our code writes the chunks atomically, because a failed LitData run leaves an empty folder that the next run uses as it is. Only
a Llama-shaped LitGPT model maps exactly to Hugging Face's Llama.
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
from smalltale.files import atomic_file, read_text, write_json
from smalltale.frameworks.exporting import render_template
from smalltale.frameworks.framework import ExportRequest, Framework, ImportedModel
from smalltale.frameworks.llama import EMBEDDING, HEAD, import_llama
from smalltale.frameworks.reading import find_upwards, load_weights

CHUNK_TOKENS = 32_000_000
DATA_TYPES = {"uint16": 20, "uint32": 17}
"""LitData's type numbers: uint16, or int64 for larger vocabularies."""
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


def export(request: ExportRequest) -> None:
    """Write chunks of both splits, the YAML, and the held-out ids for the reference logits."""
    for split, stream in (("train", request.tokens.train), ("val", request.tokens.val)):
        write_chunks(request.out / "data" / split, stream, request.plan.context + 1)
    np.asarray(request.tokens.val[: 2 * min(64, request.plan.context)], dtype=np.int64).tofile(
        request.out / "reference_ids.bin"
    )
    extra = {"max_tokens": request.plan.steps * request.plan.batch_rows * request.plan.context}
    render_template(FRAMEWORK, "pretrain.yaml", request.out, request.plan, **extra)
    render_template(FRAMEWORK, "reference.py", request.out, request.plan)


def write_chunks(folder: Path, stream: NDArray[Any], block: int) -> None:
    """Write LitData's files: each chunk is one item, a uint32 header (items, offsets) followed by the ids."""
    dtype = "<u2" if stream.dtype == np.uint16 else "<i8"
    length = max(block, CHUNK_TOKENS // block * block)
    chunks: list[dict[str, int | str]] = []
    largest = 0
    for number, start in enumerate(range(0, len(stream), length)):
        ids = np.asarray(stream[start : start + length]).astype(dtype)
        header = np.array([1, 12, 12 + ids.nbytes], dtype="<u4")
        name = f"chunk-0-{number}.bin"
        with atomic_file(folder / name) as temporary, temporary.open("wb") as out:
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


def read(checkpoint: Path, trust: bool) -> ImportedModel:
    """Read lit_model.pth and the model_config.yaml next to it."""
    path = checkpoint / "lit_model.pth" if checkpoint.is_dir() else checkpoint
    loaded = load_weights(path, trust, "litgpt", ("model",))
    config_path = find_upwards(path, "model_config.yaml")
    if config_path is None:
        raise FileProblem(f"no model_config.yaml next to {path}; litgpt writes it there: copy it too")
    shape = read_shape(config_path)
    differing = [key for key, expected in LLAMA.items() if shape.get(key) != expected]
    if differing:
        raise FileProblem(
            f"{config_path}: {differing[0]} is {shape.get(differing[0])!r}; "
            f"only a Llama-shaped model ({LLAMA[differing[0]]!r}) maps exactly"
        )
    weights = rename_weights(loaded, shape)
    tied = HEAD not in weights or torch.equal(weights[HEAD], weights[EMBEDDING])
    return import_llama(weights, hugging_face_config(shape, tied))


def read_shape(path: Path) -> dict[str, Any]:
    """Read model_config.yaml. Raises FileProblem if it does not describe a model."""
    try:
        shape = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise FileProblem(f"{path} is not YAML ({error}); copy it again") from error
    missing = [key for key in SIZES if not isinstance(shape, dict) or key not in shape]
    if missing:
        raise FileProblem(f"{path} has no {missing[0]}; copy the file that litgpt wrote with the checkpoint")
    return dict(shape)


def hugging_face_config(shape: Mapping[str, Any], tied: bool) -> dict[str, Any]:
    """Convert the shape to a Hugging Face Llama config."""
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


def rename_weights(weights: Mapping[str, Tensor], shape: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename LitGPT's weights to Hugging Face's names and split the fused queries, keys and values."""
    sizes = [shape[key] * shape["head_size"] for key in ("n_head", "n_query_groups", "n_query_groups")]
    renamed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        name = name.removeprefix("_orig_mod.")
        layer = LAYER.fullmatch(name)
        is_llama = name in NAMES if layer is None else layer[2] in {**LAYER_NAMES, "attn.qkv": ""}
        if not is_llama or (layer and layer[2] == "attn.qkv" and len(weight) != sum(sizes)):
            raise FileProblem(
                f"the weight {name} of shape {tuple(weight.shape)} does not belong to LitGPT's Llama; train the exported "
                "pretrain.yaml with the version that `smalltale frameworks install litgpt` installs"
            )
        if layer is None:
            renamed[NAMES[name]] = weight
        elif layer[2] == "attn.qkv":
            for part, piece in zip("qkv", torch.split(weight, sizes), strict=True):
                renamed[f"model.layers.{layer[1]}.self_attn.{part}_proj.weight"] = piece.clone()
        else:
            renamed[f"model.layers.{layer[1]}.{LAYER_NAMES[layer[2]]}.weight"] = weight
    return renamed


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
    quick_to_prove=True,
)
