"""Forward and backward over a batch, by the fastest way the device has.

In: a model and plans of rows. Out: gradients added to the parameters' own, and the loss.
Beware: on a GPU the whole pass is recorded once for a shape and replayed, so whatever it reads must lie where it lay.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from smalltale.errors import SmalltaleError
from smalltale.model.attention import same_story
from smalltale.model.kernels.dispatch import has_story_attention
from smalltale.model.loss import chunked_cross_entropy
from smalltale.model.transformer import Transformer
from smalltale.training.batch_size import fitting_part
from smalltale.training.batches import Batch, Plan, Rows, gather
from smalltale.training.device import Device
from smalltale.training.distributed import GRAPHS, Ranks

log = logging.getLogger(__name__)

FLOAT16_SCALE = 2.0**13
"""What the mean loss is multiplied by in float16, so that small gradients do not vanish; halved where large ones overflow."""


class Gradients:
    """Adds the gradient of rows to the parameters' gradients."""

    def __init__(
        self,
        model: Transformer,
        rows: Rows,
        device: Device,
        ranks: Ranks,
        *,
        head_rows: int,
        compiled: bool,
        most: int,
        seed: int = 0,
    ) -> None:
        """most: tokens at once, halved where the memory does not take them. seed: of dropout."""
        self.model, self.rows, self.device, self.head_rows = model, rows, device, head_rows
        self.ranks, self.sending = ranks, False
        if ranks.size > 1:
            for parameter in model.parameters():
                parameter.register_post_accumulate_grad_hook(self.send)  # type: ignore[no-untyped-call]
        self.compiled, self.most, self.seed = compiled, most, seed
        self.loss_scale = FLOAT16_SCALE if device.dtype == torch.float16 else 1.0
        self.micro_tokens = 0
        # Layer by layer, all alike: 9 s to compile instead of 45 s for the whole trunk, at the same speed
        # (6 layers, 2 cores with AMX, 2026-11-23).
        self.layers: list[Callable[..., Tensor]] = [
            torch.compile(each, dynamic=False) if compiled else each for each in model.blocks
        ]
        self.recorded: dict[tuple[torch.Size, bool], Recorded] = {}
        self.next_plans: tuple[tuple[int, int, int], list[Plan]] | None = None

    def fit(self, batch_tokens: int) -> None:
        """Compile for batches of so many tokens, of all ranks together, and find how many go through at once.

        Raises SmalltaleError where not even a row does.
        """
        while True:
            self.micro_tokens = fitting_part(batch_tokens // self.ranks.size, self.rows.row_length, self.most)
            try:
                self.add(self.plans(0, batch_tokens)[0], 0.0)
                self.device.synchronize()
                break
            except torch.OutOfMemoryError as error:
                self.take_less(error)
        self.most = self.ranks.least(self.micro_tokens)
        self.micro_tokens = fitting_part(batch_tokens // self.ranks.size, self.rows.row_length, self.most)

    def take_less(self, error: torch.OutOfMemoryError) -> None:
        """Half the tokens at once, after the memory did not take them."""
        if self.micro_tokens <= self.rows.row_length:
            raise SmalltaleError(
                f"{self.device.name} has not enough memory for one row of {self.rows.row_length} tokens; "
                "lower training.row_length, training.head_rows or model.width"
            ) from error
        log.warning("%d tokens at once do not fit into the memory; trying half", self.micro_tokens)
        self.most = self.micro_tokens // 2
        self.recorded.clear()
        if self.device.kind == "cuda":
            torch.cuda.empty_cache()

    def speed(self) -> float:
        """Tokens a second of all ranks together, forward and backward, over one micro-batch."""
        plan = self.plans(0, self.micro_tokens * self.ranks.size)[0]
        began = time.monotonic()
        self.add(plan, 0.0)
        self.device.synchronize()
        (speed,) = self.ranks.sums(self.micro_tokens / (time.monotonic() - began))
        return speed

    def plans(self, step: int, batch_tokens: int) -> list[Plan]:
        """Where the tokens of this rank's micro-batches of a step stand."""
        if self.next_plans and self.next_plans[0] == (step, batch_tokens, self.micro_tokens):
            return self.next_plans[1]
        count = batch_tokens // self.ranks.size // self.micro_tokens
        rows = self.micro_tokens // self.rows.row_length
        return [self.rows.plan(step * count + number, rows) for number in range(count)]

    def plan_next(self, step: int, batch_tokens: int) -> None:
        """Make a step's plans before they are asked for, while the device works."""
        self.next_plans = (step, batch_tokens, self.micro_tokens), self.plans(step, batch_tokens)

    def of_step(self, step: int, batch_tokens: int) -> Tensor:
        """Add the gradient of the mean loss over all ranks' targets of a step, summed over the ranks.

        Returns this rank's share of that mean, in nats per token, a scalar on the device; the shares of all ranks add up
        to it. Reading it waits for the device.
        """
        plans = self.plans(step, batch_tokens)
        (targets,) = self.ranks.sums(sum(plan.targets for plan in plans))
        total = torch.zeros((), device=self.device.torch_device)
        try:
            for number, plan in enumerate(plans):
                if self.model.drops:
                    torch.manual_seed(hash((self.seed, step, number, self.ranks.rank)))
                total += self.add(plan, self.loss_scale / targets, send=number == len(plans) - 1)
        except torch.OutOfMemoryError as error:
            if self.ranks.size > 1:
                raise
            self.take_less(error)
            torch._foreach_zero_(self.held())
            self.fit(batch_tokens)
            return self.of_step(step, batch_tokens)
        self.plan_next(step + 1, batch_tokens)
        if self.loss_scale > 1 and self.overflowed(total):
            self.loss_scale /= 2
            return self.of_step(step, batch_tokens)
        return total / targets

    def held(self) -> list[Tensor]:
        """The gradients there are."""
        return [each.grad for each in self.model.parameters() if each.grad is not None]

    def overflowed(self, loss: Tensor) -> bool:
        """Take the loss's scale out of the gradients; or, where one of a finite loss is not finite, set all to zero."""
        torch._foreach_mul_(self.held(), 1 / self.loss_scale)
        sizes = torch.stack(torch._foreach_norm(self.held()))
        broken, lost = self.ranks.sums(not sizes.isfinite().all(), not loss.isfinite())
        if broken and not lost:
            torch._foreach_zero_(self.held())
        return broken > 0 and not lost

    def add(self, plan: Plan, scale: float, *, send: bool = False) -> Tensor:
        """Add the gradient of scale · the summed loss of a plan's rows. Returns that loss, unscaled, on the device.

        send: also sum the gradients over the ranks, each as soon as it is whole, while the backward pass goes on.
        """
        self.sending = send and self.ranks.size > 1
        on = self.rows.tokens.device
        starts, lengths = (torch.from_numpy(each) for each in (plan.starts, plan.lengths))
        inputs = (starts, lengths, torch.tensor(scale))
        if on.type != "cuda" or not self.compiled:
            return self.forward_backward(*(each.to(on) for each in inputs))
        key = (starts.shape, self.sending)
        replay = self.recorded.get(key)
        if replay is None:
            # Recording runs the function, and so sums over the ranks what earlier micro-batches left.
            before = [each.clone() for each in self.held()]
            replay = self.recorded[key] = Recorded(self.forward_backward, inputs, on)
            if before:
                torch._foreach_copy_(self.held(), before)
        loss: Tensor = replay(*(each.pin_memory() for each in inputs))
        return loss

    def forward_backward(self, starts: Tensor, lengths: Tensor, scale: Tensor) -> Tensor:
        """starts, lengths: (B, P), a plan's; scale: scalar. Returns the summed loss."""
        rows = self.rows
        batch = gather(rows.tokens, starts, lengths, rows.row_length, rows.end_id)
        loss = self.loss(batch)
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        self.ranks.arrived()
        return loss.detach()

    def send(self, parameter: Tensor) -> None:
        """Called by autograd when a parameter's gradient is whole."""
        if self.sending and parameter.grad is not None:
            self.ranks.begin_adding(parameter.grad)

    def loss(self, batch: Batch) -> Tensor:
        """The loss summed over the batch's targets, in nats."""
        # The look-up stays outside the compiled part: its gradient would be summed in a changing order.
        embedded = F.embedding(batch.ids, self.model.embedding.weight).to(self.device.dtype)
        has_kernel = has_story_attention(embedded.device, embedded.dtype, self.model.config.head_width)
        plan = batch.spans if has_kernel else same_story(batch.story)
        features = self.model.trunk(embedded, plan, self.layers)
        return chunked_cross_entropy(
            features.flatten(0, 1),
            self.model.embedding.weight,
            batch.targets.flatten(),
            cap=self.model.config.soft_cap,
            chunk=self.head_rows,
            compiled=self.compiled,
        )


class Recorded:
    """A function of tensors, recorded as one CUDA graph; its inputs are copied to where the recording read them.

    The function runs three times before it is recorded, with zeros for float inputs: here the scale of a gradient.
    """

    def __init__(
        self, function: Callable[..., Any], inputs: tuple[Tensor, ...], device: torch.device
    ) -> None:
        self.inputs = [each.to(device) for each in inputs]
        for each in self.inputs:
            if each.is_floating_point():
                each.zero_()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        GRAPHS.add(self.graph)
        with torch.cuda.graph(self.graph):
            self.output = function(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Any:
        for place, given in zip(self.inputs, inputs, strict=True):
            place.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.output
