"""Editions, their prompts, and settings of the server itself. Prompts never change once they are imported."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from smalltale.server.database.models.base import Base


class Setting(Base):
    """A named value: the secret that signs forms."""

    __tablename__ = "setting"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class Edition(Base):
    """One hackathon: its rules as TOML, its judges, and a revision that increases whenever the standings may have changed."""

    __tablename__ = "edition"
    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(String(64), unique=True)
    title: Mapped[str] = mapped_column(String(200))
    toml: Mapped[str] = mapped_column(Text)
    starts: Mapped[datetime]
    ends: Mapped[datetime]
    judges: Mapped[list[str]]
    calibrations: Mapped[dict[str, Any]]
    """By judge, its calibration from its qualification (judging/panel.py); a judge without one, or below the bar, never ranks."""
    rubric: Mapped[str] = mapped_column(String(64))
    panel: Mapped[str] = mapped_column(String(64))
    """Name of the judges and the version of the rubric; a new panel does not replace the judgements of the old one."""
    panels: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """By panel name, its judges, rubric and rubric version. A panel that has judged never changes."""
    revision: Mapped[int] = mapped_column(default=0)


class PromptSet(Base):
    """Prompts for submissions of one kind: practice, daily or final. Hidden until `appears`."""

    __tablename__ = "prompt_set"
    __table_args__ = (UniqueConstraint("edition_id", "kind"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    edition_id: Mapped[int] = mapped_column(ForeignKey("edition.id"))
    kind: Mapped[str] = mapped_column(String(16))
    appears: Mapped[datetime]
    prompts: Mapped[list[Prompt]] = relationship(order_by="Prompt.position")


class Prompt(Base):
    """The beginning of a story. The public leaderboard uses the prompts with `public`, the private one the others."""

    __tablename__ = "prompt"
    __table_args__ = (UniqueConstraint("prompt_set_id", "position"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    prompt_set_id: Mapped[int] = mapped_column(ForeignKey("prompt_set.id"))
    position: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    public: Mapped[bool] = mapped_column(default=True)
