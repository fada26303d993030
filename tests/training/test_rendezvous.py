"""Ranks meet in a store that still tells of ranks that died."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from random import Random
from time import sleep

import pytest
from torch import distributed as dist

from smalltale.errors import SmalltaleError
from smalltale.training.rendezvous import follow, lead


def met(store: dist.Store, size: int, waits: list[float]) -> list[str]:
    """The name that each rank of a start returns; they come after so many seconds."""

    def come(rank: int) -> str:
        sleep(waits[rank])
        return lead(store, size, "gloo") if rank == 0 else follow(store, rank, "gloo")

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(come, range(size)))


def test_every_start_gets_one_name_whoever_comes_first_and_whatever_died_before() -> None:
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=20))
    random, names = Random(0), []
    # What a start leaves behind whose ranks died before they met.
    store.set("came/1", "long dead")
    store.set("roll", '{"name": "old", "came": {"1": "long dead", "2": "dead too"}}')
    for _ in range(4):
        found = met(store, 3, [random.random() * 0.3 for _ in range(3)])
        assert len(set(found)) == 1
        names += found[:1]
    assert len(set(names)) == 4


@pytest.mark.parametrize(
    ("backends", "says"),
    [
        (("gloo", "cpu:gloo,cuda:nccl", "gloo"), "rank 0 sees no GPU and rank 1 does"),
        (("cpu:gloo,cuda:nccl", "cpu:gloo,cuda:nccl", "gloo"), "rank 2 sees no GPU and rank 0 does"),
    ],
)
def test_ranks_of_which_one_sees_no_gpu_all_say_so(backends: tuple[str, ...], says: str) -> None:
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=20))

    def come(rank: int) -> None:
        with pytest.raises(SmalltaleError, match=says):
            if rank == 0:
                lead(store, len(backends), backends[0])
            else:
                follow(store, rank, backends[rank])

    with ThreadPoolExecutor(len(backends)) as threads:
        list(threads.map(come, range(len(backends))))
