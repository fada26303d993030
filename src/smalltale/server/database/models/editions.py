"""Editions, their prompts, and the few values of the server itself.

In: nothing. Out: mapped classes.
Beware: prompts never change once hand-ins may answer them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from smalltale.server.database.models.base import Base


class Setting(Base):
    """One value a name: the secret that signs forms, the scheme's stamp."""

    __tablename__ = "setting"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class Edition(Base):
    """One hackathon: its rules as TOML, the panel that judges it, and a counter that moves when its standings may have."""

    __tablename__ = "edition"
    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(String(64), unique=True)
    title: Mapped[str] = mapped_column(String(200))
    toml: Mapped[str] = mapped_column(Text)
    starts: Mapped[datetime]
    ends: Mapped[datetime]
    judges: Mapped[list[str]]
    calibrations: Mapped[dict[str, Any]]
    """By judge, what its qualification says (judging/panel.py); a judge without one, or below the bar, never ranks."""
    rubric: Mapped[str] = mapped_column(String(64))
    panel: Mapped[str] = mapped_column(String(64))
    """Names judges and rubric version; a new panel's judgements are kept beside the old one's."""
    panels: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """By panel, whom that name means: its judges and its rubric's version. One that has judged never changes."""
    revision: Mapped[int] = mapped_column(default=0)


class PromptSet(Base):
    """Prompts that hand-ins answer: kind practice, daily or final. Nobody sees it before `appears`."""

    __tablename__ = "prompt_set"
    __table_args__ = (UniqueConstraint("edition_id", "kind"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    edition_id: Mapped[int] = mapped_column(ForeignKey("edition.id"))
    kind: Mapped[str] = mapped_column(String(16))
    appears: Mapped[datetime]
    prompts: Mapped[list[Prompt]] = relationship(order_by="Prompt.position")


class Prompt(Base):
    """One story's beginning. `public` ones make the public leaderboard, the others the private one."""

    __tablename__ = "prompt"
    __table_args__ = (UniqueConstraint("prompt_set_id", "position"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    prompt_set_id: Mapped[int] = mapped_column(ForeignKey("prompt_set.id"))
    position: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    public: Mapped[bool] = mapped_column(default=True)
