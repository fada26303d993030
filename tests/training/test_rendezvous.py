"""Ranks find each other in a store that still has entries of ranks that died."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from random import Random
from time import sleep

import pytest
from torch import distributed as dist

from smalltale.errors import SmalltaleError
from smalltale.training.rendezvous import host_rendezvous, join_rendezvous


def start_ranks(store: dist.Store, world_size: int, delays: list[float]) -> list[str]:
    """The key prefix that each rank of a start returns; rank r starts after delays[r] seconds."""

    def start(rank: int) -> str:
        sleep(delays[rank])
        if rank == 0:
            return host_rendezvous(store, world_size, "gloo")
        return join_rendezvous(store, rank, "gloo")

    with ThreadPoolExecutor(world_size) as threads:
        return list(threads.map(start, range(world_size)))


def test_every_start_gets_its_own_prefix_in_any_order_and_after_dead_ranks() -> None:
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=20))
    random, prefixes = Random(0), []
    # Entries of an earlier start whose ranks died before the rendezvous.
    store.set("process/1", "dead-1")
    store.set("members", '{"prefix": "old", "processes": {"1": "dead-1", "2": "dead-2"}}')
    for _ in range(4):
        rank_prefixes = start_ranks(store, 3, [random.random() * 0.3 for _ in range(3)])
        assert len(set(rank_prefixes)) == 1
        prefixes += rank_prefixes[:1]
    assert len(set(prefixes)) == 4


@pytest.mark.parametrize(
    ("backends", "message"),
    [
        (("gloo", "cpu:gloo,cuda:nccl", "gloo"), "rank 0 sees no GPU and rank 1 does"),
        (("cpu:gloo,cuda:nccl", "cpu:gloo,cuda:nccl", "gloo"), "rank 2 sees no GPU and rank 0 does"),
    ],
)
def test_when_some_ranks_see_no_gpu_all_ranks_report_it(backends: tuple[str, ...], message: str) -> None:
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=20))

    def start(rank: int) -> None:
        with pytest.raises(SmalltaleError, match=message):
            if rank == 0:
                host_rendezvous(store, len(backends), backends[0])
            else:
                join_rendezvous(store, rank, backends[rank])

    with ThreadPoolExecutor(len(backends)) as threads:
        list(threads.map(start, range(len(backends))))
