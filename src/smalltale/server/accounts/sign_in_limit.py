"""Limits failed sign-ins per address, and per handle from one address, over all processes that serve one database.

The library `limits` counts; it has storages for memory, Redis, Memcached and MongoDB, and `DatabaseStorage` adds one for a table
of the server's own database.
Note: a window is fixed and begins with its first failure, so 10 minutes around its end can have twice the allowed failures.
A moving window would need a row per failure instead of a row per key.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter
from sqlalchemy import delete, func, select
from sqlalchemy.exc import SQLAlchemyError

from smalltale.server.database.models import RateLimitCounter
from smalltale.server.database.session import Database, insert_for
from smalltale.server.errors import RequestProblem

WINDOW_MINUTES = 10
FAILURES_PER_HANDLE = 10
"""Per window, for one handle from one address."""
FAILURES_PER_ADDRESS = 50
"""Per window, for all handles from one address; a classroom may share an address."""


class DatabaseStorage(Storage):
    """Stores the counters of `limits` as rows, one upsert per count. Windows end by the database's clock."""

    STORAGE_SCHEME = None

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database

    @property
    def base_exceptions(self) -> type[Exception]:
        return SQLAlchemyError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        now = self.database.now()
        with self.database.write() as session:
            session.execute(delete(RateLimitCounter).where(RateLimitCounter.expires <= now))
            row = {"key": hash_key(key), "count": amount, "expires": now + timedelta(seconds=expiry)}
            upsert = (
                insert_for(session, RateLimitCounter)
                .values(row)
                .on_conflict_do_update(
                    index_elements=["key"], set_={"count": RateLimitCounter.count + amount}
                )
                .returning(RateLimitCounter.count)
            )
            return int(session.execute(upsert).scalar_one())

    def find(self, key: str) -> RateLimitCounter | None:
        """The counter of a key while its window lasts."""
        with self.database.read() as session:
            counter = session.get(RateLimitCounter, hash_key(key))
        return counter if counter is not None and counter.expires > self.database.now() else None

    def get(self, key: str) -> int:
        counter = self.find(key)
        return counter.count if counter else 0

    def get_expiry(self, key: str) -> float:
        counter = self.find(key)
        return (counter.expires if counter else self.database.now()).timestamp()

    def check(self) -> bool:
        with self.database.read() as session:
            return session.scalar(select(func.count()).select_from(RateLimitCounter)) is not None

    def reset(self) -> int:
        with self.database.write() as session:
            return len(session.scalars(delete(RateLimitCounter).returning(RateLimitCounter.key)).all())

    def clear(self, key: str) -> None:
        with self.database.write() as session:
            session.execute(delete(RateLimitCounter).where(RateLimitCounter.key == hash_key(key)))


def hash_key(key: str) -> str:
    """The stored form of a key. Keys contain addresses and typed handles; a hash keeps both out of backups."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


class SignInLimit:
    """Refuses sign-ins after too many failures. Successful sign-ins do not count."""

    def __init__(self, database: Database) -> None:
        self.database, self.limiter = database, FixedWindowRateLimiter(DatabaseStorage(database))
        self.per_address = RateLimitItemPerMinute(FAILURES_PER_ADDRESS, WINDOW_MINUTES, "address")
        self.per_handle = RateLimitItemPerMinute(FAILURES_PER_HANDLE, WINDOW_MINUTES, "handle")

    def limits_for(self, address: str, handle: str) -> list[tuple[RateLimitItem, tuple[str, ...]]]:
        return [(self.per_address, (address,)), (self.per_handle, (address, handle.strip().lower()[:40]))]

    def check(self, address: str, handle: str) -> None:
        """Raise RequestProblem 429 after too many failures."""
        for limit, identifiers in self.limits_for(address, handle):
            if not self.limiter.test(limit, *identifiers):
                window_end = self.limiter.get_window_stats(limit, *identifiers).reset_time
                seconds = max(1, round(window_end - self.database.now().timestamp()))
                raise RequestProblem(429, f"too many failed sign-ins; wait {seconds} seconds")

    def record_failure(self, address: str, handle: str) -> None:
        for limit, identifiers in self.limits_for(address, handle):
            self.limiter.hit(limit, *identifiers)
