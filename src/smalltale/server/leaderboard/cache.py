"""In-memory cache of leaderboards: bounded staleness, and one rebuild at a time per leaderboard (single flight).

Input: an edition and a selection. Output: a Leaderboard at most MAX_AGE_SECONDS behind the database.
Pitfall: the cache is per process; several server processes each build their own leaderboards.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from smalltale.server.database.models import Edition
from smalltale.server.database.session import Database
from smalltale.server.leaderboard.leaderboard import Leaderboard, build_leaderboards

Key = tuple[int, str, str, str]
"""Edition id, panel, kind, side."""


@dataclass(frozen=True)
class CachedLeaderboards:
    """The leaderboards of all weight classes, from one query of the database."""

    built: float
    """time.monotonic() when the query began."""
    by_class: dict[str | None, Leaderboard]


class LeaderboardCache:
    """A current leaderboard is served from memory. An outdated one (the edition's revision has moved on) is served as it is until
    FRESH_SECONDS, then while a background thread rebuilds it; past MAX_AGE_SECONDS the request waits for the rebuild."""

    FRESH_SECONDS = 2.0
    """While submissions are judged every second, a leaderboard is rebuilt at most this often."""
    MAX_AGE_SECONDS = 2.5
    MAX_ENTRIES = 200

    def __init__(self, database: Database) -> None:
        self.database = database
        self.entries: dict[Key, CachedLeaderboards] = {}
        self.entries_lock = threading.Lock()
        self.build_locks: defaultdict[Key, threading.Lock] = defaultdict(threading.Lock)
        self.executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="leaderboards")

    def get(
        self, edition: Edition, *, kind: str = "daily", side: str = "public", weight_class: str | None = None
    ) -> Leaderboard:
        """The leaderboard of one weight class, or over all classes (None)."""
        by_class = self.get_entry(edition, (edition.id, edition.panel, kind, side)).by_class
        if weight_class in by_class:
            return by_class[weight_class]
        return replace(by_class[None], weight_class=weight_class, rows=[], criteria=[], fragments={})

    def get_entry(self, edition: Edition, key: Key) -> CachedLeaderboards:
        """The cached entry, or a new one where it is too old."""
        with self.entries_lock:
            entry = self.entries.get(key)
            build_lock = self.build_locks[key]
        age = time.monotonic() - entry.built if entry else math.inf
        if entry and (entry.by_class[None].revision == edition.revision or age < self.FRESH_SECONDS):
            return entry
        if entry and age < self.MAX_AGE_SECONDS:
            if build_lock.acquire(blocking=False):
                self.executor.submit(self.build_and_release, key, build_lock)
            return entry
        with build_lock:
            # Another thread may have rebuilt the entry while this one waited for the lock.
            newer = self.entries.get(key)
            return newer if newer is not None and newer is not entry else self.build(key)

    def build_and_release(self, key: Key, build_lock: threading.Lock) -> None:
        """Rebuild in the background; the request that started it has acquired the lock."""
        try:
            self.build(key)
        finally:
            build_lock.release()

    def build(self, key: Key) -> CachedLeaderboards:
        """Build an entry and store it. The caller holds the key's build lock."""
        edition_id, panel, kind, side = key
        built = time.monotonic()
        with self.database.read() as session:
            edition = session.get_one(Edition, edition_id)
            entry = CachedLeaderboards(
                built, build_leaderboards(session, edition, kind=kind, side=side, panel=panel)
            )
        with self.entries_lock:
            self.entries.pop(key, None)  # The last built entry is the last to be dropped.
            self.entries[key] = entry
            while len(self.entries) > self.MAX_ENTRIES:
                del self.entries[next(iter(self.entries))]
        return entry
