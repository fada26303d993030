"""Small real checkpoints in the format of each trainer."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from smalltale.frameworks.exporting import export
from smalltale.frameworks.framework import get_framework
from smalltale.frameworks.importing import Imported, import_checkpoint
from smalltale.frameworks.llama import EMBEDDING, HEAD
from smalltale.model.gpt import GPT, GPTConfig

from .conftest import Prepared


def randomise_weights(model: torch.nn.Module) -> torch.nn.Module:
    """Move the weights far from their initial values, so that two swapped weights change the logits."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    return model.eval()


def llama(folder: Path) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return randomise_weights(LlamaForCausalLM(LlamaConfig.from_json_file(folder / "config.json")))


def gpt(prepared: Prepared, *, bias: bool = False) -> GPT:
    plan = prepared.plan
    shape = GPTConfig(
        vocab_size=plan.vocabulary,
        block_size=plan.context,
        n_layer=plan.layers,
        n_head=plan.heads,
        n_embd=plan.width,
        bias=bias,
    )
    model = GPT(shape)
    randomise_weights(model)
    return model


def nanogpt_file(model: GPT, path: Path) -> None:
    """Write what nanoGPT's train.py writes after torch.compile: prefixes, and both copies of the tied weight."""
    weights = {f"_orig_mod.{name}": weight for name, weight in model.state_dict().items()}
    weights["_orig_mod.lm_head.weight"] = model.transformer.wte.weight.detach()
    shape = {**vars(model.config), "dropout": 0.0}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": weights, "model_args": shape, "iter_num": 4, "config": {"dataset": "x"}}, path)


def litgpt_folder(weights: dict[str, Tensor], config: dict[str, object], folder: Path) -> None:
    """Write lit_model.pth and model_config.yaml; queries, keys and values of a layer are one weight."""
    folder.mkdir(parents=True, exist_ok=True)
    litgpt_weights = {
        "transformer.wte.weight": weights[EMBEDDING],
        "lm_head.weight": weights[EMBEDDING].clone(),
        "transformer.ln_f.weight": weights["model.norm.weight"],
    }
    for layer in range(int(str(config["num_hidden_layers"]))):
        theirs, ours = f"transformer.h.{layer}.", f"model.layers.{layer}."
        parts = [weights[f"{ours}self_attn.{part}_proj.weight"] for part in "qkv"]
        litgpt_weights[theirs + "attn.qkv.weight"] = torch.cat(parts)
        litgpt_weights[theirs + "attn.proj.weight"] = weights[ours + "self_attn.o_proj.weight"]
        litgpt_weights[theirs + "norm_1.weight"] = weights[ours + "input_layernorm.weight"]
        litgpt_weights[theirs + "norm_2.weight"] = weights[ours + "post_attention_layernorm.weight"]
        for number, part in (("fc_1", "gate"), ("fc_2", "up"), ("proj", "down")):
            litgpt_weights[f"{theirs}mlp.{number}.weight"] = weights[f"{ours}mlp.{part}_proj.weight"]
    torch.save({"model": litgpt_weights}, folder / "lit_model.pth")
    heads, width = int(str(config["num_attention_heads"])), int(str(config["hidden_size"]))
    shape = {
        "block_size": config["max_position_embeddings"],
        "padded_vocab_size": config["vocab_size"],
        "n_layer": config["num_hidden_layers"],
        "n_embd": width,
        "n_head": heads,
        "n_query_groups": heads,
        "head_size": width // heads,
        "intermediate_size": config["intermediate_size"],
        "norm_class_name": "RMSNorm",
        "norm_eps": 1e-5,
        "mlp_class_name": "LLaMAMLP",
        "rotary_percentage": 1.0,
        "rope_base": 10000,
        "bias": False,
        "parallel_residual": False,
    }
    (folder / "model_config.yaml").write_text(yaml.safe_dump(shape))


def train_export(name: str, prepared: Prepared, out: Path) -> tuple[Path, torch.nn.Module]:
    """Make an export folder with a checkpoint of framework `name`; returns its checkpoint and the framework model."""
    folder = export(get_framework(name), prepared.tokens, prepared.tokenizer, out, prepared.plan)
    checkpoint = folder / get_framework(name).checkpoint
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if name == "nanogpt":
        model: torch.nn.Module = gpt(prepared)
        nanogpt_file(model, checkpoint)  # type: ignore[arg-type]
    elif name == "litgpt":
        source = export(
            get_framework("accelerate"),
            prepared.tokens,
            prepared.tokenizer,
            out.parent / "llama",
            prepared.plan,
        )
        model = llama(source)
        config = json.loads((source / "config.json").read_text())
        litgpt_folder(model.state_dict(), config, checkpoint.parent)
    else:
        model = llama(folder)
        weights = model.state_dict()
        if name == "lightning":
            checkpoint_data = {"state_dict": {f"model.{key}": weight for key, weight in weights.items()}}
            torch.save({**checkpoint_data, "pytorch-lightning_version": "2.6.6", "epoch": 0}, checkpoint)
        elif name in ("fastai", "fastxtend"):
            torch.save({f"llama.{key}": weight for key, weight in weights.items()}, checkpoint)
        elif name == "blurr":
            torch.save({f"hf_model.{key}": weight for key, weight in weights.items()}, checkpoint)
        else:
            checkpoint.mkdir()
            save_file(
                {key: weight for key, weight in weights.items() if key != HEAD},
                checkpoint / "model.safetensors",
            )
    save_reference(model, checkpoint if checkpoint.is_dir() else checkpoint.parent)
    return checkpoint, model


def save_reference(model: torch.nn.Module, folder: Path) -> None:
    ids = torch.arange(48).view(2, 24)
    with torch.no_grad():
        output = model(ids)
    logits = (output if isinstance(output, Tensor) else output.logits).contiguous()
    metadata = {"parameters": str(sum(weight.numel() for weight in model.parameters()))}
    save_file({"ids": ids, "logits": logits}, folder / "reference.safetensors", metadata)


def import_trusted(name: str, checkpoint: Path, out: Path, **options: object) -> Imported:
    return import_checkpoint(get_framework(name), checkpoint, out, trust=True, **options)  # type: ignore[arg-type]
