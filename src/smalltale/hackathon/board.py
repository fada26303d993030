"""The leaderboards: each team's best whole hand-in, ranked, for one class or over all.

In: Score rows. Out: a Board. It is made once for each revision of an edition and kept in memory.
Beware: the private side is shown to organisers only, until the edition is over.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from smalltale.hackathon.standings import Entry, Standing, rank
from smalltale.hackathon.store import Store
from smalltale.hackathon.tables import Edition, HandIn, Score, Team


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a leaderboard."""

    standing: Standing
    hand_in_id: int
    team_id: int
    team: str
    hardware: str
    weight_class: str
    confirmed: bool
    counted_parameters: int
    verified: bool
    received: datetime
    hand_ins: int


@dataclass(frozen=True, kw_only=True)
class Board:
    """A leaderboard at one revision."""

    revision: int
    kind: str
    side: str
    weight_class: str | None
    lines: list[Line]
    criteria: list[str]


def make_board(
    session: Session,
    edition: Edition,
    *,
    kind: str,
    side: str,
    weight_class: str | None,
    panel: str | None = None,
) -> Board:
    """Rank each team's best whole hand-in of this kind."""
    query = (
        select(
            Score,
            HandIn.id,
            HandIn.team_id,
            HandIn.weight_class,
            HandIn.counted_parameters,
            HandIn.verified_parameters,
            HandIn.received,
            Team,
        )
        .join(HandIn, HandIn.id == Score.hand_in_id)
        .join(Team, Team.id == HandIn.team_id)
        .where(
            HandIn.edition_id == edition.id,
            HandIn.kind == kind,
            Score.side == side,
            Score.panel == (panel or edition.panel),
            HandIn.disqualified.is_(None),
            Team.disqualified.is_(None),
        )
    )
    if weight_class is not None:
        query = query.where(HandIn.weight_class == weight_class)
    # The database picks each team's best; the heavy column (a mean for every prompt) is read for those alone.
    whole = (Score.judged >= Score.expected) & (Score.expected > 0)
    best_first = (
        Score.qualified.desc(),
        case((whole, 1), else_=0).desc(),
        func.coalesce(Score.mean, -1).desc(),
        HandIn.id,
    )
    ordered = query.with_only_columns(
        Score.hand_in_id,
        HandIn.team_id,
        func.row_number().over(partition_by=HandIn.team_id, order_by=best_first).label("place"),
        func.count().over(partition_by=HandIn.team_id).label("count"),
    ).subquery()
    picked = session.execute(
        select(ordered.c.hand_in_id, ordered.c.team_id, ordered.c["count"]).where(ordered.c.place == 1)
    ).all()
    counts = {row[1]: row[2] for row in picked}
    chosen = [row[0] for row in picked]
    found: dict[str, tuple[Entry, Line]] = {}
    for start in range(0, len(chosen), 500):
        for row in session.execute(query.where(HandIn.id.in_(chosen[start : start + 500]))):
            entry = entry_of(row[0], row[7].name, row[3], row[5] or row[4], row[5] is not None)
            found[str(row[1])] = (
                entry,
                Line(
                    standing=Standing(entry=entry, rank=None, tied=False),
                    hand_in_id=row[1],
                    team_id=row[2],
                    team=row[7].name,
                    hardware=row[7].hardware,
                    weight_class=row[3],
                    confirmed=row[7].confirmed,
                    counted_parameters=row[5] or row[4],
                    verified=row[5] is not None,
                    received=row[6],
                    hand_ins=counts[row[2]],
                ),
            )
    by_entry = {id(entry): line for entry, line in found.values()}
    lines = []
    for standing in rank([entry for entry, _ in found.values()]):
        line = by_entry[id(standing.entry)]
        lines.append(Line(**{**vars(line), "standing": standing}))
    criteria = list(dict.fromkeys(name for line in lines for name in line.standing.entry.criteria))
    return Board(
        revision=edition.revision,
        kind=kind,
        side=side,
        weight_class=weight_class,
        lines=lines,
        criteria=criteria,
    )


def entry_of(score: Score, name: str, weight_class: str, parameters: int, verified: bool) -> Entry:
    """A Score row as the standings' Entry."""
    return Entry(
        name=name,
        mean=score.mean,
        low=score.low,
        high=score.high,
        criteria=score.criteria,
        prompt_means=score.prompt_means,
        judged=score.judged,
        expected=score.expected,
        disagreement=score.disagreement,
        qualified=score.qualified,
        weight_class=weight_class,
        counted_parameters=parameters,
        verified=verified,
    )


class Boards:
    """Leaderboards kept in memory. While one is made anew, visitors are given the last one, if it is not too old."""

    FRESH_SECONDS = 1.5
    """With a hand-in judged every second, a board is made anew at most this often."""
    OLDEST_SECONDS = 4.0
    """An outdated board older than this is shown to nobody; it is made anew while the visitor waits."""
    MOST = 200

    def __init__(self, store: Store) -> None:
        self.store = store
        self.kept: OrderedDict[tuple[Any, ...], tuple[float, Board]] = OrderedDict()
        self.lock = threading.Lock()
        self.making: dict[tuple[Any, ...], threading.Lock] = {}
        self.behind = ThreadPoolExecutor(max_workers=1, thread_name_prefix="boards")

    def get(
        self, edition: Edition, *, kind: str = "daily", side: str = "public", weight_class: str | None = None
    ) -> Board:
        """The board of the edition's revision, or one at most OLDEST_SECONDS older."""
        key = (edition.id, edition.panel, kind, side, weight_class)
        with self.lock:
            kept = self.kept.get(key)
            making = self.making.setdefault(key, threading.Lock())
        age = time.monotonic() - kept[0] if kept else math.inf
        if kept and (kept[1].revision == edition.revision or age < self.FRESH_SECONDS):
            return kept[1]
        if kept and age < self.OLDEST_SECONDS:
            if making.acquire(blocking=False):
                self.behind.submit(self.make_and_release, key, making)
            return kept[1]
        with making:
            with self.lock:
                again = self.kept.get(key)
            if again and again is not kept:
                return again[1]
            return self.make(key)

    def make_and_release(self, key: tuple[Any, ...], making: threading.Lock) -> None:
        """Make a board in the background; `making` is held by whoever asked."""
        try:
            self.make(key)
        finally:
            making.release()

    def make(self, key: tuple[Any, ...]) -> Board:
        """Make a board and keep it."""
        began = time.monotonic()
        edition_id, panel, kind, side, weight_class = key
        with self.store.read() as session:
            edition = session.get_one(Edition, edition_id)
            board = make_board(session, edition, kind=kind, side=side, weight_class=weight_class, panel=panel)
        with self.lock:
            self.kept[key] = (began, board)
            while len(self.kept) > self.MOST:
                self.kept.popitem(last=False)
        return board
