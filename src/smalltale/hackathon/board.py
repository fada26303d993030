"""The leaderboards: each team's best whole hand-in, ranked, for one class or over all.

In: Score rows. Out: a Board. It is made once for each revision of an edition and kept in memory.
Beware: the private side is shown to organisers only, until the edition is over.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
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
    # The heavy column (a mean for every prompt) is read for the chosen hand-ins only.
    light = query.with_only_columns(
        Score.hand_in_id, HandIn.team_id, Score.mean, Score.judged, Score.expected, Score.qualified
    )
    best: dict[int, tuple[tuple[bool, bool, float], int]] = {}
    counts: dict[int, int] = {}
    for hand_in_id, team_id, mean, judged, expected, qualified in session.execute(light):
        counts[team_id] = counts.get(team_id, 0) + 1
        worth = (bool(qualified), judged >= expected > 0, mean if mean is not None else -1.0)
        if team_id not in best or worth > best[team_id][0]:
            best[team_id] = (worth, hand_in_id)
    chosen = [hand_in_id for _, hand_in_id in best.values()]
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
    """Leaderboards kept in memory: at most one thread makes a board, the others are given the last one."""

    STALE_SECONDS = 2.0
    """With a hand-in judged every second, a board is made anew at most this often; it is never older than this and the making."""
    MOST = 200

    def __init__(self, store: Store) -> None:
        self.store = store
        self.kept: OrderedDict[tuple[object, ...], tuple[float, Board]] = OrderedDict()
        self.lock = threading.Lock()
        self.making: dict[tuple[object, ...], threading.Lock] = {}

    def get(
        self, edition: Edition, *, kind: str = "daily", side: str = "public", weight_class: str | None = None
    ) -> Board:
        """The board of the edition's revision, or one at most STALE_SECONDS older."""
        key = (edition.id, edition.panel, kind, side, weight_class)
        with self.lock:
            kept = self.kept.get(key)
            making = self.making.setdefault(key, threading.Lock())
        if kept and (kept[1].revision == edition.revision or time.monotonic() - kept[0] < self.STALE_SECONDS):
            return kept[1]
        if kept and making.locked():
            return kept[1]
        with making:
            with self.lock:
                again = self.kept.get(key)
            if again and again is not kept:
                return again[1]
            with self.store.read() as session:
                fresh = session.get_one(Edition, edition.id)
                board = make_board(session, fresh, kind=kind, side=side, weight_class=weight_class)
            with self.lock:
                self.kept[key] = (time.monotonic(), board)
                while len(self.kept) > self.MOST:
                    self.kept.popitem(last=False)
            return board
