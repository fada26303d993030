"""API of submissions: check a file, submit it, read a submission and its stories.

Input: files and declarations. Output: JSON. Paths with `hand-ins` are those of earlier versions.
What a person may see is decided in submissions/visibility.py, never here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Query, Response, UploadFile
from sqlalchemy import select

from smalltale.server.database.models import Submission, Verification
from smalltale.server.editions.editions import get_edition
from smalltale.server.editions.teams import find_team
from smalltale.server.judging.queue import get_queue_position
from smalltale.server.submissions.declaration import Declaration
from smalltale.server.submissions.receive import check_upload, receive_submission
from smalltale.server.submissions.visibility import (
    StoryView,
    get_score,
    load_story_page,
    view_submission,
)
from smalltale.server.verification.verification import model_status
from smalltale.server.web.api.api import Kind, Reader, Slug, State, SubmissionId, Submitter, problems

router = APIRouter(prefix="/api/v1")
SUBMIT_OPTIONS: dict[str, Any] = {"status_code": 201, "responses": problems(401, 403, 404, 409, 413, 429)}
SCORE_KEYS = [
    "side",
    "panel",
    "mean",
    "low",
    "high",
    "criteria",
    "judged",
    "expected",
    "qualified",
    "disagreement",
]


def submission_json(submission: Submission, queue_position: int | None) -> dict[str, Any]:
    """A submission as its own team sees it."""
    return {
        "id": submission.id,
        "kind": submission.kind,
        "state": submission.state,
        "reason": submission.reason,
        "received": submission.received,
        "place_in_queue": queue_position,
        "weight_class": submission.weight_class,
        "counted_parameters": submission.counted_parameters,
        "verified_parameters": submission.verified_parameters,
        "sha256": submission.sha256,
        "warnings": submission.warnings,
    }


@router.get("/editions/{slug}/submissions", responses=problems(401, 403, 404))
@router.get("/editions/{slug}/hand-ins", responses=problems(401, 403, 404), deprecated=True)
def list_submissions(state: State, slug: Slug, person: Reader) -> list[dict[str, Any]]:
    """The submissions of your team, newest first."""
    with state.database.read() as session:
        team = find_team(session, get_edition(session, slug), person)
        if team is None:
            return []
        submissions = session.scalars(
            select(Submission).where(Submission.team_id == team.id).order_by(Submission.id.desc())
        ).all()
        return [
            submission_json(
                submission,
                get_queue_position(session, submission.id) if submission.state == "queued" else None,
            )
            for submission in submissions
        ]


@router.post("/editions/{slug}/check/{kind}", responses=problems(401, 403, 404, 413))
def check(
    state: State,
    slug: Slug,
    kind: Literal["practice", "daily", "final"],
    person: Submitter,
    file: Annotated[UploadFile, File()],
) -> dict[str, Any]:
    """Check a file without submitting it: nothing is saved, and your daily submission is not used."""
    with state.database.read() as session:
        edition = get_edition(session, slug)
    checked = check_upload(state.database, edition, kind, file.filename or "", file.file.read())
    return {"accepted": not checked.errors, "errors": checked.errors, "warnings": checked.warnings}


@router.post("/editions/{slug}/submissions/{kind}", **SUBMIT_OPTIONS)
@router.post("/editions/{slug}/hand-ins/{kind}", **SUBMIT_OPTIONS, deprecated=True)
def submit(
    state: State,
    slug: Slug,
    kind: Kind,
    person: Submitter,
    response: Response,
    file: Annotated[UploadFile, File()],
    weight_class: Annotated[str, Form()] = "",
    counted_parameters: Annotated[str, Form()] = "",
    model_hash: Annotated[str, Form()] = "",
    data: Annotated[str, Form()] = "",
    sampling: Annotated[str, Form()] = "",
    from_scratch: Annotated[bool, Form()] = False,
) -> dict[str, Any]:
    """Submit. A refused submission reports all of its problems at once and does not count."""
    with state.database.read() as session:
        edition = get_edition(session, slug)
    declaration = Declaration(
        weight_class=weight_class,
        counted_parameters=counted_parameters,
        model_hash=model_hash,
        data=data,
        sampling=sampling,
        from_scratch=from_scratch,
    )
    submission = receive_submission(
        state.database, edition, person, kind, file.filename or "", file.file.read(), declaration
    )
    response.headers["Location"] = f"/api/v1/submissions/{submission.id}"
    with state.database.read() as session:
        return submission_json(submission, get_queue_position(session, submission.id))


@router.get("/submissions/{submission_id}", responses=problems(401, 403, 404))
@router.get("/hand-ins/{submission_id}", responses=problems(401, 403, 404), deprecated=True)
def get_submission(state: State, submission_id: SubmissionId, person: Reader) -> dict[str, Any]:
    """A submission that you may see: its state, and its score once it is judged."""
    with state.database.read() as session:
        view = view_submission(session, submission_id, person, state.database.now())
        score = get_score(session, view)
        verification = session.get(Verification, submission_id)
        sees_details = view.is_own_team or view.is_organiser
        body: dict[str, Any] = {"id": submission_id, "state": view.submission.state}
        if sees_details:
            body = submission_json(view.submission, get_queue_position(session, submission_id))
    if score is not None:
        body["score"] = {key: getattr(score, key) for key in SCORE_KEYS}
    return {
        **body,
        "team": view.team.name,
        "model": model_status(view.submission, verification, with_reasons=sees_details),
    }


@router.get("/submissions/{submission_id}/stories", responses=problems(401, 403, 404))
@router.get("/hand-ins/{submission_id}/stories", responses=problems(401, 403, 404), deprecated=True)
def list_stories(
    state: State,
    submission_id: SubmissionId,
    person: Reader,
    order: Literal["prompt", "best", "worst"] = "prompt",
    search: Annotated[str, Query(max_length=200)] = "",
    page: Annotated[int, Query(ge=1, le=100_000)] = 1,
) -> dict[str, Any]:
    """A page of a submission's stories with their judgements."""
    with state.database.read() as session:
        view = view_submission(session, submission_id, person, state.database.now())
        story_page = load_story_page(session, view, order=order, search=search.replace("\x00", ""), page=page)
    return {
        "page": story_page.page,
        "pages": story_page.pages,
        "total": story_page.total,
        "stories": [story_json(story) for story in story_page.stories],
    }


def story_json(story: StoryView) -> dict[str, Any]:
    return {
        "prompt": story.prompt,
        "sample": story.sample,
        "completion": story.text,
        "mean": story.mean,
        "said": [
            {
                "judge": judgement.judge,
                "state": judgement.state,
                "overall": judgement.overall,
                "scores": judgement.scores,
                "age": judgement.age,
                "words": judgement.words,
            }
            for judgement in story.judgements
        ],
    }
