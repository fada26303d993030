"""The job queue, its workers, the judgements and the scores.

Note: the keys prevent that the same job is queued twice, and that a judge's opinion of a story counts twice.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from smalltale.server.database.models.base import Base, BigKey


class Job(Base):
    """A durable job. A worker holds it by a lease that it renews; after the lease has expired, any worker may take it."""

    __tablename__ = "job"
    __table_args__ = (Index("job_waiting", "state", "run_after"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(120), unique=True)
    """kind:submission:panel, so that the same job is never queued twice."""
    kind: Mapped[str] = mapped_column(String(20))
    """judge or verify."""
    submission_id: Mapped[int] = mapped_column("hand_in_id", ForeignKey("hand_in.id"), index=True)
    panel: Mapped[str] = mapped_column(String(64))
    """The panel that judges; for kind verify, the upload to verify."""
    state: Mapped[str] = mapped_column(String(10), default="waiting")
    """waiting, running, done, failed."""
    run_after: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None] = mapped_column(String(80))
    lease_ends: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)


class Worker(Base):
    """The last heartbeat of a worker, and what it was doing."""

    __tablename__ = "worker"
    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    seen: Mapped[datetime]
    doing: Mapped[str | None] = mapped_column(String(120))


class JudgementRow(Base):
    """A judge's judgement of one completion, as a member of one panel."""

    __tablename__ = "judgement"
    completion_id: Mapped[int] = mapped_column(BigKey, ForeignKey("completion.id"), primary_key=True)
    panel: Mapped[str] = mapped_column(String(64), primary_key=True)
    judge: Mapped[str] = mapped_column(String(120), primary_key=True)
    submission_id: Mapped[int] = mapped_column("hand_in_id", ForeignKey("hand_in.id"), index=True)
    state: Mapped[str] = mapped_column(String(10))
    overall: Mapped[float | None]
    calibrated: Mapped[float | None]
    """The overall score on the panel's common scale; None unless every judge of the panel is calibrated."""
    weight: Mapped[float | None]
    """The judge's weight in that panel's mean."""
    scores: Mapped[dict[str, Any]]
    age: Mapped[str | None] = mapped_column(String(8))
    words: Mapped[str] = mapped_column(Text, default="")

    @property
    def ranking_score(self) -> float | None:
        """The overall score that counts for ranking: on the panel's common scale if there is one."""
        return self.overall if self.calibrated is None else self.calibrated

    @property
    def effective_weight(self) -> float:
        """The weight in the panel's mean; 1 for all judges of a panel without calibration."""
        return 1.0 if self.weight is None else self.weight


class Score(Base):
    """A submission's summary for one side of the prompts: public, private or all."""

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
