"""Work that waits, the workers that do it, what judges said and what it sums up to.

In: nothing. Out: mapped classes.
Beware: the keys keep the same work from being queued twice, and a story from being judged twice into a score.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from smalltale.server.database.models.base import Base, BigKey


class Job(Base):
    """Durable work, one a key. A worker holds it by a lease that it renews; a lease run out is anyone's to take."""

    __tablename__ = "job"
    __table_args__ = (Index("job_waiting", "state", "run_after"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(120), unique=True)
    """kind:hand-in:panel, so that the same work is never queued twice."""
    kind: Mapped[str] = mapped_column(String(20))
    """judge or verify."""
    submission_id: Mapped[int] = mapped_column("hand_in_id", ForeignKey("hand_in.id"), index=True)
    panel: Mapped[str] = mapped_column(String(64))
    """Who judges; for kind verify the upload that is looked at."""
    state: Mapped[str] = mapped_column(String(10), default="waiting")
    """waiting, running, done, failed."""
    run_after: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None] = mapped_column(String(80))
    lease_ends: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)


class Worker(Base):
    """A worker's heartbeat."""

    __tablename__ = "worker"
    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    seen: Mapped[datetime]
    doing: Mapped[str | None] = mapped_column(String(120))


class JudgementRow(Base):
    """What one judge of one panel said of one story: the key keeps a story from being judged twice into a score."""

    __tablename__ = "judgement"
    completion_id: Mapped[int] = mapped_column(BigKey, ForeignKey("completion.id"), primary_key=True)
    panel: Mapped[str] = mapped_column(String(64), primary_key=True)
    judge: Mapped[str] = mapped_column(String(120), primary_key=True)
    submission_id: Mapped[int] = mapped_column("hand_in_id", ForeignKey("hand_in.id"), index=True)
    state: Mapped[str] = mapped_column(String(10))
    overall: Mapped[float | None]
    calibrated: Mapped[float | None]
    """The overall score on the panel's common scale; None for a judge alone or a panel not wholly calibrated."""
    weight: Mapped[float | None]
    """The judge's share in that panel's mean."""
    scores: Mapped[dict[str, Any]]
    age: Mapped[str | None] = mapped_column(String(8))
    words: Mapped[str] = mapped_column(Text, default="")

    @property
    def ranking_score(self) -> float | None:
        """The overall score as it counts: on the panel's common scale where there is one."""
        return self.overall if self.calibrated is None else self.calibrated

    @property
    def effective_weight(self) -> float:
        """What it weighs beside the other judges' scores."""
        return 1.0 if self.weight is None else self.weight


class Score(Base):
    """A hand-in summed up for one side of the prompts: public, private or all."""

    __tablename__ = "score"
    submission_id: Mapped[int] = mapped_column("hand_in_id", ForeignKey("hand_in.id"), primary_key=True)
    panel: Mapped[str] = mapped_column(String(64), primary_key=True)
    side: Mapped[str] = mapped_column(String(8), primary_key=True)
    mean: Mapped[float | None]
    low: Mapped[float | None]
    high: Mapped[float | None]
    criteria: Mapped[dict[str, Any]]
    prompt_means: Mapped[dict[str, Any]]
    judged: Mapped[int]
    expected: Mapped[int]
    disagreement: Mapped[float | None]
    qualified: Mapped[bool]
