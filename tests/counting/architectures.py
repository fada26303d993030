"""Small models of many kinds, for the counting tests: d = 8, vocabulary 11, heads of 4, at most 16 positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

V, D, P = 11, 8, 16


class Model(nn.Module):
    """Embedding, a body, an untied head without bias: V·D + body + V·D = 176 + body."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, D)
        self.head = nn.Linear(D, V, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        self.block_size = P

    def body(self, x: Tensor) -> Tensor:
        return x

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(ids)))


class WithBody(Model):
    """The same with any module as its body, repeated with residuals."""

    def __init__(self, inner: nn.Module, *, tied: bool = False, times: int = 1) -> None:
        super().__init__(tied=tied)
        self.inner, self.times = inner, times

    def body(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = x + self.inner(x)
        return x


def matrix(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5)


def linear() -> nn.Linear:
    return nn.Linear(D, D, bias=False)


def linear_to_v() -> nn.Linear:
    return nn.Linear(D, V, bias=False)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Attention(nn.Module):
    """D·D for queries and output, D·(4·groups) for keys and for values; `repeat` copies heads or weights."""

    def __init__(self, groups: int = 2, repeat: str = "activations") -> None:
        super().__init__()
        self.q, self.out = nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)
        self.k, self.v = nn.Linear(D, 4 * groups, bias=False), nn.Linear(D, 4 * groups, bias=False)
        self.groups, self.repeat = groups, repeat

    def project(self, layer: nn.Linear, x: Tensor) -> Tensor:
        times = 2 // self.groups
        if self.repeat == "weights":
            weight = layer.weight.view(self.groups, 4, D).repeat_interleave(times, 0).reshape(D, D)
            return (x @ weight.t()).unflatten(-1, (2, 4)).transpose(1, 2)
        heads = layer(x).unflatten(-1, (self.groups, 4)).transpose(1, 2)
        return heads.expand(-1, 2, -1, -1) if self.repeat == "expand" else heads.repeat_interleave(times, 1)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (2, 4)).transpose(1, 2)
        mixed = attend(q, self.project(self.k, x), self.project(self.v, x))
        return self.out(mixed.transpose(1, 2).flatten(2))


class FusedAttention(nn.Module):
    """One 3D × D matrix, split in three in the way `how` names, and D × D out."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.qkv, self.out, self.how = matrix(3 * D, D), matrix(D, D), how

    def forward(self, x: Tensor) -> Tensor:
        weight = self.qkv
        if self.how == "cast":
            weight = weight.to(torch.bfloat16).to(torch.float32)
        if self.how == "chunk":
            q, k, v = (x @ part.t() for part in weight.chunk(3))
        elif self.how == "one product":
            q, k, v = (x @ weight.t()).chunk(3, -1)
        else:
            q, k, v = x @ weight[:D].t(), x @ weight[D : 2 * D].t(), F.linear(x, weight[2 * D :])
        heads = [part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (q, k, v)]
        return attend(*heads).transpose(1, 2).flatten(2) @ self.out.t()


class GPT2(nn.Module):
    """GPT-2's parts: learned positions, layer norms and linears with biases, GELU."""

    def __init__(self, layers: int, *, tied: bool) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(V, D), nn.Embedding(P, D)
        self.layers = nn.ModuleList(GPT2Layer() for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, V, bias=False)
        if tied:
            self.head.weight = self.tokens.weight
        self.block_size = P

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class GPT2Layer(nn.Module):
    """2·2D + (3D·D + 3D) + (D·D + D) + (4D·D + 4D) + (4D·D + D) = 12·64 + 13·8 = 872."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        x = x + self.out(attend(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class LlamaLayer(nn.Module):
    """2·D norms + attention (groups) + 3·D·16 of SwiGLU."""

    def __init__(self, groups: int = 2) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(D), nn.RMSNorm(D)
        self.attention = Attention(groups)
        self.gate, self.up, self.down = (nn.Linear(a, b, bias=False) for a, b in ((D, 16), (D, 16), (16, D)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class FunctionBody(Model):
    """A model whose body is a function of the model and x; its weights are keyword arguments."""

    def __init__(self, function: Any, *, tied: bool = False, **weights: Any) -> None:
        super().__init__(tied=tied)
        for name, value in weights.items():
            setattr(self, name, value)
        self.function = function

    def body(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class FunctionModel(nn.Module):
    """A model whose forward is a function of the model and the ids; its parts are keyword arguments."""

    def __init__(self, function: Any, **parts: Any) -> None:
        super().__init__()
        for name, value in parts.items():
            setattr(self, name, value)
        self.function, self.block_size, self.vocab_size = function, P, V

    def forward(self, ids: Tensor) -> Tensor:
        return self.function(self, ids)


class SlowMamba(nn.Module):
    """A selective state-space layer with its scan as a loop over time; inner 8, state 4, step rank 2, kernel 3.

    in 2·8·8 = 128, conv 8·3 + 8 = 32, x_proj (2 + 4 + 4)·8 = 80, dt 8·2 + 8 = 24, A 8·4 = 32, D 8, out 64: 368.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(D, 2 * D, bias=False), nn.Linear(D, D, bias=False)
        self.conv = nn.Conv1d(D, D, 3, groups=D, padding=2)
        self.select, self.step = nn.Linear(D, 10, bias=False), nn.Linear(2, D)
        self.A_log, self.D = nn.Parameter(torch.rand(D, 4)), nn.Parameter(torch.ones(D))

    def forward(self, x: Tensor) -> Tensor:
        T = x.shape[1]
        x, gate = self.enter(x).chunk(2, -1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., :T].transpose(1, 2))
        step, B, C = self.select(x).split([2, 4, 4], -1)
        step = F.softplus(self.step(step))
        A = -torch.exp(self.A_log)
        decay, update = torch.exp(step[..., None] * A), step[..., None] * B[:, :, None] * x[..., None]
        state, out = torch.zeros_like(decay[:, 0]), []
        for t in range(T):
            state = decay[:, t] * state + update[:, t]
            out.append((state * C[:, t, None]).sum(-1))
        y = torch.stack(out, 1) + x * self.D
        return self.leave(y * F.silu(gate))


class Experts(nn.Module):
    """A router D × 4 and four experts D → 16 → D; `how` is gathered or looped."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.router = nn.Linear(D, 4, bias=False)
        self.up, self.down, self.how = matrix(4, D, 16), matrix(4, 16, D), how

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, D)
        weights, chosen = self.router(flat).softmax(-1).topk(2)
        if self.how == "gathered":
            up, down = self.up[chosen], self.down[chosen]
            expert_out = torch.einsum("nkh,nkhd->nkd", torch.einsum("nd,nkdh->nkh", flat, up).relu(), down)
            return (expert_out * weights[..., None]).sum(1).view_as(x)
        out = torch.zeros_like(flat)
        for expert in range(4):
            token, slot = torch.where(chosen == expert)
            expert_out = (flat[token] @ self.up[expert]).relu() @ self.down[expert]
            out.index_add_(0, token, expert_out * weights[token, slot, None])
        return out.view_as(x)


class SharedBias(nn.Module):
    """T5's bias: one table of 4 distances × 2 heads, looked up once, added to the scores of every layer."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(V, D), nn.Linear(D, V, bias=False)
        self.bias = nn.Embedding(4, 2)
        self.layers = nn.ModuleList(nn.Linear(D, 3 * D, bias=False) for _ in range(layers))
        self.block_size = P

    def forward(self, ids: Tensor) -> Tensor:
        x, position = self.embedding(ids), torch.arange(ids.shape[1])
        bias = self.bias((position[:, None] - position).clamp(0, 3)).permute(2, 0, 1)
        mask = position[:, None] < position
        for layer in self.layers:
            q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in layer(x).chunk(3, -1))
            scores = (q @ k.transpose(-1, -2) + bias).masked_fill(mask, -torch.inf)
            x = x + (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.head(x)
