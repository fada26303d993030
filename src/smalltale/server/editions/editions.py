"""Reads an edition.toml with its prompt files, imports it into the database, and finds editions and their rules there.

Input: a TOML file (the keys of the rules, [edition], [[prompt_set]]). Output: rows of the edition, its prompt sets and prompts.
Note: a second import never changes the prompts of an existing set, because stored submissions answer them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from smalltale.errors import RecipeError
from smalltale.files import read_text
from smalltale.judging.panel import Calibration, match_calibrations
from smalltale.judging.registry import judge_identity
from smalltale.judging.rubric import load_rubric
from smalltale.prompts import read_prompts
from smalltale.rules import Rules, rules_from_table
from smalltale.server.database.models import Edition, Job, Prompt, PromptSet, Submission
from smalltale.server.database.session import Database, append_audit
from smalltale.server.errors import RequestProblem, not_found
from smalltale.server.judging.scoring import is_scripted

PROMPT_SET_KINDS = ("practice", "daily", "final")
SLUG_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
PANEL_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class PromptSetDraft:
    """A [[prompt_set]] table with its prompts."""

    kind: str
    appears: datetime
    prompts: list[str]
    public_share: float
    """Share of the prompts that the public leaderboard uses. Scores on the others are private until the edition ends."""


@dataclass(frozen=True, kw_only=True)
class EditionDraft:
    """A validated edition.toml, not yet in the database."""

    slug: str
    title: str
    toml: str
    rules: Rules
    judges: list[str]
    rubric: str
    panel: str
    sets: list[PromptSetDraft]
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    """By judge, from its qualification."""


def read_edition(path: Path) -> EditionDraft:
    """Read an edition's file and its prompts. Raises RecipeError or FileProblem."""
    text = read_text(path)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not TOML: {error}; fix that line") from error
    rules = rules_from_table(table, str(path))
    edition = table.get("edition", {})
    keys = {"slug", "title", "judges", "qualifications", "rubric", "panel"}
    for key in edition:
        if key not in keys:
            raise RecipeError(f"{path}: unknown key {key!r} in [edition]; known: {', '.join(sorted(keys))}")
    slug = str(edition.get("slug", path.stem))
    if not SLUG_PATTERN.fullmatch(slug):
        raise RecipeError(
            f"{path}: [edition] slug = {slug!r} is part of addresses; use 1 to 64 letters, digits and -"
        )
    title = " ".join(str(edition.get("title", slug)).split())
    if not 1 <= len(title) <= 200:
        raise RecipeError(f"{path}: [edition] title has {len(title)} characters; write 1 to 200")
    panel = str(edition.get("panel", f"{edition.get('rubric', 'paper')}-1"))
    if not PANEL_NAME_PATTERN.fullmatch(panel):
        raise RecipeError(
            f"{path}: [edition] panel = {panel!r}; use 1 to 64 letters, digits, dots and dashes"
        )
    rubric, judges = str(edition.get("rubric", "paper")), [str(judge) for judge in edition.get("judges", [])]
    return EditionDraft(
        slug=slug,
        title=title,
        toml=text,
        rules=rules,
        judges=judges,
        calibrations=load_calibrations(judges, edition.get("qualifications", []), rubric, path),
        rubric=rubric,
        panel=panel,
        sets=[parse_prompt_set(prompt_set, rules, path) for prompt_set in table.get("prompt_set", [])],
    )


def load_calibrations(judges: list[str], files: Any, rubric: str, path: Path) -> dict[str, Calibration]:
    """Calibrations from qualification files. Raises RecipeError, FileProblem, SmalltaleError for another judge's file."""
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise RecipeError(
            f"{path}: [edition] qualifications = {files!r}; list files relative to it, for example "
            '["judge/qualification.json"]'
        )
    if not files:
        return {}
    identities = {name: judge_identity(name) for name in judges if not is_scripted(name)}
    return match_calibrations(identities, [path.parent / file for file in files], load_rubric(rubric))


def parse_prompt_set(table: dict[str, Any], rules: Rules, path: Path) -> PromptSetDraft:
    """A [[prompt_set]] table: kind, file, appears, public_share. Raises RecipeError or FileProblem."""
    kind, file = table.get("kind"), table.get("file")
    if kind not in PROMPT_SET_KINDS:
        raise RecipeError(
            f"{path}: [[prompt_set]] kind = {kind!r}; it must be one of: {', '.join(PROMPT_SET_KINDS)}"
        )
    if not isinstance(file, str):
        raise RecipeError(f'{path}: the {kind} [[prompt_set]] names no file; add file = "prompts.csv"')
    appears = table.get("appears", rules.opens())
    if not isinstance(appears, datetime) or appears.tzinfo is None:
        raise RecipeError(
            f"{path}: appears = {appears} of the {kind} prompts has no zone; write it like 2026-03-01T00:00:00-12:00"
        )
    share = table.get("public_share", 1.0)
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise RecipeError(f"{path}: public_share = {share!r} of the {kind} prompts; it must be from 0 to 1")
    return PromptSetDraft(
        kind=kind, appears=appears, prompts=read_prompts(path.parent / file), public_share=float(share)
    )


def import_edition(database: Database, draft: EditionDraft) -> Edition:
    """Create an edition, or update its dates, rules and panel. Existing prompts never change."""
    with database.write() as session:
        edition = session.scalar(select(Edition).where(Edition.slug == draft.slug))
        if edition is None:
            edition = Edition(slug=draft.slug, revision=0)
            session.add(edition)
        edition.title, edition.toml = draft.title, draft.toml
        edition.starts, edition.ends = draft.rules.opens(), draft.rules.deadline()
        edition.judges = draft.judges
        edition.calibrations = {judge: asdict(draft.calibrations[judge]) for judge in draft.calibrations}
        record_panel(session, edition, draft)
        edition.rubric, edition.panel = draft.rubric, draft.panel
        edition.revision = (edition.revision or 0) + 1
        session.flush()
        for prompt_set in draft.sets:
            add_prompt_set(session, edition, prompt_set)
        append_audit(session, database.now(), "server", "edition imported", draft.slug, panel=draft.panel)
        return edition


def record_panel(session: Session, edition: Edition, draft: EditionDraft) -> None:
    """Store the judges and rubric of the draft's panel. Raises RecipeError if the panel has judged with different ones."""
    scripts = all(map(is_scripted, draft.judges))
    version = "" if scripts else load_rubric(draft.rubric).hash
    new = {"judges": draft.judges, "rubric": draft.rubric, "version": version}
    old = (edition.panels or {}).get(draft.panel, new)
    judging_jobs = (
        select(Job.id)
        .join(Submission, Submission.id == Job.submission_id)
        .where(Submission.edition_id == edition.id, Job.kind == "judge", Job.panel == draft.panel)
    )
    with session.no_autoflush:
        if old != new and session.scalar(judging_jobs.limit(1)) is not None:
            old_text, new_text = (
                f"{', '.join(panel['judges'])} by rubric {panel['rubric']} {panel['version']}".strip()
                for panel in (old, new)
            )
            raise RecipeError(
                f"edition {draft.slug}: panel {draft.panel} has judged as {old_text} and would now be {new_text}; "
                'their scores are never mixed: give the new panel a name of its own, [edition] panel = "…"'
            )
    edition.panels = {**(edition.panels or {}), draft.panel: new}


def add_prompt_set(session: Session, edition: Edition, draft: PromptSetDraft) -> None:
    """Add a prompt set if the edition has none of that kind; otherwise update only the time it appears."""
    prompt_set = session.scalar(
        select(PromptSet).where(PromptSet.edition_id == edition.id, PromptSet.kind == draft.kind)
    )
    if prompt_set is not None:
        if [prompt.text for prompt in prompt_set.prompts] != draft.prompts:
            raise RecipeError(
                f"the {draft.kind} prompts of edition {edition.slug} differ from those already in the database; "
                "prompts never change once imported: give the edition another slug"
            )
        prompt_set.appears = draft.appears
        return
    prompt_set = PromptSet(edition_id=edition.id, kind=draft.kind, appears=draft.appears)
    # Public prompts are spread evenly through the set, so that public and private prompts have the same mix.
    share = draft.public_share
    prompt_set.prompts = [
        Prompt(
            position=position,
            text=text,
            public=share == 1 or int((position + 1) * share) > int(position * share),
        )
        for position, text in enumerate(draft.prompts)
    ]
    session.add(prompt_set)


@lru_cache(maxsize=32)
def parse_rules(toml: str) -> Rules:
    return rules_from_table(tomllib.loads(toml), "the edition")


def get_rules(edition: Edition) -> Rules:
    """The rules in an edition's stored TOML, which is parsed once."""
    return parse_rules(edition.toml)


def get_edition(session: Session, slug: str) -> Edition:
    """The edition with this slug. Raises RequestProblem 404."""
    edition = session.scalar(select(Edition).where(Edition.slug == slug))
    if edition is None:
        raise not_found("edition")
    return edition


def find_current_edition(session: Session) -> Edition | None:
    """The edition that started last."""
    return session.scalar(select(Edition).order_by(Edition.starts.desc(), Edition.id.desc()).limit(1))


def get_prompt_set(session: Session, edition: Edition, kind: str, now: datetime) -> PromptSet:
    """A prompt set that has appeared. Raises RequestProblem 404 until then, as if it did not exist."""
    prompt_set = session.scalar(
        select(PromptSet).where(PromptSet.edition_id == edition.id, PromptSet.kind == kind)
    )
    if prompt_set is None or prompt_set.appears > now:
        raise RequestProblem(404, f"the {kind} prompts have not appeared yet")
    return prompt_set
