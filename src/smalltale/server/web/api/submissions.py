"""The API of hand-ins: check, hand in, look at one and its stories.

In: files and declarations. Out: JSON.
Beware: who may see what is decided in looking.py, never here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Query, Response, UploadFile
from sqlalchemy import select

from smalltale.server.database.models import HandIn, Verification
from smalltale.server.editions.editions import find_edition
from smalltale.server.editions.teams import team_of
from smalltale.server.judging.queue import place_in_queue
from smalltale.server.submissions.declaration import Declaration
from smalltale.server.submissions.receive import check_upload, hand_in
from smalltale.server.submissions.visibility import score_of, sight, stories
from smalltale.server.verification.verification import model_json
from smalltale.server.web.api.api import Kind, Number, Reader, Sender, SiteOf, Slug, problems

hand_in_api = APIRouter(prefix="/api/v1")


def hand_in_json(row: HandIn, place: int | None) -> dict[str, Any]:
    """A hand-in as its own team sees it."""
    return {
        "id": row.id,
        "kind": row.kind,
        "state": row.state,
        "reason": row.reason,
        "received": row.received,
        "place_in_queue": place,
        "weight_class": row.weight_class,
        "counted_parameters": row.counted_parameters,
        "verified_parameters": row.verified_parameters,
        "sha256": row.sha256,
        "warnings": row.warnings,
    }


@hand_in_api.get("/editions/{slug}/hand-ins", responses=problems(401, 403, 404))
def hand_ins(site: SiteOf, slug: Slug, person: Reader) -> list[dict[str, Any]]:
    """One's team's hand-ins."""
    with site.store.read() as session:
        team = team_of(session, find_edition(session, slug), person)
        rows = (
            session.scalars(select(HandIn).where(HandIn.team_id == team.id).order_by(HandIn.id.desc())).all()
            if team
            else []
        )
        return [
            hand_in_json(each, place_in_queue(session, each.id) if each.state == "queued" else None)
            for each in rows
        ]


@hand_in_api.post("/editions/{slug}/check/{kind}", responses=problems(401, 403, 404, 413))
def check(
    site: SiteOf,
    slug: Slug,
    kind: Literal["practice", "daily", "final"],
    person: Sender,
    file: Annotated[UploadFile, File()],
) -> dict[str, Any]:
    """Try a file at the gate; it is not kept and uses up nothing."""
    with site.store.read() as session:
        edition = find_edition(session, slug)
    checked = check_upload(site.store, edition, kind, file.filename or "", file.file.read())
    return {
        "accepted": not checked.errors,
        "errors": checked.errors,
        "warnings": checked.warnings,
    }


@hand_in_api.post(
    "/editions/{slug}/hand-ins/{kind}", status_code=201, responses=problems(401, 403, 404, 409, 413, 429)
)
def take(
    site: SiteOf,
    slug: Slug,
    kind: Kind,
    person: Sender,
    response: Response,
    file: Annotated[UploadFile, File()],
    weight_class: Annotated[str, Form()] = "",
    counted_parameters: Annotated[str, Form()] = "",
    model_hash: Annotated[str, Form()] = "",
    data: Annotated[str, Form()] = "",
    sampling: Annotated[str, Form()] = "",
    from_scratch: Annotated[bool, Form()] = False,
) -> dict[str, Any]:
    """Hand in. Everything wrong is answered at once, and then nothing is used up."""
    with site.store.read() as session:
        edition = find_edition(session, slug)
    declared = Declaration(
        weight_class=weight_class,
        counted_parameters=counted_parameters,
        model_hash=model_hash,
        data=data,
        sampling=sampling,
        from_scratch=from_scratch,
    )
    row = hand_in(site.store, edition, person, kind, file.filename or "", file.file.read(), declared)
    response.headers["Location"] = f"/api/v1/hand-ins/{row.id}"
    with site.store.read() as session:
        return hand_in_json(row, place_in_queue(session, row.id))


@hand_in_api.get("/hand-ins/{number}", responses=problems(401, 403, 404))
def one_hand_in(site: SiteOf, number: Number, person: Reader) -> dict[str, Any]:
    """A hand-in that one may see: its state, and its score when it is judged."""
    with site.store.read() as session:
        view = sight(session, number, person, site.store.now())
        score = score_of(session, view)
        found = session.get(Verification, number)
        body = (
            hand_in_json(view.hand_in, place_in_queue(session, number))
            if view.own or view.organiser
            else {"id": number, "state": view.hand_in.state}
        )
    if score is not None:
        body["score"] = {
            name: getattr(score, name)
            for name in (
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
            )
        }
    return {
        **body,
        "team": view.team.name,
        "model": model_json(view.hand_in, found, whole=view.own or view.organiser),
    }


@hand_in_api.get("/hand-ins/{number}/stories", responses=problems(401, 403, 404))
def hand_in_stories(
    site: SiteOf,
    number: Number,
    person: Reader,
    order: Literal["prompt", "best", "worst"] = "prompt",
    search: Annotated[str, Query(max_length=200)] = "",
    page: Annotated[int, Query(ge=1, le=100_000)] = 1,
) -> dict[str, Any]:
    """A page of a hand-in's stories with what was said of them."""
    with site.store.read() as session:
        found = stories(
            session,
            sight(session, number, person, site.store.now()),
            order=order,
            search=search.replace("\x00", ""),
            page=page,
        )
    return {
        "page": found.page,
        "pages": found.pages,
        "total": found.total,
        "stories": [
            {
                "prompt": each.prompt,
                "sample": each.sample,
                "completion": each.text,
                "mean": each.mean,
                "said": [
                    {
                        "judge": one.judge,
                        "state": one.state,
                        "overall": one.overall,
                        "scores": one.scores,
                        "age": one.age,
                        "words": one.words,
                    }
                    for one in each.said
                ],
            }
            for each in found.stories
        ],
    }
