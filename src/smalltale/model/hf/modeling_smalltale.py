"""The smalltale transformer for Hugging Face transformers 4 and 5; copied into every checkpoint folder.

Input: a folder opened with AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True). Output: logits (B, T, V),
and generate() with a KV cache.
It imports only torch and transformers, so it repeats the mathematics of model/transformer.py; a test compares their
logits. A config with a model key that this file does not know is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

EPSILON = torch.finfo(torch.float32).eps
MODEL_KEYS = {
    "vocabulary", "layers", "width", "heads", "mlp_ratio", "context", "rope_base", "soft_cap", "residual_scalars",
}  # fmt: skip
"""The keys of `model` in config.json that this file understands."""


class SmalltaleConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """`model` is the shape as smalltale writes it; the attributes that transformers expects are derived from it."""

    model_type = "smalltale"

    def __init__(self, model: dict[str, Any] | None = None, **kwargs: Any) -> None:
        shape = dict(model or {})
        if set(shape) - MODEL_KEYS:
            raise ValueError(
                f"config.json has model keys {sorted(set(shape) - MODEL_KEYS)} that this modeling_smalltale.py does not "
                "know; use the file of the smalltale version named in meta.json"
            )
        self.model = shape
        self.vocab_size = shape.get("vocabulary", 0)
        self.hidden_size = shape.get("width", 0)
        self.num_hidden_layers = shape.get("layers", 0)
        self.num_attention_heads = shape.get("heads", 0)
        self.max_position_embeddings = shape.get("context", 0)
        for name in (
            "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
        ):  # fmt: skip
            kwargs.pop(name, None)
        super().__init__(**{**kwargs, "tie_word_embeddings": False})


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, cache: Any, layer: int
    ) -> Tensor:
        """x: (B, T, C); mask: (B or 1, 1, T, S), true where a query may see a key; cache: the KV cache or None."""
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(norm(q), rotation), rotate(norm(k), rotation)
        if cache is not None:
            k, v = cache.update(k, v, layer)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(x.shape))
        return out


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.relu(self.up(x)).square())
        return out


class Block(nn.Module):
    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        self.attention = Attention(shape["width"], shape["heads"])
        self.feed_forward = FeedForward(shape["width"], round(shape["width"] * shape["mlp_ratio"]))
        self.residual_scalars = shape["residual_scalars"]
        if self.residual_scalars:
            self.residual_scale = nn.Parameter(torch.ones(()))
            self.embedding_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, embedding: Tensor, *attention_args: Any) -> Tensor:
        """x: the residual stream (B, T, C); embedding: its value before the first block."""
        if self.residual_scalars:
            x = self.residual_scale * x + self.embedding_scale * embedding
        x = x + self.attention(norm(x), *attention_args)
        out: Tensor = x + self.feed_forward(norm(x))
        return out


class SmalltaleForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    config_class = SmalltaleConfig
    _no_split_modules = ["Block"]  # noqa: RUF012
    _supports_sdpa = True

    def __init__(self, config: SmalltaleConfig) -> None:
        super().__init__(config)
        shape = config.model
        self.embedding = nn.Embedding(shape["vocabulary"], shape["width"])
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape["layers"]))
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embedding = value  # type: ignore[assignment]

    def get_output_embeddings(self) -> None:
        """None: `forward` uses the embedding's weight as the head, so there is no separate module."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """input_ids: (B, T); attention_mask: (B, S), 0 for padding; labels: (B, T), -100 for positions without a loss."""
        embedded = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        # RoPE depends on differences of positions only, so left padding needs no position_ids.
        rotation = self.rotation(past, past + embedded.shape[1], embedded.device)
        mask = self.mask(past, embedded.shape[1], attention_mask, embedded.device)
        x = embedding = norm(embedded)
        for layer, block in enumerate(self.blocks):
            x = block(x, embedding, rotation, mask, past_key_values, layer)
        positions = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = F.linear(norm(x)[:, positions], self.embedding.weight).float()
        cap = self.config.model["soft_cap"]
        if cap:
            logits = logits * torch.rsqrt(1 + (logits / cap).square())
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def rotation(self, start: int, end: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """RoPE cosines and sines of positions `start` to `end`, each (T, D / 2)."""
        shape = self.config.model
        width = shape["width"] // shape["heads"]
        exponent = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
        positions = torch.arange(start, end, dtype=torch.float32, device=device)
        angle = torch.outer(positions, shape["rope_base"] ** -exponent)
        return angle.cos(), angle.sin()

    def mask(self, past: int, length: int, attention_mask: Tensor | None, device: torch.device) -> Tensor:
        """(B or 1, 1, T, S), true where a query may see a key; each query sees itself, so no row is fully masked."""
        keys = torch.arange(past + length, device=device)
        queries = keys[past:, None]
        mask = (keys[None] <= queries)[None, None]
        if attention_mask is None:
            return mask
        not_padding = attention_mask[:, None, None, : past + length].bool()
        return (mask & not_padding) | (keys[None] == queries)[None, None]


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), eps=EPSILON)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """x: (B, H, T, D); rotation: (T, D / 2) each."""
    cosine, sine = rotation
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).to(x.dtype)
