"""The hackathon's tables, for SQLite and PostgreSQL alike.

In: nothing. Out: mapped classes; store.py opens the database, migrations/ brings an old one up to date.
Beware: every instant is timezone-aware UTC; a unique constraint, not a look before the leap, decides every race.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Instant(TypeDecorator[datetime]):
    """A timezone-aware instant, kept in UTC (SQLite forgets zones)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        assert value.tzinfo is not None, "an instant without a zone"
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return (
            None
            if value is None
            else value.replace(tzinfo=UTC)
            if value.tzinfo is None
            else value.astimezone(UTC)
        )


class Base(DeclarativeBase):
    type_annotation_map = {datetime: Instant, dict[str, Any]: JSON, list[str]: JSON}  # noqa: RUF012 - SQLAlchemy's own form


BigKey = BigInteger().with_variant(Integer, "sqlite")


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


class Person(Base):
    """Somebody who can sign in: by password, or through a provider."""

    __tablename__ = "person"
    __table_args__ = (UniqueConstraint("provider", "provider_id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    handle: Mapped[str] = mapped_column(String(40), unique=True)
    password: Mapped[str | None] = mapped_column(String(200))
    provider: Mapped[str | None] = mapped_column(String(20))
    provider_id: Mapped[str | None] = mapped_column(String(80))
    admin: Mapped[bool] = mapped_column(default=False)
    disabled: Mapped[bool] = mapped_column(default=False)
    joined: Mapped[datetime]


class AccountInvitation(Base):
    """A code that makes one local account."""

    __tablename__ = "account_invitation"
    id: Mapped[int] = mapped_column(primary_key=True)
    code_hash: Mapped[str] = mapped_column(String(64), unique=True)
    admin: Mapped[bool] = mapped_column(default=False)
    expires: Mapped[datetime]
    used_by: Mapped[int | None] = mapped_column(ForeignKey("person.id"))


class SignIn(Base):
    """A browser's session; only the hash of its cookie is kept."""

    __tablename__ = "sign_in"
    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    expires: Mapped[datetime]


class ApiToken(Base):
    """A program's key; only its hash is kept."""

    __tablename__ = "api_token"
    id: Mapped[int] = mapped_column(primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    name: Mapped[str] = mapped_column(String(60))
    scopes: Mapped[list[str]]
    made: Mapped[datetime]
    last_used: Mapped[datetime | None]
    revoked: Mapped[datetime | None]


class Team(Base):
    """One or two people in one edition, with the hardware that slots them into a weight class."""

    __tablename__ = "team"
    __table_args__ = (UniqueConstraint("edition_id", "name_key"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    edition_id: Mapped[int] = mapped_column(ForeignKey("edition.id"))
    name: Mapped[str] = mapped_column(String(60))
    name_key: Mapped[str] = mapped_column(String(80))
    """The name folded, so that look-alikes collide."""
    hardware: Mapped[str] = mapped_column(String(200))
    weight_class: Mapped[str] = mapped_column(String(20))
    confirmed: Mapped[bool] = mapped_column(default=False)
    """Whether an organiser has confirmed the class that the hardware slots into."""
    declared: Mapped[datetime]
    disqualified: Mapped[str | None] = mapped_column(Text)


class Member(Base):
    """One team a person and edition: the key says so. `seat` keeps a team from growing past the limit in a race."""

    __tablename__ = "member"
    __table_args__ = (UniqueConstraint("team_id", "seat"),)
    edition_id: Mapped[int] = mapped_column(ForeignKey("edition.id"), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    team_id: Mapped[int] = mapped_column(ForeignKey("team.id"))
    seat: Mapped[int]


class TeamInvitation(Base):
    """A team asks a person in."""

    __tablename__ = "team_invitation"
    __table_args__ = (UniqueConstraint("team_id", "person_id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    team_id: Mapped[int] = mapped_column(ForeignKey("team.id"))
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    made: Mapped[datetime]
    answer: Mapped[str | None] = mapped_column(String(10))


class HandIn(Base):
    """A file that passed the gate. `slot` is what it uses up of the team's limit; None where it uses up nothing."""

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
    """queued, judging, judged, failed; failed gives the slot back."""
    reason: Mapped[str | None] = mapped_column(Text)
    disqualified: Mapped[str | None] = mapped_column(Text)


class Completion(Base):
    """One story of a hand-in."""

    __tablename__ = "completion"
    __table_args__ = (UniqueConstraint("hand_in_id", "prompt_id", "sample"),)
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    hand_in_id: Mapped[int] = mapped_column(ForeignKey("hand_in.id"))
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompt.id"))
    sample: Mapped[int]
    text: Mapped[str] = mapped_column(Text)


class Job(Base):
    """Durable work, one a key. A worker holds it by a lease that it renews; a lease run out is anyone's to take."""

    __tablename__ = "job"
    __table_args__ = (Index("job_waiting", "state", "run_after"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(120), unique=True)
    """kind:hand-in:panel, so that the same work is never queued twice."""
    kind: Mapped[str] = mapped_column(String(20))
    """judge or verify."""
    hand_in_id: Mapped[int] = mapped_column(ForeignKey("hand_in.id"), index=True)
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


class Judgement(Base):
    """What one judge of one panel said of one story: the key keeps a story from being judged twice into a score."""

    __tablename__ = "judgement"
    completion_id: Mapped[int] = mapped_column(BigKey, ForeignKey("completion.id"), primary_key=True)
    panel: Mapped[str] = mapped_column(String(64), primary_key=True)
    judge: Mapped[str] = mapped_column(String(120), primary_key=True)
    hand_in_id: Mapped[int] = mapped_column(ForeignKey("hand_in.id"), index=True)
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
    def ranking(self) -> float | None:
        """The overall score as it counts: on the panel's common scale where there is one."""
        return self.overall if self.calibrated is None else self.calibrated

    @property
    def share(self) -> float:
        """What it weighs beside the other judges' scores."""
        return 1.0 if self.weight is None else self.weight


class Score(Base):
    """A hand-in summed up for one side of the prompts: public, private or all."""

    __tablename__ = "score"
    hand_in_id: Mapped[int] = mapped_column(ForeignKey("hand_in.id"), primary_key=True)
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


class Appeal(Base):
    """A team asks the organisers to look again."""

    __tablename__ = "appeal"
    id: Mapped[int] = mapped_column(primary_key=True)
    hand_in_id: Mapped[int] = mapped_column(ForeignKey("hand_in.id"), unique=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"))
    made: Mapped[datetime]
    text: Mapped[str] = mapped_column(Text)
    answer: Mapped[str | None] = mapped_column(Text)
    answered: Mapped[datetime | None]


class Audit(Base):
    """What was done, by whom. Each row's hash covers the one before; triggers refuse changes and deletions."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(40))
    action: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(120))
    detail: Mapped[dict[str, Any]]
    hash: Mapped[str] = mapped_column(String(64))


class Upload(Base):
    """The bytes of a hand-in as they came, for the record."""

    __tablename__ = "upload"
    hand_in_id: Mapped[int] = mapped_column(ForeignKey("hand_in.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(120))
    content: Mapped[bytes] = mapped_column(LargeBinary)


class Verification(Base):
    """What became of the question whether a hand-in's model is what was declared."""

    __tablename__ = "verification"
    hand_in_id: Mapped[int] = mapped_column(ForeignKey("hand_in.id"), primary_key=True)
    state: Mapped[str] = mapped_column(String(12))
    """asked (an organiser wants the model), waiting (it is here), verified, contradicted, unproven."""
    asked_by: Mapped[str | None] = mapped_column(String(40))
    upload: Mapped[str | None] = mapped_column(String(32))
    """Names the pieces of the model that was sent last."""
    files: Mapped[dict[str, Any]]
    """Size and SHA-256 of each file of the upload, by its name."""
    changed: Mapped[datetime]
    counted: Mapped[int | None] = mapped_column(BigInteger)
    reasons: Mapped[list[str]]
    stories: Mapped[dict[str, Any]]
    """What the plausibility check found (`smalltale plausible`); empty where it was not made."""


class ModelPiece(Base):
    """A few megabytes of a model's file. They go when the model is verified and its stories are plausible."""

    __tablename__ = "model_piece"
    upload: Mapped[str] = mapped_column(String(32), primary_key=True)
    file: Mapped[str] = mapped_column(String(60), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    hand_in_id: Mapped[int] = mapped_column(ForeignKey("hand_in.id"), index=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)
