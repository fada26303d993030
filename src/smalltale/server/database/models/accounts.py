"""People, their sessions and API tokens, invitations, and teams."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from smalltale.server.database.models.base import Base


class Person(Base):
    """A person who can sign in by password or through a provider."""

    __tablename__ = "person"
    __table_args__ = (UniqueConstraint("provider", "provider_id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    handle: Mapped[str] = mapped_column(String(40), unique=True)
    password: Mapped[str | None] = mapped_column(String(200))
    """The hash; None for a person who signs in through a provider."""
    provider: Mapped[str | None] = mapped_column(String(20))
    provider_id: Mapped[str | None] = mapped_column(String(80))
    admin: Mapped[bool] = mapped_column(default=False)
    disabled: Mapped[bool] = mapped_column(default=False)
    joined: Mapped[datetime]


class AccountInvitation(Base):
    """A code that creates one local account; only its hash is stored."""

    __tablename__ = "account_invitation"
    id: Mapped[int] = mapped_column(primary_key=True)
    code_hash: Mapped[str] = mapped_column(String(64), unique=True)
    admin: Mapped[bool] = mapped_column(default=False)
    expires: Mapped[datetime]
    used_by: Mapped[int | None] = mapped_column(ForeignKey("person.id"))


class BrowserSession(Base):
    """A session of a browser; only the hash of its cookie is stored."""

    __tablename__ = "sign_in"
    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    expires: Mapped[datetime]


class ApiToken(Base):
    """A key for the API; only its hash is stored."""

    __tablename__ = "api_token"
    id: Mapped[int] = mapped_column(primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    name: Mapped[str] = mapped_column(String(60))
    scopes: Mapped[list[str]]
    created: Mapped[datetime] = mapped_column("made")
    last_used: Mapped[datetime | None]
    revoked: Mapped[datetime | None]


class RateLimitCounter(Base):
    """Events under a hashed key in one window of time: failed sign-ins, see accounts/sign_in_limit.py."""

    __tablename__ = "rate_limit"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    count: Mapped[int]
    expires: Mapped[datetime] = mapped_column(index=True)


class Team(Base):
    """One or two people in one edition, with the hardware that determines their weight class."""

    __tablename__ = "team"
    __table_args__ = (UniqueConstraint("edition_id", "name_key"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    edition_id: Mapped[int] = mapped_column(ForeignKey("edition.id"))
    name: Mapped[str] = mapped_column(String(60))
    name_key: Mapped[str] = mapped_column(String(80))
    """The name without case and accents, so that similar names collide."""
    hardware: Mapped[str] = mapped_column(String(200))
    weight_class: Mapped[str] = mapped_column(String(20))
    confirmed: Mapped[bool] = mapped_column(default=False)
    """Whether an organiser has confirmed the weight class."""
    declared: Mapped[datetime]
    disqualified: Mapped[str | None] = mapped_column(Text)


class TeamMember(Base):
    """Membership of a team. The primary key allows one team per person and edition, the unique seat limits the team."""

    __tablename__ = "member"
    __table_args__ = (UniqueConstraint("team_id", "seat"),)
    edition_id: Mapped[int] = mapped_column(ForeignKey("edition.id"), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    team_id: Mapped[int] = mapped_column(ForeignKey("team.id"))
    seat: Mapped[int]


class TeamInvitation(Base):
    """A team invites a person."""

    __tablename__ = "team_invitation"
    __table_args__ = (UniqueConstraint("team_id", "person_id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    team_id: Mapped[int] = mapped_column(ForeignKey("team.id"))
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    created: Mapped[datetime] = mapped_column("made")
    answer: Mapped[str | None] = mapped_column(String(10))
    """accepted or declined; None while it is open."""
