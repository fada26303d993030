"""How ranks find each other, also after one of them died and all were started again.

In: the environment torchrun sets. Out: torch's process group.
Beware: torchrun (2.13) starts a run's ranks again on the store they had before, which still tells where the dead ones
listened; who reads that too early is refused. So the ranks first agree in the store on who is alive and what
they send through, and then meet under a name that no earlier start has used.
"""

from __future__ import annotations

import json
import time
import uuid
from datetime import timedelta

from torch import distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from smalltale.errors import SmalltaleError

MEETING = timedelta(minutes=2)
"""How long ranks wait for each other at the start."""
LOOK_AGAIN = timedelta(seconds=0.5)


def meet(backend: str, patience: timedelta) -> None:
    """Start torch's process group of all ranks.

    Raises RuntimeError (dist.DistError) or ValueError where one is missing, SmalltaleError where backends differ.
    patience: how long a rank waits for another one later on.
    """
    store, rank, size = next(rendezvous("env://", timeout=MEETING))
    name = lead(store, size, backend) if rank == 0 else follow(store, rank, backend)
    fresh = PrefixStore(name, store)
    dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, timeout=patience)


def lead(store: Store, size: int, backend: str) -> str:
    """Name this start, and say who takes part until all have answered. Returns the name."""
    name, until = uuid.uuid4().hex, time.monotonic() + MEETING.total_seconds()
    others = range(1, size)
    answers = [f"{name}/answer/{rank}" for rank in others]
    while True:
        came = {rank: store.get(f"came/{rank}").decode() for rank in others}
        store.set("roll", json.dumps({"name": name, "came": came}))
        try:
            store.wait(answers, LOOK_AGAIN)
            break
        except dist.DistStoreError:
            if time.monotonic() > until:
                raise
    found = [backend, *(store.get(each).decode() for each in answers)]
    wrong = difference(found)
    store.set(f"{name}/wrong", wrong)
    if wrong:
        raise SmalltaleError(wrong)
    return name


def follow(store: Store, rank: int, backend: str) -> str:
    """Come, and answer the first roll that has this very process on it. Returns the start's name."""
    mine, until = uuid.uuid4().hex, time.monotonic() + MEETING.total_seconds()
    store.set(f"came/{rank}", mine)
    while True:
        roll = json.loads(store.get("roll"))
        if roll["came"].get(str(rank)) == mine:
            break
        if time.monotonic() > until:
            raise dist.DistStoreError(f"rank 0 did not come within {MEETING.total_seconds():.0f} s")
        time.sleep(LOOK_AGAIN.total_seconds() / 5)
    name: str = roll["name"]
    store.set(f"{name}/answer/{rank}", backend)
    wrong = store.get(f"{name}/wrong").decode()
    if wrong:
        raise SmalltaleError(wrong)
    return name


def difference(backends: list[str]) -> str:
    """What is wrong with the ranks' backends, or ""."""
    for rank, each in enumerate(backends):
        if each != backends[0]:
            without = rank if "nccl" in backends[0] else 0
            return (
                f"rank {without} sees no GPU and rank {rank - without} does; start ranks only where there are GPUs, "
                "or hide them from all with CUDA_VISIBLE_DEVICES="
            )
    return ""
