"""The smalltale transformer for transformers 4 and 5. A copy of this file lies in every checkpoint folder.

In: a folder opened with AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True). Out: logits (B, T, V),
and generate() with a cache of keys and values.
Beware: it stands alone (torch and transformers only), so it repeats the mathematics of model/transformer.py; a test
holds the two together, and a config with a field that this file does not know is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

EPSILON = torch.finfo(torch.float32).eps
KNOWN = {
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
"""The fields of `model` in config.json that this file understands."""


class SmalltaleConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """`model` holds the shape as smalltale writes it; the names that transformers asks for are read off it."""

    model_type = "smalltale"

    def __init__(self, model: dict[str, Any] | None = None, **others: Any) -> None:
        shape = dict(model or {})
        if set(shape) - KNOWN:
            raise ValueError(
                f"config.json has model keys {sorted(set(shape) - KNOWN)} that this modeling_smalltale.py does not "
                "know; use the file of the smalltale version named in meta.json"
            )
        self.model = shape
        others["vocab_size"] = shape.get("vocabulary", 0)
        others["hidden_size"] = shape.get("width", 0)
        others["num_hidden_layers"] = shape.get("layers", 0)
        others["num_attention_heads"] = shape.get("heads", 0)
        others["max_position_embeddings"] = shape.get("context", 0)
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            setattr(self, name, others.pop(name))
        self.max_position_embeddings = others.pop("max_position_embeddings")
        super().__init__(**{**others, "tie_word_embeddings": False})


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, cache: Any, layer: int
    ) -> Tensor:
        """x: (B, T, C); mask: (B or 1, 1, T, S), true where a query may see a key."""
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
        self.scaled = shape["residual_scalars"]
        if self.scaled:
            self.residual_scale = nn.Parameter(torch.ones(()))
            self.embedding_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, first: Tensor, *around: Any) -> Tensor:
        """x, first: (B, T, C): the residual stream and the embedding fed in again."""
        if self.scaled:
            x = self.residual_scale * x + self.embedding_scale * first
        x = x + self.attention(norm(x), *around)
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
        """The head is the embedding's own weight, used as it stands."""

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
        """input_ids: (B, T); attention_mask: (B, S), 0 for padding; labels: (B, T), -100 where none."""
        embedded = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        # RoPE sees differences of positions only, so padding on the left needs no positions of its own.
        rotation = self.rotation(past, past + embedded.shape[1], embedded.device)
        mask = self.mask(past, embedded.shape[1], attention_mask, embedded.device)
        x = first = norm(embedded)
        for layer, block in enumerate(self.blocks):
            x = block(x, first, rotation, mask, past_key_values, layer)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = F.linear(norm(x)[:, kept], self.embedding.weight).float()
        cap = self.config.model["soft_cap"]
        if cap:
            logits = logits * torch.rsqrt(1 + (logits / cap).square())
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def rotation(self, start: int, end: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """RoPE's cosines and sines of positions start to end, each (T, D / 2)."""
        shape = self.config.model
        width = shape["width"] // shape["heads"]
        exponent = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
        positions = torch.arange(start, end, dtype=torch.float32, device=device)
        angle = torch.outer(positions, shape["rope_base"] ** -exponent)
        return angle.cos(), angle.sin()

    def mask(self, past: int, length: int, attention_mask: Tensor | None, device: torch.device) -> Tensor:
        """(B or 1, 1, T, S), true where a query may see a key; each sees itself, so that no row is empty."""
        keys = torch.arange(past + length, device=device)
        queries = keys[past:, None]
        mask = (keys[None] <= queries)[None, None]
        if attention_mask is None:
            return mask
        seen = attention_mask[:, None, None, : past + length].bool()
        return (mask & seen) | (keys[None] == queries)[None, None]


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), eps=EPSILON)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """x: (B, H, T, D); rotation: (T, D / 2) each."""
    cosine, sine = rotation
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).to(x.dtype)
