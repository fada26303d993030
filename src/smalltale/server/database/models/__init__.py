"""The tables of the hackathon, the same for SQLite and PostgreSQL.

session.py opens a database, migrations/ updates an old one. Where an attribute has another name than its column, the
column's name is in `mapped_column`: a submission was called a hand-in when the first databases were made.
Note: every instant is timezone-aware UTC, and every race is decided by a unique constraint, not by a query before the write.
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
