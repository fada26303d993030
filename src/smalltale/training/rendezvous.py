"""Rendezvous of the ranks that torchrun starts, also after one of them died and all were started again.

Input: torchrun's environment variables. Output: torch's process group.
Note: torchrun (2.13) restarts the ranks of a run on the same store, which still has the addresses of the dead ranks; a
rank that reads them too early is refused a connection. So the ranks first agree through the store on which processes
are alive and which backend they use, and then connect under a key prefix that no earlier start has used.
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

RENDEZVOUS_TIMEOUT = timedelta(minutes=2)
"""How long ranks wait for each other at the start."""
POLL_INTERVAL = timedelta(seconds=0.5)


def join_process_group(backend: str, collective_timeout: timedelta) -> None:
    """Start torch's process group of all ranks.

    Raises RuntimeError (dist.DistError) or ValueError when a rank is missing, SmalltaleError when backends differ.
    collective_timeout: how long a rank waits in a later collective operation.
    """
    store, rank, size = next(rendezvous("env://", timeout=RENDEZVOUS_TIMEOUT))
    prefix = host_rendezvous(store, size, backend) if rank == 0 else join_rendezvous(store, rank, backend)
    store = PrefixStore(prefix, store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=collective_timeout)


def host_rendezvous(store: Store, world_size: int, backend: str) -> str:
    """Rank 0: publish the list of processes until all of them have confirmed it. Returns the key prefix of this start."""
    prefix, deadline = uuid.uuid4().hex, time.monotonic() + RENDEZVOUS_TIMEOUT.total_seconds()
    ranks = range(1, world_size)
    confirmations = [f"{prefix}/backend/{rank}" for rank in ranks]
    while True:
        processes = {rank: store.get(f"process/{rank}").decode() for rank in ranks}
        store.set("members", json.dumps({"prefix": prefix, "processes": processes}))
        try:
            store.wait(confirmations, POLL_INTERVAL)
            break
        except dist.DistStoreError:
            if time.monotonic() > deadline:
                raise
    problem = find_backend_mismatch([backend, *(store.get(key).decode() for key in confirmations)])
    store.set(f"{prefix}/problem", problem)
    if problem:
        raise SmalltaleError(problem)
    return prefix


def join_rendezvous(store: Store, rank: int, backend: str) -> str:
    """Other ranks: register, and confirm the first list that contains this process. Returns the key prefix of this start."""
    process, deadline = uuid.uuid4().hex, time.monotonic() + RENDEZVOUS_TIMEOUT.total_seconds()
    store.set(f"process/{rank}", process)
    while True:
        members = json.loads(store.get("members"))
        if members["processes"].get(str(rank)) == process:
            break
        if time.monotonic() > deadline:
            raise dist.DistStoreError(f"rank 0 did not register within {RENDEZVOUS_TIMEOUT}")
        time.sleep(POLL_INTERVAL.total_seconds() / 5)
    prefix: str = members["prefix"]
    store.set(f"{prefix}/backend/{rank}", backend)
    problem = store.get(f"{prefix}/problem").decode()
    if problem:
        raise SmalltaleError(problem)
    return prefix


def find_backend_mismatch(backends: list[str]) -> str:
    """The error message for ranks with different backends, or ""."""
    for rank, backend in enumerate(backends):
        if backend != backends[0]:
            without_gpu = rank if "nccl" in backends[0] else 0
            return (
                f"rank {without_gpu} sees no GPU and rank {rank - without_gpu} does; start ranks only on GPUs, "
                "or hide the GPUs from all ranks with CUDA_VISIBLE_DEVICES="
            )
    return ""
