"""The processes that train together: one on its own, or as many as `torchrun` started.

In: the environment torchrun sets. Out: a Ranks, with the few things that ranks do together.
Beware: every rank must make the same calls in the same order, else all of them wait.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch import distributed as dist

from smalltale.errors import SmalltaleError
from smalltale.training.rendezvous import meet

PATIENCE = timedelta(minutes=10)
"""How long a rank waits for another one; torchrun ends them all at once where one dies."""

GRAPHS: WeakSet[torch.cuda.CUDAGraph] = WeakSet()
"""Recordings, perhaps of sums over the ranks: NCCL takes no leave while one of them is left (seen on two H100s)."""

# torch 2.13 renamed it.
gather_into: Callable[[Tensor, Tensor], Any] = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that train together; alone by default."""

    rank: int = 0
    size: int = 1
    local: int = 0
    """The process's number on its own machine: which of the GPUs there is its own."""
    under_way: list[Any] = field(default_factory=list, repr=False, compare=False)
    """Sums that were begun and have not arrived."""

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and shows progress."""
        return self.rank == 0

    def begin_adding(self, tensor: Tensor) -> None:
        """Begin to sum a tensor over the ranks, in place; equal to the bit on all of them once `arrived`."""
        under_way = dist.all_reduce(tensor, async_op=True)
        self.under_way.append(under_way)

    def arrived(self) -> None:
        """Wait for every sum that was begun."""
        while self.under_way:
            self.under_way.pop().wait()

    def least(self, figure: int) -> int:
        """The smallest of the ranks' figures."""
        if self.size == 1:
            return figure
        held = torch.tensor(figure)
        dist.all_reduce(held, op=dist.ReduceOp.MIN)
        return int(held)

    def sums(self, *figures: float) -> list[float]:
        """The figures, each summed over the ranks, through the processors."""
        if self.size == 1:
            return list(figures)
        held = torch.tensor(figures, dtype=torch.float64)
        dist.all_reduce(held)
        return [float(each) for each in held]

    def shared_out(self, work: Callable[[Tensor], Tensor], stack: Tensor) -> Tensor:
        """work(stack) for a stack (n, …), each rank working on its share of the n."""
        if self.size == 1:
            return work(stack)
        share = -(-len(stack) // self.size)
        mine = stack[self.rank * share : (self.rank + 1) * share]
        missing = share - len(mine)
        if missing:
            mine = torch.cat([mine, stack.new_ones(missing, *stack.shape[1:])])
        done = work(mine).contiguous()
        whole = done.new_empty(self.size * share, *done.shape[1:])
        gather_into(whole, done)
        return whole[: len(stack)]

    def agree(self, told: dict[str, Any]) -> None:
        """Raise SmalltaleError on every rank where one tells something else than rank 0, or tells an `error`."""
        if self.size == 1:
            if told.get("error"):
                raise SmalltaleError(told["error"])
            return
        all_told: list[dict[str, Any]] = [{} for _ in range(self.size)]
        dist.all_gather_object(all_told, told)
        for rank, each in enumerate(all_told):
            if each.get("error"):
                raise SmalltaleError(f"rank {rank}: {each['error']}")
        for rank, each in enumerate(all_told):
            differs = [key for key in all_told[0] if each.get(key) != all_told[0][key]]
            if differs:
                raise SmalltaleError(
                    f"rank {rank} has another {' and '.join(differs)} than rank 0; give every rank the same"
                )


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks of this run, from torchrun's environment; left again at the end. Raises SmalltaleError."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    on_gpus = torch.cuda.is_available()
    if on_gpus and local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    try:
        meet("cpu:gloo,cuda:nccl" if on_gpus else "gloo", PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise SmalltaleError(
            f"rank {rank} could not meet the other {size - 1} ranks ({error}); "
            "start them all with one torchrun command a machine, with the same --rdzv-endpoint"
        ) from error
    if rank:
        logging.getLogger("smalltale").setLevel(logging.WARNING)
    yield Ranks(rank=rank, size=size, local=local)
    # Not after an error: taking leave waits for ranks that may be gone.
    for graph in list(GRAPHS):
        graph.reset()
    dist.destroy_process_group()
