"""Submissions with their files, completions, models and appeals, and the audit log.

Note: the unique key (team, slot) enforces the daily limit.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from smalltale.server.database.models.base import Base, BigKey


class Submission(Base):
    """A validated submission. `slot` is the part of the team's limit that it uses; None if it uses none."""

    __tablename__ = "hand_in"
    __table_args__ = (
        UniqueConstraint("team_id", "slot"),
        Index("hand_in_by_edition", "edition_id", "received"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    edition_id: Mapped[int] = mapped_column(ForeignKey("edition.id"))
    team_id: Mapped[int] = mapped_column(ForeignKey("team.id"), index=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"))
    prompt_set_id: Mapped[int] = mapped_column(ForeignKey("prompt_set.id"))
    kind: Mapped[str] = mapped_column(String(16))
    slot: Mapped[str | None] = mapped_column(String(20))
    received: Mapped[datetime]
    sha256: Mapped[str] = mapped_column(String(64))
    weight_class: Mapped[str] = mapped_column(String(20))
    counted_parameters: Mapped[int]
    verified_parameters: Mapped[int | None]
    model_hash: Mapped[str] = mapped_column(String(64))
    declaration: Mapped[dict[str, Any]]
    warnings: Mapped[list[str]]
    state: Mapped[str] = mapped_column(String(12), default="queued")
    """queued, judging, judged, failed; a failed submission frees its slot."""
    reason: Mapped[str | None] = mapped_column(Text)
    disqualified: Mapped[str | None] = mapped_column(Text)


class CompletionRow(Base):
    """One story of a submission."""

    __tablename__ = "completion"
    __table_args__ = (UniqueConstraint("hand_in_id", "prompt_id", "sample"),)
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    submission_id: Mapped[int] = mapped_column("hand_in_id", ForeignKey("hand_in.id"))
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompt.id"))
    sample: Mapped[int]
    text: Mapped[str] = mapped_column(Text)


class SubmissionFile(Base):
    """The submitted file, unchanged, for the record."""

    __tablename__ = "upload"
    submission_id: Mapped[int] = mapped_column("hand_in_id", ForeignKey("hand_in.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(120))
    content: Mapped[bytes] = mapped_column(LargeBinary)


class Verification(Base):
    """The verification of a submission's model against its declaration."""

    __tablename__ = "verification"
    submission_id: Mapped[int] = mapped_column("hand_in_id", ForeignKey("hand_in.id"), primary_key=True)
    state: Mapped[str] = mapped_column(String(12))
    """asked (an organiser wants the model), waiting (the model is uploaded), verified, contradicted, unproven."""
    asked_by: Mapped[str | None] = mapped_column(String(40))
    upload: Mapped[str | None] = mapped_column(String(32))
    """Identifies the chunks of the model that was uploaded last."""
    files: Mapped[dict[str, Any]]
    """Size and SHA-256 of each uploaded file, by file name."""
    changed: Mapped[datetime]
    counted: Mapped[int | None] = mapped_column(BigInteger)
    reasons: Mapped[list[str]]
    stories: Mapped[dict[str, Any]]
    """The JSON of `smalltale provenance`; empty if the stories were not checked."""


class ModelChunk(Base):
    """A few megabytes of a model's file; deleted when the model is verified and its stories are plausible."""

    __tablename__ = "model_piece"
    upload: Mapped[str] = mapped_column(String(32), primary_key=True)
    file: Mapped[str] = mapped_column(String(60), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    submission_id: Mapped[int] = mapped_column("hand_in_id", ForeignKey("hand_in.id"), index=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class Appeal(Base):
    """A team's request that the organisers review a submission."""

    __tablename__ = "appeal"
    id: Mapped[int] = mapped_column(primary_key=True)
    submission_id: Mapped[int] = mapped_column("hand_in_id", ForeignKey("hand_in.id"), unique=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"))
    created: Mapped[datetime] = mapped_column("made")
    text: Mapped[str] = mapped_column(Text)
    answer: Mapped[str | None] = mapped_column(Text)
    answered: Mapped[datetime | None]


class Audit(Base):
    """Who did what. Each row's hash covers the row before; triggers refuse changes and deletions."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(40))
    action: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(120))
    detail: Mapped[dict[str, Any]]
    hash: Mapped[str] = mapped_column(String(64))
