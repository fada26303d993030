"""How ranks find each other, also after one of them died and all were started again.

In: the environment torchrun sets. Out: torch's process group.
Beware: torchrun (2.13) starts a run's ranks again on the store they had before, which still tells where the dead ones
listened; who reads that too early is refused. So the ranks first agree in the store on who is alive, and
then meet under a name that no earlier start has used.
"""

from __future__ import annotations

import json
import time
import uuid
from datetime import timedelta

from torch import distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

MEETING = timedelta(minutes=2)
"""How long ranks wait for each other at the start."""
LOOK_AGAIN = timedelta(seconds=0.5)


def meet(backend: str, patience: timedelta) -> None:
    """Start torch's process group of all ranks. Raises RuntimeError (dist.DistError) or ValueError where one is missing.

    patience: how long a rank waits for another one later on.
    """
    store, rank, size = next(rendezvous("env://", timeout=MEETING))
    name = lead(store, size) if rank == 0 else follow(store, rank)
    fresh = PrefixStore(name, store)
    dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, timeout=patience)


def lead(store: Store, size: int) -> str:
    """Name this start, and say who takes part until all have answered. Returns the name."""
    name, until = uuid.uuid4().hex, time.monotonic() + MEETING.total_seconds()
    others = range(1, size)
    while True:
        came = {rank: store.get(f"came/{rank}").decode() for rank in others}
        store.set("roll", json.dumps({"name": name, "came": came}))
        try:
            store.wait([f"{name}/answer/{rank}" for rank in others], LOOK_AGAIN)
            return name
        except dist.DistStoreError:
            if time.monotonic() > until:
                raise


def follow(store: Store, rank: int) -> str:
    """Come, and answer the first roll that has this very process on it. Returns the start's name."""
    mine, until = uuid.uuid4().hex, time.monotonic() + MEETING.total_seconds()
    store.set(f"came/{rank}", mine)
    while True:
        roll = json.loads(store.get("roll"))
        if roll["came"].get(str(rank)) == mine:
            name: str = roll["name"]
            store.set(f"{name}/answer/{rank}", "here")
            return name
        if time.monotonic() > until:
            raise dist.DistStoreError(f"rank 0 did not come within {MEETING.total_seconds():.0f} s")
        time.sleep(LOOK_AGAIN.total_seconds() / 5)
