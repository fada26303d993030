"""A checkpoint as a GGUF file for llama.cpp, where the shape is one that llama.cpp can compute.

In: a loaded checkpoint. Out: a GGUF file of architecture "apertus": pre-norm, QK-norm before RoPE, and xIELU, which is a
squared ReLU at alpha_p = 1, alpha_n = beta = 0.
Beware: llama.cpp has neither our soft cap nor the embedding fed in again, so only shapes without them map, and its
tokenizer cuts a text as GPT-2 does: few words may become other tokens than in training.
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

MAPPED = {
    "vocabulary",
    "layers",
    "width",
    "heads",
    "mlp_ratio",
    "context",
    "rope_base",
    "soft_cap",
    "residual_scalars",
}
SQUARED_RELU = {"alpha_p": math.log(math.e - 1), "alpha_n": -1e4, "beta": 0.0, "eps": -1e-6}
"""xIELU's settings (arXiv 2411.13010), the two alphas before the softplus that llama.cpp applies."""
CONTROL, NORMAL = 3, 1


def find_unmapped_features(shape: ModelConfig) -> list[str]:
    """The parts of a shape that no architecture of llama.cpp has."""
    parts = []
    if shape.soft_cap:
        parts.append(
            f"model.soft_cap={shape.soft_cap:g} (x / sqrt(1 + (x / cap)²); llama.cpp has a tanh, in other models)"
        )
    if shape.residual_scalars:
        parts.append("model.residual_scalars=true (the embedding fed in again at every layer)")
    parts += [f"model.{each.name}" for each in fields(ModelConfig) if each.name not in MAPPED]
    return parts


def write_gguf(loaded: Checkpoint, path: Path, name: str) -> None:
    """Write the file. Raises SmalltaleError where shape or tokenizer do not map, MissingExtra."""
    try:
        from gguf import GGUFWriter
    except ImportError as error:
        raise MissingExtra("gguf", "judge", "an export to GGUF") from error
    shape = loaded.model.config
    if parts := find_unmapped_features(shape):
        raise SmalltaleError(
            f"this model does not map to GGUF, because llama.cpp has no {' and no '.join(parts)}; "
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
    add_tokenizer(writer, loaded.tokenizer, shape.vocabulary)
    for tensor_name, tensor in gguf_tensors(loaded.model).items():
        writer.add_tensor(tensor_name, np.ascontiguousarray(tensor.detach().float().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_tensors(model: Transformer) -> dict[str, torch.Tensor]:
    """The weights by llama.cpp's names. The norm of the embedding is taken into its rows, so the head stands apart."""
    shape = model.config
    table = model.embedding.weight
    one, head = torch.ones(shape.width), torch.ones(shape.head_width)
    named = {"token_embd.weight": norm(table), "output.weight": table, "output_norm.weight": one}
    for number, block in enumerate(model.blocks):
        parts: Any = block
        q, k, v = parts.attention.qkv.weight.chunk(3)
        at = f"blk.{number}."
        named |= {
            f"{at}attn_norm.weight": one,
            f"{at}attn_q.weight": q,
            f"{at}attn_k.weight": k,
            f"{at}attn_v.weight": v,
            f"{at}attn_output.weight": parts.attention.out.weight,
            f"{at}attn_q_norm.weight": head,
            f"{at}attn_k_norm.weight": head,
            f"{at}ffn_norm.weight": one,
            f"{at}ffn_up.weight": parts.feed_forward.up.weight,
            f"{at}ffn_down.weight": parts.feed_forward.down.weight,
        }
    return named


def add_tokenizer(writer: Any, tokenizer: Tokenizer, rows: int) -> None:
    """The vocabulary and merges of a byte-level BPE. Raises SmalltaleError for another kind."""
    model = json.loads(tokenizer.engine.to_str())["model"]
    if model["type"] != "BPE":
        raise SmalltaleError(
            f"the tokenizer is a {model['type']}, which does not map to GGUF; train with --set tokenizer.kind=bpe"
        )
    by_id = {number: token for token, number in tokenizer.engine.get_vocab(with_added_tokens=True).items()}
    special = {tokenizer.end_id, tokenizer.pad_id}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([by_id.get(number, f"<|unused {number}|>") for number in range(rows)])
    writer.add_token_types(
        [CONTROL if number in special or number not in by_id else NORMAL for number in range(rows)]
    )
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.end_id)
    writer.add_eos_token_id(tokenizer.end_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    # A story is read from the end-of-story token on, as in training.
    writer.add_add_bos_token(True)


def largest_gguf_difference(path: Path, model: Transformer, prompts: list[list[int]]) -> float:
    """Load the file in llama.cpp; the largest difference of log-probabilities after each prompt.

    Raises MissingExtra, FileProblem where llama.cpp does not open it.
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
            f"{path} does not open in llama.cpp ({error}); this is a bug of smalltale"
        ) from error
    most, compared = 0.0, 0
    try:
        for ids in prompts:
            told = request_logprobs(f"{server.listening_address}/completion", ids, model.config.vocabulary)
            with torch.no_grad():
                ours = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
            compared += len(told)
            for each in told:
                most = max(most, abs(float(ours[each["id"]]) - each["logprob"]))
    finally:
        del server
    if not compared:
        raise SmalltaleError(f"llama.cpp told no probabilities for {path}; the file is not proven, try again")
    return most


def request_logprobs(url: str, ids: list[int], vocabulary: int) -> list[dict[str, Any]]:
    """The log-probabilities of the next token that llama.cpp gives, one a token."""
    body = {"prompt": ids, "n_predict": 1, "n_probs": vocabulary, "temperature": -1, "cache_prompt": False}
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=120) as answer:
            table = json.load(answer)
    except (urllib.error.URLError, TimeoutError) as error:
        raise SmalltaleError(f"llama.cpp does not answer ({error}); try again on a free machine") from error
    # Nothing is told where the story ends at once.
    return [each for place in table.get("completion_probabilities", []) for each in place["top_logprobs"]]
