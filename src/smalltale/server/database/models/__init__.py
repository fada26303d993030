"""The hackathon's tables, for SQLite and PostgreSQL alike.

In: nothing. Out: mapped classes; store.py opens the database, migrations/ brings an old one up to date.
Beware: every instant is timezone-aware UTC; a unique constraint, not a look before the leap, decides every race.
"""

from __future__ import annotations

from smalltale.server.database.models.accounts import (
    AccountInvitation,
    ApiToken,
    Member,
    Person,
    SignIn,
    Team,
    TeamInvitation,
)
from smalltale.server.database.models.base import Base
from smalltale.server.database.models.editions import Edition, Prompt, PromptSet, Setting
from smalltale.server.database.models.judging import Job, Judgement, Score, Worker
from smalltale.server.database.models.submissions import (
    Appeal,
    Audit,
    Completion,
    HandIn,
    ModelPiece,
    Upload,
    Verification,
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
