"""The group of processes that train together: a single process, or all that `torchrun` started.

Input: torchrun's environment variables. Output: a Distributed, with the collective operations that training needs.
Note: all ranks must make the same calls in the same order, otherwise they block each other.
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
from smalltale.training.rendezvous import join_process_group

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits in a collective operation; torchrun ends all ranks at once when one dies."""

CUDA_GRAPHS: WeakSet[torch.cuda.CUDAGraph] = WeakSet()
"""Recorded graphs that may contain collectives: destroying an NCCL group hangs while one of them exists (seen on two H100s)."""

# torch 2.13 renamed all_gather_into_tensor.
all_gather_single: Callable[..., Any] = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)


@dataclass(frozen=True, kw_only=True)
class Distributed:
    """This process's rank in the group; a group of one by default."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """The rank within this machine, which selects the GPU."""
    pending: list[Any] = field(default_factory=list, repr=False, compare=False)
    """Asynchronous reductions that have not been waited for."""

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and shows progress."""
        return self.rank == 0

    def all_reduce_async(self, tensor: Tensor) -> None:
        """Start to sum a tensor over the ranks, in place; bit-identical on all ranks after `wait_all`."""
        self.pending.append(dist.all_reduce(tensor, async_op=True))

    def wait_all(self) -> None:
        """Wait for every reduction that was started."""
        while self.pending:
            self.pending.pop().wait()

    def all_reduce_min(self, value: int) -> int:
        """The smallest value of all ranks."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, op=dist.ReduceOp.MIN)
        return int(tensor)

    def all_reduce_sum(self, *values: float) -> list[float]:
        """Each value summed over the ranks, on the CPU."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return list(tensor.tolist())

    def shard_map(self, function: Callable[[Tensor], Tensor], stack: Tensor) -> Tensor:
        """function(stack) for a stack (n, …), computed in shards along the first axis, one per rank."""
        if self.world_size == 1:
            return function(stack)
        size = -(-len(stack) // self.world_size)
        shard = stack[self.rank * size : (self.rank + 1) * size]
        padding = size - len(shard)
        if padding:
            shard = torch.cat([shard, stack.new_ones(padding, *stack.shape[1:])])
        output = function(shard).contiguous()
        gathered = output.new_empty(self.world_size * size, *output.shape[1:])
        all_gather_single(gathered, output)
        return gathered[: len(stack)]

    def check_consistent(self, facts: dict[str, Any]) -> None:
        """Raise SmalltaleError on every rank if a rank's facts differ from those of rank 0 or contain an `error`."""
        facts_by_rank = [facts] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(facts_by_rank, facts)
        for rank, rank_facts in enumerate(facts_by_rank):
            if error := rank_facts.get("error"):
                raise SmalltaleError(f"rank {rank}: {error}" if self.world_size > 1 else error)
        for rank, rank_facts in enumerate(facts_by_rank):
            differing = [key for key, fact in facts_by_rank[0].items() if rank_facts.get(key) != fact]
            if differing:
                raise SmalltaleError(
                    f"rank {rank} differs from rank 0 in {' and '.join(differing)}; start every rank with the same"
                )


@contextmanager
def init_distributed() -> Iterator[Distributed]:
    """Join the process group that torchrun's environment describes, and leave it at the end. Raises SmalltaleError."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Distributed()
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    has_gpus = torch.cuda.is_available()
    if has_gpus and local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
    try:
        join_process_group("cpu:gloo,cuda:nccl" if has_gpus else "gloo", COLLECTIVE_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise SmalltaleError(
            f"rank {rank} could not connect to the other {world_size - 1} ranks ({error}); "
            "start one torchrun command per machine, all with the same --rdzv-endpoint"
        ) from error
    if rank:
        logging.getLogger("smalltale").setLevel(logging.WARNING)
    yield Distributed(rank=rank, world_size=world_size, local_rank=local_rank)
    # Skipped after an error: destroying the group waits for ranks that may have died.
    for graph in list(CUDA_GRAPHS):
        graph.reset()
    dist.destroy_process_group()
