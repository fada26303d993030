"""Train a Llama with MLX: run.toml has the settings of the run, config.json the model. Weights have Hugging Face's names."""

import json
import math
import time
import tomllib
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten

HERE = Path(__file__).parent
META = json.loads((HERE / "meta.json").read_text(encoding="utf-8"))
CONFIG = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
RUN = tomllib.loads((HERE / "run.toml").read_text(encoding="utf-8"))
CONTEXT, WIDTH, HEADS = META["plan"]["context"], CONFIG["hidden_size"], CONFIG["num_attention_heads"]
EPSILON = CONFIG["rms_norm_eps"]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(WIDTH, WIDTH, bias=False))
        self.rope = nn.RoPE(WIDTH // HEADS, traditional=False, base=CONFIG["rope_theta"])

    def __call__(self, x):
        B, T, C = x.shape
        q, k, v = (
            project(x).reshape(B, T, HEADS, -1).transpose(0, 2, 1, 3)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        scale = 1 / math.sqrt(C // HEADS)
        mixed = mx.fast.scaled_dot_product_attention(
            self.rope(q), self.rope(k), v, scale=scale, mask="causal"
        )
        return self.o_proj(mixed.transpose(0, 2, 1, 3).reshape(B, T, C))


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        hidden = CONFIG["intermediate_size"]
        self.gate_proj = nn.Linear(WIDTH, hidden, bias=False)
        self.up_proj = nn.Linear(WIDTH, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, WIDTH, bias=False)

    def __call__(self, x):
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn, self.mlp = Attention(), FeedForward()
        self.input_layernorm = nn.RMSNorm(WIDTH, eps=EPSILON)
        self.post_attention_layernorm = nn.RMSNorm(WIDTH, eps=EPSILON)

    def __call__(self, x):
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(CONFIG["vocab_size"], WIDTH)
        self.layers = [Layer() for _ in range(CONFIG["num_hidden_layers"])]
        self.norm = nn.RMSNorm(WIDTH, eps=EPSILON)


class Llama(nn.Module):
    """ids (B, T) -> logits (B, T, V); embedding and head are tied."""

    def __init__(self):
        super().__init__()
        self.model = Trunk()
        # The same initialisation as in the other recipes.
        initialize = nn.init.normal(std=CONFIG["initializer_range"])
        self.apply(lambda weight: initialize(weight) if weight.ndim > 1 else weight)

    def __call__(self, ids):
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x)
        return self.model.embed_tokens.as_linear(self.model.norm(x))


def rows(split, generator):
    """Endless batches of RUN["rows"] rows of CONTEXT + 1 tokens, shuffled again for each epoch."""
    tokens = np.memmap(HERE / f"{split}.bin", dtype=META["dtype"], mode="r")
    starts = np.arange((len(tokens) - 1) // CONTEXT) * CONTEXT
    while True:
        generator.shuffle(starts)
        for first in range(0, len(starts) - RUN["rows"] + 1, RUN["rows"]):
            batch = [tokens[start : start + CONTEXT + 1] for start in starts[first : first + RUN["rows"]]]
            yield mx.array(np.stack(batch).astype(np.int32))


def compute_loss(model, batch):
    return nn.losses.cross_entropy(model(batch[:, :-1]), batch[:, 1:], reduction="mean")


mx.random.seed(0)
model = Llama()
schedule = optim.join_schedules(
    [
        optim.linear_schedule(0, RUN["learning_rate"], RUN["warmup_steps"]),
        optim.cosine_decay(RUN["learning_rate"], max(1, RUN["steps"] - RUN["warmup_steps"])),
    ],
    [RUN["warmup_steps"]],
)
optimizer = optim.AdamW(schedule, betas=[0.9, 0.95], weight_decay=RUN["weight_decay"])
loss_and_gradients = nn.value_and_grad(model, compute_loss)
batches = rows("train", np.random.default_rng(0))
losses, times = [], [time.perf_counter()]
for step in range(RUN["steps"]):
    loss, gradients = loss_and_gradients(model, next(batches))
    gradients, _ = optim.clip_grad_norm(gradients, 1.0)
    optimizer.update(model, gradients)
    mx.eval(model.parameters(), optimizer.state, loss)
    losses.append(loss.item())
    times.append(time.perf_counter())
    if step % 10 == 9:
        print(f"step {step + 1}: loss {losses[-1]:.3f}", flush=True)

out = HERE / "model"
out.mkdir(exist_ok=True)
weights = dict(tree_flatten(model.parameters()))
mx.save_safetensors(str(out / "model.safetensors"), weights)
length = min(64, CONTEXT)
held_out = np.memmap(HERE / "val.bin", dtype=META["dtype"], mode="r")[: 2 * length]
ids = mx.array(held_out.astype(np.int64).reshape(2, length))
metadata = {"parameters": str(sum(weight.size for weight in weights.values()))}
mx.save_safetensors(str(out / "reference.safetensors"), {"ids": ids, "logits": model(ids)}, metadata)
seconds = sorted(after - before for before, after in pairwise(times[6:]))
rate = RUN["rows"] * CONTEXT / seconds[len(seconds) // 2] if seconds else None
(out / "run.json").write_text(json.dumps({"losses": losses, "tokens_per_second": rate}), encoding="utf-8")
