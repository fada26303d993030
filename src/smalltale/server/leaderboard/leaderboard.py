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
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from smalltale.ranking.standings import Entry, Standing, rank, separated
from smalltale.server.database.models import Edition, HandIn, Score, Team
from smalltale.server.database.session import Store


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
    drawn: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """Parts of pages made from it, kept as long as the board."""


class Memory:
    """What one making of a board leaves for the next: entries whose scores have not changed, and which were told apart."""

    MOST = 50_000

    def __init__(self) -> None:
        self.entries: dict[tuple[Any, ...], Entry] = {}
        self.pairs: dict[tuple[int, int], tuple[Entry, Entry, bool]] = {}

    def apart(self, better: Entry, worse: Entry) -> bool:
        """`separated`, asked once for a pair."""
        key = (id(better), id(worse))
        if key not in self.pairs:
            # The pair is kept beside the answer, so that no other entry can get its id.
            self.pairs[key] = (better, worse, separated(better, worse))
        return self.pairs[key][2]

    def forget(self) -> None:
        """Keep within bounds."""
        if len(self.entries) > self.MOST or len(self.pairs) > self.MOST:
            self.entries.clear()
            self.pairs.clear()


def make_board(
    session: Session,
    edition: Edition,
    *,
    kind: str,
    side: str,
    weight_class: str | None,
    panel: str | None = None,
) -> Board:
    """Rank each team's best whole hand-in of this kind, in one class or over all."""
    boards = make_boards(session, edition, kind=kind, side=side, panel=panel)
    empty = Board(
        revision=edition.revision, kind=kind, side=side, weight_class=weight_class, lines=[], criteria=[]
    )
    return boards.get(weight_class, empty)


def make_boards(
    session: Session,
    edition: Edition,
    *,
    kind: str,
    side: str,
    panel: str | None = None,
    memory: Memory | None = None,
) -> dict[str | None, Board]:
    """The board of every class that has an entry, and the one over all (None), from one look at the database."""
    memory = memory or Memory()
    rows = best_rows(session, edition, kind=kind, side=side, panel=panel or edition.panel)
    recall(session, rows, side, panel or edition.panel, memory)
    classes: dict[str | None, list[Line]] = {None: []}
    best: dict[int, Line] = {}
    totals: dict[int, int] = {}
    for line in (line_of(row, memory.entries[entry_key(row)]) for row in rows):
        classes.setdefault(line.weight_class, []).append(line)
        totals[line.team_id] = totals.get(line.team_id, 0) + line.hand_ins
        if line.team_id not in best or worth(line) > worth(best[line.team_id]):
            best[line.team_id] = line
    classes[None] = [replace(line, hand_ins=totals[line.team_id]) for line in best.values()]
    made = {}
    for name, lines in classes.items():
        by_entry = {id(line.standing.entry): line for line in lines}
        ranked = rank([line.standing.entry for line in lines], memory.apart)
        placed = [replace(by_entry[id(standing.entry)], standing=standing) for standing in ranked]
        criteria = list(dict.fromkeys(each for line in placed for each in line.standing.entry.criteria))
        made[name] = Board(
            revision=edition.revision,
            kind=kind,
            side=side,
            weight_class=name,
            lines=placed,
            criteria=criteria,
        )
    memory.forget()
    return made


def worth(line: Line) -> tuple[bool, bool, float, int]:
    """By which a team's best hand-in is chosen; the earlier of equal ones."""
    entry = line.standing.entry
    return entry.qualified, entry.whole, entry.mean if entry.mean is not None else -1.0, -line.hand_in_id


def best_rows(session: Session, edition: Edition, *, kind: str, side: str, panel: str) -> list[Any]:
    """Each team's best hand-in in each class: with how many it handed in there.

    The database picks; the heavy column (a mean for every prompt) is read for the picked alone.
    """
    whole = (Score.judged >= Score.expected) & (Score.expected > 0)
    best_first = (
        Score.qualified.desc(),
        case((whole, 1), else_=0).desc(),
        func.coalesce(Score.mean, -1).desc(),
        HandIn.id,
    )
    group = (HandIn.team_id, HandIn.weight_class)
    ordered = (
        select(
            HandIn.id,
            func.row_number().over(partition_by=group, order_by=best_first).label("place"),
            func.count().over(partition_by=group).label("hand_ins"),
        )
        .join(Score, Score.hand_in_id == HandIn.id)
        .join(Team, Team.id == HandIn.team_id)
        .where(
            HandIn.edition_id == edition.id,
            HandIn.kind == kind,
            Score.side == side,
            Score.panel == panel,
            HandIn.disqualified.is_(None),
            Team.disqualified.is_(None),
        )
        .subquery()
    )
    return list(
        session.execute(
            select(
                HandIn.id,
                HandIn.team_id,
                HandIn.weight_class,
                HandIn.counted_parameters,
                HandIn.verified_parameters,
                HandIn.received,
                Team.name,
                Team.hardware,
                Team.confirmed,
                Score.mean,
                Score.judged,
                Score.qualified,
                ordered.c.hand_ins,
            )
            .join(HandIn, HandIn.id == ordered.c.id)
            .join(Team, Team.id == HandIn.team_id)
            .join(Score, (Score.hand_in_id == HandIn.id) & (Score.side == side) & (Score.panel == panel))
            .where(ordered.c.place == 1)
        )
    )


def entry_key(row: Any) -> tuple[Any, ...]:
    """By which an entry is known again: anything that would change it changes the key."""
    return (
        row.id,
        row.name,
        row.mean,
        row.judged,
        row.qualified,
        row.weight_class,
        row.counted_parameters,
        row.verified_parameters,
    )


def recall(session: Session, rows: list[Any], side: str, panel: str, memory: Memory) -> None:
    """Read the entries that are not in memory yet."""
    missing = {row.id: row for row in rows if entry_key(row) not in memory.entries}
    numbers = list(missing)
    for start in range(0, len(numbers), 500):
        found = select(Score).where(
            Score.hand_in_id.in_(numbers[start : start + 500]), Score.side == side, Score.panel == panel
        )
        for score in session.scalars(found):
            row = missing[score.hand_in_id]
            memory.entries[entry_key(row)] = entry_of(score, row)


def entry_of(score: Score, row: Any) -> Entry:
    """A Score row as the standings' Entry."""
    return Entry(
        name=row.name,
        mean=score.mean,
        low=score.low,
        high=score.high,
        criteria=score.criteria,
        prompt_means=score.prompt_means,
        judged=score.judged,
        expected=score.expected,
        disagreement=score.disagreement,
        qualified=score.qualified,
        weight_class=row.weight_class,
        counted_parameters=row.verified_parameters or row.counted_parameters,
        verified=row.verified_parameters is not None,
    )


def line_of(row: Any, entry: Entry) -> Line:
    """A row of `best_rows` as a line without a place yet."""
    return Line(
        standing=Standing(entry=entry, rank=None, tied=False),
        hand_in_id=row.id,
        team_id=row.team_id,
        team=row.name,
        hardware=row.hardware,
        weight_class=row.weight_class,
        confirmed=row.confirmed,
        counted_parameters=row.verified_parameters or row.counted_parameters,
        verified=row.verified_parameters is not None,
        received=row.received,
        hand_ins=row.hand_ins,
    )


class Boards:
    """Leaderboards kept in memory. While one is made anew, visitors are given the last one, if it is not too old."""

    FRESH_SECONDS = 2.0
    """With a hand-in judged every second, a board is made anew at most this often."""
    OLDEST_SECONDS = 2.5
    """An outdated board older than this is shown to nobody; it is made anew while the visitor waits."""
    MOST = 200

    def __init__(self, store: Store) -> None:
        self.store = store
        self.kept: OrderedDict[tuple[Any, ...], tuple[float, dict[str | None, Board]]] = OrderedDict()
        self.lock = threading.Lock()
        self.making: dict[tuple[Any, ...], threading.Lock] = {}
        self.memories: dict[tuple[Any, ...], Memory] = {}
        self.behind = ThreadPoolExecutor(max_workers=1, thread_name_prefix="boards")

    def get(
        self, edition: Edition, *, kind: str = "daily", side: str = "public", weight_class: str | None = None
    ) -> Board:
        """The board of the edition's revision, or one at most OLDEST_SECONDS older."""
        key = (edition.id, edition.panel, kind, side)
        with self.lock:
            kept = self.kept.get(key)
            making = self.making.setdefault(key, threading.Lock())
        age = time.monotonic() - kept[0] if kept else math.inf
        if kept and (kept[1][None].revision == edition.revision or age < self.FRESH_SECONDS):
            return self.one(kept[1], weight_class)
        if kept and age < self.OLDEST_SECONDS:
            if making.acquire(blocking=False):
                self.behind.submit(self.make_and_release, key, making)
            return self.one(kept[1], weight_class)
        with making:
            with self.lock:
                again = self.kept.get(key)
            return self.one(again[1] if again and again is not kept else self.make(key), weight_class)

    def one(self, boards: dict[str | None, Board], weight_class: str | None) -> Board:
        """One board of those made together; a class nobody has entered has an empty one."""
        overall = boards[None]
        return boards.get(weight_class) or replace(
            overall, weight_class=weight_class, lines=[], criteria=[], drawn={}
        )

    def make_and_release(self, key: tuple[Any, ...], making: threading.Lock) -> None:
        """Make a board in the background; `making` is held by whoever asked."""
        try:
            self.make(key)
        finally:
            making.release()

    def make(self, key: tuple[Any, ...]) -> dict[str | None, Board]:
        """Make the boards of a kind and side, and keep them."""
        began = time.monotonic()
        edition_id, panel, kind, side = key
        # Only the holder of this board's lock is here, so its memory needs none of its own.
        memory = self.memories.setdefault(key, Memory())
        with self.store.read() as session:
            edition = session.get_one(Edition, edition_id)
            boards = make_boards(session, edition, kind=kind, side=side, panel=panel, memory=memory)
        with self.lock:
            self.kept[key] = (began, boards)
            while len(self.kept) > self.MOST:
                self.kept.popitem(last=False)
        return boards
