"""The hackathon's tables, for SQLite and PostgreSQL alike.

In: nothing. Out: mapped classes; store.py opens the database, migrations/ brings an old one up to date.
Beware: every instant is timezone-aware UTC; a unique constraint, not a look before the leap, decides every race.
"""

from __future__ import annotations

from smalltale.server.database.models.accounts import (
    AccountInvitation,
    ApiToken,
    BrowserSession,
    Person,
    RateLimitCounter,
    Team,
    TeamInvitation,
    TeamMember,
)
from smalltale.server.database.models.base import Base
from smalltale.server.database.models.editions import Edition, Prompt, PromptSet, Setting
from smalltale.server.database.models.judging import Job, JudgementRow, Score, Worker
from smalltale.server.database.models.submissions import (
    Appeal,
    Audit,
    CompletionRow,
    ModelChunk,
    Submission,
    SubmissionFile,
    Verification,
)

__all__ = [
    "AccountInvitation",
    "ApiToken",
    "Appeal",
    "Audit",
    "Base",
    "BrowserSession",
    "CompletionRow",
    "Edition",
    "Job",
    "JudgementRow",
    "ModelChunk",
    "Person",
    "Prompt",
    "PromptSet",
    "RateLimitCounter",
    "Score",
    "Setting",
    "Submission",
    "SubmissionFile",
    "Team",
    "TeamInvitation",
    "TeamMember",
    "Verification",
    "Worker",
]
