"""Exports a checkpoint as a GGUF file for llama.cpp, if llama.cpp can compute its shape.

Input: a loaded checkpoint. Output: a GGUF file of architecture "apertus": pre-norm, QK-norm before RoPE, and xIELU, which
is a squared ReLU at alpha_p = 1, alpha_n = beta = 0.
Note: llama.cpp has neither our soft cap nor residual scalars, so only shapes without them can be exported. Its tokenizer
splits text as GPT-2 does, so a few words may get different tokens than in training.
"""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smalltale.errors import FileProblem, MissingExtra, SmalltaleError
from smalltale.model.transformer import EPSILON, ModelConfig, Transformer, norm
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.training.checkpoint import Checkpoint

SUPPORTED_FIELDS = {"vocabulary", "layers", "width", "heads", "mlp_ratio", "context", "rope_base"}
SWITCHABLE_FIELDS = {"soft_cap", "residual_scalars"}
"""Supported only when they are off."""
SQUARED_RELU = {"alpha_p": math.log(math.e - 1), "alpha_n": -1e4, "beta": 0.0, "eps": -1e-6}
"""xIELU's settings (arXiv 2411.13010); llama.cpp applies a softplus to both alphas."""
CONTROL, NORMAL = 3, 1


def find_unsupported_features(shape: ModelConfig) -> list[str]:
    """The features of a shape that no architecture of llama.cpp has."""
    features = []
    if shape.soft_cap:
        features.append(
            f"model.soft_cap={shape.soft_cap:g} (x / sqrt(1 + (x / cap)²); llama.cpp has a tanh, in other models)"
        )
    if shape.residual_scalars:
        features.append("model.residual_scalars=true (the embedding added again at every layer)")
    names = {field.name for field in fields(ModelConfig)} - SUPPORTED_FIELDS - SWITCHABLE_FIELDS
    return features + [f"model.{name}" for name in sorted(names)]


def write_gguf(checkpoint: Checkpoint, path: Path, name: str) -> None:
    """Write the file. Raises SmalltaleError if shape or tokenizer are not supported, MissingExtra."""
    try:
        from gguf import GGUFWriter
    except ImportError as error:
        raise MissingExtra("gguf", "judge", "an export to GGUF") from error
    shape = checkpoint.model.config
    if features := find_unsupported_features(shape):
        raise SmalltaleError(
            f"this model cannot be exported to GGUF, because llama.cpp has no {' and no '.join(features)}; "
            "train with --set model.soft_cap=0 --set model.residual_scalars=false, or export --to transformers"
        )
    writer = GGUFWriter(path, "apertus")
    writer.add_name(name)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.mlp_width)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_xielu_alpha_p([SQUARED_RELU["alpha_p"]] * shape.layers)
    writer.add_xielu_alpha_n([SQUARED_RELU["alpha_n"]] * shape.layers)
    writer.add_xielu_beta([SQUARED_RELU["beta"]] * shape.layers)
    writer.add_xielu_eps([SQUARED_RELU["eps"]] * shape.layers)
    add_tokenizer(writer, checkpoint.tokenizer, shape.vocabulary)
    for tensor_name, tensor in convert_to_gguf_tensors(checkpoint.model).items():
        writer.add_tensor(tensor_name, np.ascontiguousarray(tensor.detach().float().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def convert_to_gguf_tensors(model: Transformer) -> dict[str, torch.Tensor]:
    """The weights by llama.cpp's names. The embedding's norm is applied to its rows, so the tied head is stored separately."""
    shape = model.config
    embedding = model.embedding.weight
    width_ones, head_ones = torch.ones(shape.width), torch.ones(shape.head_width)
    tensors = {
        "token_embd.weight": norm(embedding),
        "output.weight": embedding,
        "output_norm.weight": width_ones,
    }
    for number, module in enumerate(model.blocks):
        block: Any = module
        q, k, v = block.attention.qkv.weight.chunk(3)
        prefix = f"blk.{number}."
        tensors |= {
            f"{prefix}attn_norm.weight": width_ones,
            f"{prefix}attn_q.weight": q,
            f"{prefix}attn_k.weight": k,
            f"{prefix}attn_v.weight": v,
            f"{prefix}attn_output.weight": block.attention.out.weight,
            f"{prefix}attn_q_norm.weight": head_ones,
            f"{prefix}attn_k_norm.weight": head_ones,
            f"{prefix}ffn_norm.weight": width_ones,
            f"{prefix}ffn_up.weight": block.feed_forward.up.weight,
            f"{prefix}ffn_down.weight": block.feed_forward.down.weight,
        }
    return tensors


def add_tokenizer(writer: Any, tokenizer: Tokenizer, rows: int) -> None:
    """Add vocabulary and merges of a byte-level BPE. Raises SmalltaleError for another kind of tokenizer."""
    model = json.loads(tokenizer.engine.to_str())["model"]
    if model["type"] != "BPE":
        raise SmalltaleError(f"GGUF has no {model['type']} tokenizer; train with --set tokenizer.kind=bpe")
    vocabulary = tokenizer.engine.get_vocab(with_added_tokens=True)
    token_by_id = {number: token for token, number in vocabulary.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token_by_id.get(number, f"<|unused {number}|>") for number in range(rows)])
    normal = token_by_id.keys() - {tokenizer.end_id, tokenizer.pad_id}
    writer.add_token_types([NORMAL if number in normal else CONTROL for number in range(rows)])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.end_id)
    writer.add_eos_token_id(tokenizer.end_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    # A story starts after an end-of-story token, as in training.
    writer.add_add_bos_token(True)


def largest_gguf_difference(path: Path, model: Transformer, prompts: list[list[int]]) -> float:
    """Load the file in llama.cpp. Returns the largest difference of log-probabilities after each prompt.

    Raises MissingExtra, and FileProblem if llama.cpp cannot open the file.
    """
    try:
        import xllamacpp
    except ImportError as error:
        raise MissingExtra("xllamacpp", "judge", "the check of a GGUF file") from error
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_parallel, params.n_ctx, params.verbosity = 1, model.config.context, -1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.ui = params.warmup = False
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise FileProblem(
            f"{path} does not open in llama.cpp ({error}); this is a bug in smalltale, please report it"
        ) from error
    largest, compared = 0.0, 0
    try:
        for ids in prompts:
            tokens = request_logprobs(f"{server.listening_address}/completion", ids, model.config.vocabulary)
            with torch.no_grad():
                logprobs = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
            compared += len(tokens)
            for token in tokens:
                largest = max(largest, abs(float(logprobs[token["id"]]) - token["logprob"]))
    finally:
        del server
    if not compared:
        raise SmalltaleError(f"llama.cpp returned no probabilities, so {path} is not verified; try again")
    return largest


def request_logprobs(url: str, ids: list[int], vocabulary: int) -> list[dict[str, Any]]:
    """llama.cpp's log-probabilities of the next token: a table with `id` and `logprob` for each token."""
    body = {"prompt": ids, "n_predict": 1, "n_probs": vocabulary, "temperature": -1, "cache_prompt": False}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=120) as response:
            completion = json.load(response)
    except (urllib.error.URLError, TimeoutError) as error:
        raise SmalltaleError(f"llama.cpp does not answer ({error}); try again on an idle machine") from error
    # The list is empty if the story ends at once.
    positions = completion.get("completion_probabilities", [])
    return [token for position in positions for token in position["top_logprobs"]]
