"""The hackathon's tables, for SQLite and PostgreSQL alike.

In: nothing. Out: mapped classes; store.py opens the database, migrations/ brings an old one up to date.
Beware: every instant is timezone-aware UTC; a unique constraint, not a look before the leap, decides every race.
"""

from __future__ import annotations

from smalltale.hackathon.tables.base import Base
from smalltale.hackathon.tables.editions import Edition, Prompt, PromptSet, Setting
from smalltale.hackathon.tables.hand_ins import (
    Appeal,
    Audit,
    Completion,
    HandIn,
    ModelPiece,
    Upload,
    Verification,
)
from smalltale.hackathon.tables.judging import Job, Judgement, Score, Worker
from smalltale.hackathon.tables.people import (
    AccountInvitation,
    ApiToken,
    Member,
    Person,
    SignIn,
    Team,
    TeamInvitation,
)

__all__ = [
    "AccountInvitation",
    "ApiToken",
    "Appeal",
    "Audit",
    "Base",
    "Completion",
    "Edition",
    "HandIn",
    "Job",
    "Judgement",
    "Member",
    "ModelPiece",
    "Person",
    "Prompt",
    "PromptSet",
    "Score",
    "Setting",
    "SignIn",
    "Team",
    "TeamInvitation",
    "Upload",
    "Verification",
    "Worker",
]
