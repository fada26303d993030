"""Forward and backward pass over a batch with gradient accumulation, through CUDA graphs where the device has them.

Input: a model and row layouts. Output: gradients added to those of the parameters, and the loss.
Note: on a GPU the forward and backward pass is recorded once per shape and replayed, so every tensor that it reads must
keep its address.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from smalltale.errors import SmalltaleError
from smalltale.model.attention import document_mask
from smalltale.model.kernels.dispatch import has_document_attention
from smalltale.model.loss import chunked_cross_entropy
from smalltale.model.transformer import Transformer
from smalltale.training.batch_size import largest_micro_batch
from smalltale.training.batches import MicroBatch, PackedRows, RowLayout, gather_batch
from smalltale.training.device import Device
from smalltale.training.distributed import CUDA_GRAPHS, Distributed

log = logging.getLogger(__name__)

FLOAT16_SCALE = 2.0**13
"""Initial loss scale in float16, so that small gradients do not underflow; halved when large ones overflow."""


class GradientAccumulator:
    """Computes micro-batches and adds their gradients to the parameters' gradients."""

    def __init__(
        self,
        model: Transformer,
        rows: PackedRows,
        device: Device,
        distributed: Distributed,
        *,
        head_rows: int,
        compiled: bool,
        max_micro_tokens: int,
        seed: int = 0,
    ) -> None:
        """max_micro_tokens: tokens per forward pass, halved when memory runs out. seed: for dropout."""
        self.model, self.rows, self.device, self.head_rows = model, rows, device, head_rows
        self.distributed, self.reducing = distributed, False
        if distributed.world_size > 1:
            for parameter in model.parameters():
                parameter.register_post_accumulate_grad_hook(self.reduce_gradient)  # type: ignore[no-untyped-call]
        self.compiled, self.max_micro_tokens, self.seed = compiled, max_micro_tokens, seed
        self.loss_scale = FLOAT16_SCALE if device.dtype == torch.float16 else 1.0
        self.micro_tokens = 0
        # Compiled per layer, all alike: 9 s to compile instead of 45 s for the whole trunk, at the same speed
        # (6 layers, 2 cores with AMX, 2026-11-23).
        self.layers: list[Callable[..., Tensor]] = [
            torch.compile(block, dynamic=False) if compiled else block for block in model.blocks
        ]
        self.graphs: dict[tuple[tuple[int, ...], bool], CudaGraphFunction] = {}
        self.prefetched: tuple[tuple[int, int, int], list[RowLayout]] | None = None

    def fit_micro_batch(self, batch_tokens: int) -> None:
        """Compile for batches of `batch_tokens` over all ranks, and find the largest micro-batch that fits in memory.

        Raises SmalltaleError when a single row does not fit.
        """
        while True:
            self.set_micro_tokens(batch_tokens)
            try:
                self.add_micro_batch(self.layouts(0, batch_tokens)[0], 0.0)
                self.device.synchronize()
                break
            except torch.OutOfMemoryError as error:
                self.halve_micro_batch(error)
        self.max_micro_tokens = self.distributed.all_reduce_min(self.micro_tokens)
        self.set_micro_tokens(batch_tokens)

    def set_micro_tokens(self, batch_tokens: int) -> None:
        self.micro_tokens = largest_micro_batch(
            batch_tokens // self.distributed.world_size, self.rows.row_length, self.max_micro_tokens
        )

    def halve_micro_batch(self, error: torch.OutOfMemoryError) -> None:
        """Halve the limit of tokens per forward pass after memory ran out."""
        if self.micro_tokens <= self.rows.row_length:
            raise SmalltaleError(
                f"{self.device.name} has not enough memory for one row of {self.rows.row_length} tokens; "
                "lower training.row_length, training.head_rows or model.width"
            ) from error
        log.warning("a micro-batch of %d tokens does not fit in memory; trying half", self.micro_tokens)
        self.max_micro_tokens = self.micro_tokens // 2
        self.graphs.clear()
        if self.device.kind == "cuda":
            torch.cuda.empty_cache()

    def measure_speed(self) -> float:
        """Tokens per second of all ranks together, forward and backward, over one micro-batch."""
        layout = self.layouts(0, self.micro_tokens * self.distributed.world_size)[0]
        started = time.monotonic()
        self.add_micro_batch(layout, 0.0)
        self.device.synchronize()
        (speed,) = self.distributed.all_reduce_sum(self.micro_tokens / (time.monotonic() - started))
        return speed

    def layouts(self, step: int, batch_tokens: int) -> list[RowLayout]:
        """The layouts of this rank's micro-batches of a step."""
        if self.prefetched and self.prefetched[0] == (step, batch_tokens, self.micro_tokens):
            return self.prefetched[1]
        count = batch_tokens // self.distributed.world_size // self.micro_tokens
        rows = self.micro_tokens // self.rows.row_length
        return [self.rows.layout(step * count + number, rows) for number in range(count)]

    def prefetch_layouts(self, step: int, batch_tokens: int) -> None:
        """Compute the layouts of a step while the device still works on the previous one."""
        self.prefetched = (step, batch_tokens, self.micro_tokens), self.layouts(step, batch_tokens)

    def accumulate(self, step: int, batch_tokens: int) -> Tensor:
        """Add the gradient of a step's loss, averaged over the targets of all ranks and summed over the ranks.

        Returns this rank's share of that mean loss, in nats per token, a scalar on the device; the shares of all ranks
        add up to it. Reading it waits for the device.
        """
        layouts = self.layouts(step, batch_tokens)
        (targets,) = self.distributed.all_reduce_sum(sum(layout.targets for layout in layouts))
        total = torch.zeros((), device=self.device.torch_device)
        try:
            for number, layout in enumerate(layouts):
                if self.model.has_dropout:
                    torch.manual_seed(hash((self.seed, step, number, self.distributed.rank)))
                is_last = number == len(layouts) - 1
                total += self.add_micro_batch(layout, self.loss_scale / targets, reduce=is_last)
        except torch.OutOfMemoryError as error:
            if self.distributed.world_size > 1:
                raise
            self.halve_micro_batch(error)
            torch._foreach_zero_(self.existing_gradients())
            self.fit_micro_batch(batch_tokens)
            return self.accumulate(step, batch_tokens)
        self.prefetch_layouts(step + 1, batch_tokens)
        if self.loss_scale > 1 and self.unscale_gradients(total):
            self.loss_scale /= 2
            return self.accumulate(step, batch_tokens)
        return total / targets

    def existing_gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]

    def unscale_gradients(self, loss: Tensor) -> bool:
        """Divide the gradients by the loss scale. Returns whether they overflowed at a finite loss; if so, zeroes them."""
        torch._foreach_mul_(self.existing_gradients(), 1 / self.loss_scale)
        norms = torch.stack(torch._foreach_norm(self.existing_gradients()))
        overflows, diverged = self.distributed.all_reduce_sum(not norms.isfinite().all(), not loss.isfinite())
        if overflows and not diverged:
            torch._foreach_zero_(self.existing_gradients())
        return overflows > 0 and not diverged

    def add_micro_batch(self, layout: RowLayout, scale: float, *, reduce: bool = False) -> Tensor:
        """Add the gradient of scale · the summed loss of a layout's rows. Returns that loss, unscaled, on the device.

        reduce: also sum the gradients over the ranks, each as soon as it is complete, during the backward pass.
        """
        self.reducing = reduce and self.distributed.world_size > 1
        device = self.rows.tokens.device
        inputs = (*layout.to_tensors(), torch.tensor(scale))
        if device.type != "cuda" or not self.compiled:
            return self.forward_backward(*(tensor.to(device) for tensor in inputs))
        key = (layout.starts.shape, self.reducing)
        graph = self.graphs.get(key)
        if graph is None:
            # Recording runs the function, and would sum the gradients of earlier micro-batches over the ranks.
            before = [gradient.clone() for gradient in self.existing_gradients()]
            graph = self.graphs[key] = CudaGraphFunction(self.forward_backward, inputs, device)
            if before:
                torch._foreach_copy_(self.existing_gradients(), before)
        loss: Tensor = graph(*(tensor.pin_memory() for tensor in inputs))
        return loss

    def forward_backward(self, starts: Tensor, lengths: Tensor, scale: Tensor) -> Tensor:
        """starts, lengths: (B, P), those of a layout; scale: scalar. Returns the summed loss."""
        rows = self.rows
        batch = gather_batch(rows.tokens, starts, lengths, rows.row_length, rows.end_id)
        loss = self.loss(batch)
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        self.distributed.wait_all()
        return loss.detach()

    def reduce_gradient(self, parameter: Tensor) -> None:
        """Autograd hook, called when the gradient of a parameter is complete."""
        if self.reducing and parameter.grad is not None:
            self.distributed.all_reduce_async(parameter.grad)

    def loss(self, batch: MicroBatch) -> Tensor:
        """The loss summed over the batch's targets, in nats."""
        # The embedding lookup is not compiled: the compiled gradient would be summed in a varying order.
        embedded = F.embedding(batch.ids, self.model.embedding.weight).to(self.device.dtype)
        has_kernel = has_document_attention(embedded.device, embedded.dtype, self.model.config.head_width)
        mask = batch.spans if has_kernel else document_mask(batch.story_ids)
        features = self.model.trunk(embedded, mask, self.layers)
        return chunked_cross_entropy(
            features.flatten(0, 1),
            self.model.embedding.weight,
            batch.targets.flatten(),
            cap=self.model.config.soft_cap,
            chunk=self.head_rows,
            compiled=self.compiled,
        )


class CudaGraphFunction:
    """A function of tensors recorded as a CUDA graph; each call copies its inputs to the recorded addresses.

    The function runs three times before it is recorded, with float inputs (the scale of the loss) set to zero, so that these
    runs add nothing to the gradients.
    """

    def __init__(self, function: Callable[..., Any], inputs: Sequence[Tensor], device: torch.device) -> None:
        self.inputs = [tensor.to(device) for tensor in inputs]
        for tensor in self.inputs:
            if tensor.is_floating_point():
                tensor.zero_()
        side_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(3):
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(side_stream)
        self.graph = torch.cuda.CUDAGraph()
        CUDA_GRAPHS.add(self.graph)
        with torch.cuda.graph(self.graph):
            self.output = function(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Any:
        for recorded, tensor in zip(self.inputs, inputs, strict=True):
            recorded.copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.output
