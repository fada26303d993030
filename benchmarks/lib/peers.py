"""The trainers that the training benchmarks compare: ours, nanoGPT, llama2.c, and transformers' Trainer with a Llama.

Input: a shape and a token folder of ours. Output: objects that train optimizer steps and report their loss.
The peers' models and optimizers are imported from a checkout that the user names. Their training loops are scripts, so the
lines around a step (batches, autocast, accumulation, clipping) are written here to match those scripts.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.token_folder import TokenFolder
from smalltale.training.batch_size import CACHED_TOKENS
from smalltale.training.batches import PackedRows
from smalltale.training.device import Device
from smalltale.training.distributed import Distributed
from smalltale.training.gradients import CudaGraphFunction, GradientAccumulator
from smalltale.training.optim import OptimConfig, Optimizers

GPU_SHAPES = {
    "small": (8, 512, 4),
    "medium": (11, 640, 5),
    "large": (16, 768, 6),
}
"""Layers, width and heads of the class recipes."""
CPU_SHAPES = {"demo": (6, 256, 2)}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Model shape and batch of one comparison."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    length: int
    batch_tokens: int
    micro_tokens: int
    """Micro-batch of the peers, in tokens."""
    our_micro_tokens: int = 0
    """Micro-batch of ours, in tokens; 0 for the whole batch on a GPU and the cache-sized micro-batch on a CPU."""

    def our_config(self) -> ModelConfig:
        return ModelConfig(
            vocabulary=self.vocabulary,
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            context=self.length,
        )


class Trainer:
    """A model that trains; `steps` returns the seconds each of `count` optimizer steps took."""

    model: nn.Module

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next step; for ours, the multiplier of its configured rates."""
        raise NotImplementedError

    def __init__(self, device: Device) -> None:
        self.device, self.steps_done, self.loss = device, 0, math.nan

    def one_step(self) -> float:
        """Run one optimizer step and return its loss (synchronises with the device)."""
        raise NotImplementedError

    def steps(self, count: int) -> list[float]:
        seconds = []
        self.device.synchronize()
        for _ in range(count):
            began = time.perf_counter()
            self.loss = self.one_step()
            self.device.synchronize()
            seconds.append(time.perf_counter() - began)
            self.steps_done += 1
        return seconds

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())


class Ours(Trainer):
    """smalltale's training step, set up as its trainer does."""

    def __init__(
        self,
        shape: Shape,
        data: TokenFolder,
        device: Device,
        optim: OptimConfig,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(device)
        torch.manual_seed(seed)
        self.model = Transformer(shape.our_config(), dropout).to(device.torch_device)
        self.optimizers = Optimizers(self.model, optim, dtype=device.dtype, compiled=True)
        self.rows = PackedRows(data, shape.length, seed=seed, device=device.torch_device)
        on_gpu = device.kind == "cuda"
        self.gradients = GradientAccumulator(
            self.model,
            self.rows,
            device,
            Distributed(),
            head_rows=8192 if on_gpu else 512,
            compiled=True,
            max_micro_tokens=shape.our_micro_tokens or (shape.batch_tokens if on_gpu else CACHED_TOKENS),
        )
        self.batch_tokens = shape.batch_tokens
        self.optimizers.set_multiplier(0.0)
        self.gradients.fit_micro_batch(shape.batch_tokens)
        self.update = self.optimizers.step
        if on_gpu:
            self.update = CudaGraphFunction(self.optimizers.step, (), device.torch_device)
        else:
            self.update()
        self.optimizers.reset()
        self.set_rate(0.3)

    def set_rate(self, multiplier: float) -> None:
        self.optimizers.set_multiplier(multiplier)

    def one_step(self) -> float:
        loss = self.gradients.accumulate(self.steps_done, self.batch_tokens)
        self.update()
        return float(loss)


class Windows:
    """Random windows of the token stream, sampled as nanoGPT does."""

    def __init__(self, data: TokenFolder, length: int, device: Device) -> None:
        self.tokens, self.length, self.device = data.train, length, device
        self.random = np.random.default_rng(0)

    def batch(self, rows: int) -> tuple[Tensor, Tensor]:
        starts = self.random.integers(0, len(self.tokens) - self.length - 1, rows)
        windows = np.stack([self.tokens[start : start + self.length + 1] for start in starts]).astype(
            np.int64
        )
        ids = torch.from_numpy(windows)
        if self.device.kind == "cuda":
            ids = ids.pin_memory().to(self.device.torch_device, non_blocking=True)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


class Peer(Trainer):
    """The training step of nanoGPT's and llama2.c's scripts, with their own model and optimizer."""

    def __init__(
        self,
        model: nn.Module,
        shape: Shape,
        data: TokenFolder,
        device: Device,
        rate: float,
        *,
        compiled: bool,
        mixed: bool,
    ) -> None:
        """mixed: whether to autocast to bfloat16."""
        super().__init__(device)
        self.mixed = mixed
        self.model = model.to(device.torch_device)
        self.optimizer = model.configure_optimizers(0.1, rate, (0.9, 0.95), device.kind)  # type: ignore[operator]
        self.run: Any = torch.compile(self.model) if compiled else self.model
        self.windows, self.rows = Windows(data, shape.length, device), shape.micro_tokens // shape.length
        self.accumulate = shape.batch_tokens // shape.micro_tokens

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.kind, dtype=torch.bfloat16, enabled=self.mixed)

    def compute_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def one_step(self) -> float:
        loss = torch.zeros(())
        for _ in range(self.accumulate):
            inputs, targets = self.windows.batch(self.rows)
            with self.autocast():
                loss = self.compute_loss(inputs, targets) / self.accumulate
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach()) * self.accumulate


class NanoGPT(Peer):
    """github.com/karpathy/nanoGPT; on a CPU in float32 without compilation, as its README recommends.

    fast_on_cpu: compile and use bfloat16 on a CPU, for runs whose steps are charged at a time measured before.
    """

    def __init__(
        self,
        checkout: Path,
        shape: Shape,
        data: TokenFolder,
        device: Device,
        rate: float = 6e-4,
        dropout: float = 0.0,
        *,
        fast_on_cpu: bool = False,
    ) -> None:
        code = import_file(checkout / "model.py", "nanogpt_model")
        torch.manual_seed(0)
        config = code.GPTConfig(
            block_size=shape.length,
            vocab_size=shape.vocabulary,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_embd=shape.width,
            dropout=dropout,
            bias=False,
        )
        fast = fast_on_cpu or device.kind == "cuda"
        super().__init__(code.GPT(config), shape, data, device, rate, compiled=fast, mixed=fast)

    def compute_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.run(inputs, targets)[1]
        return loss

    def logits(self, ids: Tensor) -> Tensor:
        """ids (B, T) -> logits (B, T, V); the model returns all of them only if it gets targets."""
        logits: Tensor = self.model(ids, ids)[0]
        return logits


class Llama2C(Peer):
    """github.com/karpathy/llama2.c, its PyTorch trainer."""

    def __init__(
        self,
        checkout: Path,
        shape: Shape,
        data: TokenFolder,
        device: Device,
        rate: float = 5e-4,
        dropout: float = 0.0,
    ) -> None:
        code = import_file(checkout / "model.py", "llama2c_model")
        torch.manual_seed(0)
        config = code.ModelArgs(
            dim=shape.width,
            n_layers=shape.layers,
            n_heads=shape.heads,
            vocab_size=shape.vocabulary,
            max_seq_len=shape.length,
            dropout=dropout,
        )
        fast = device.kind == "cuda"
        super().__init__(code.Transformer(config), shape, data, device, rate, compiled=fast, mixed=fast)

    def compute_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self.run(inputs, targets)
        loss: Tensor = self.model.last_loss  # type: ignore[assignment]
        return loss

    def logits(self, ids: Tensor) -> Tensor:
        """ids (B, T) -> logits (B, T, V)."""
        logits: Tensor = self.model(ids, ids)
        return logits


class HuggingFace(Trainer):
    """transformers' Trainer with a Llama; each call of `steps` is a separate `train()` whose first steps are not timed."""

    def __init__(self, shape: Shape, data: TokenFolder, device: Device) -> None:
        super().__init__(device)
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=shape.vocabulary,
                hidden_size=shape.width,
                intermediate_size=8 * shape.width // 3 // 32 * 32,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                max_position_embeddings=shape.length,
                tie_word_embeddings=True,
            )
        )
        self.shape = shape
        windows = len(data.train) // shape.length
        self.windows = np.asarray(data.train[: windows * shape.length]).astype(np.int64).reshape(windows, -1)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        ids = torch.from_numpy(self.windows[number])
        return {"input_ids": ids, "labels": ids}

    def steps(self, count: int) -> list[float]:
        import tempfile

        from transformers import Trainer as TheirTrainer
        from transformers import TrainerCallback, TrainingArguments

        warmup_steps, step_ends = 3, []
        device = self.device

        class StepTimer(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *_: Any, **__: Any) -> None:
                device.synchronize()
                step_ends.append(time.perf_counter())

        with tempfile.TemporaryDirectory() as out:
            arguments = TrainingArguments(
                output_dir=out,
                max_steps=warmup_steps + count,
                per_device_train_batch_size=self.shape.micro_tokens // self.shape.length,
                gradient_accumulation_steps=self.shape.batch_tokens // self.shape.micro_tokens,
                learning_rate=6e-4,
                bf16=device.kind == "cuda",
                torch_compile=device.kind == "cuda",
                use_cpu=device.kind == "cpu",
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                dataloader_drop_last=True,
            )
            TheirTrainer(
                model=self.model, args=arguments, train_dataset=self, callbacks=[StepTimer()]
            ).train()
        self.steps_done += warmup_steps + count
        return [
            after - before
            for before, after in zip(step_ends[warmup_steps - 1 :], step_ends[warmup_steps:], strict=False)
        ]


def import_file(path: Path, name: str) -> ModuleType:
    """Import a peer's file as a module. Exits if it does not exist."""
    if not path.exists():
        sys.exit(f"{path} does not exist; give the path of a checkout")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def open_token_folder(folder: Path | None, vocabulary: int) -> Iterator[Path]:
    """The given token folder, or a temporary one made from our fables."""
    if folder is not None:
        yield folder
        return
    import tempfile

    from smalltale.corpus.build import build_corpus
    from smalltale.corpus.config import CorpusConfig
    from smalltale.corpus.corpus_folder import read_corpus
    from smalltale.tokens.encode import encode_corpus
    from smalltale.tokens.tokenizer import TokenizerConfig, train_tokenizer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_corpus(CorpusConfig(stories=8000), folder / "corpus")
        texts = (document.text for document in read_corpus(folder / "corpus", "train"))
        tokenizer = train_tokenizer(texts, TokenizerConfig(vocabulary=vocabulary))
        tokenizer.save(folder / "tokenizer", {"made": "for a benchmark"})
        encode_corpus(folder / "corpus", folder / "tokenizer", folder / "tokens")
        yield folder / "tokens"
