"""The doors through which a model comes in: the form on a hand-in's page, and the API.

In: one multipart request with the model's files. Out: a queued verification.
Beware: who may send is settled before a byte of the model is read; the files are spooled to disk, never held in memory.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from smalltale.server.database.models import Verification
from smalltale.server.errors import Problem
from smalltale.server.verification.model_uploads import Sent
from smalltale.server.verification.sandbox import MODEL_FILES
from smalltale.server.verification.verification import model_json, refuse_sender, send
from smalltale.server.web.api.api import Number, Sender, SiteOf, problems
from smalltale.server.web.pages.public import RowNumber, Visitor
from smalltale.server.web.pages.submissions import show_hand_in

sending = APIRouter()
MOST_FILES = len(MODEL_FILES) + 4
"""A few too many are read, to be named in the answer."""
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {"type": "array", "items": {"type": "string", "format": "binary"}}
                    },
                }
            }
        },
    }
}


def sent_files(form: FormData) -> list[Sent]:
    """The files of a form, open for reading."""
    return [
        Sent(name=each.filename or "", size=each.size or 0, content=each.file)
        for each in form.getlist("files")
        if isinstance(each, UploadFile)
    ]


@sending.post("/hand-ins/{number}/model", include_in_schema=False)
async def send_by_page(v: Visitor, request: Request, number: RowNumber) -> Response:
    """Take a model from the form; what is wrong with it stands beside its field."""
    person = v.signed_in()
    await run_in_threadpool(refuse_sender, v.store, person, number)
    async with request.form(max_files=MOST_FILES, max_fields=4) as form:
        v.check_form(form.get("form_token"))
        try:
            await run_in_threadpool(send, v.store, person, number, sent_files(form))
        except Problem as problem:
            if problem.status != 422:
                raise
            return await run_in_threadpool(show_hand_in, v, number, problem=problem)
    return v.go(f"/hand-ins/{number}#model")


@sending.post(
    "/api/v1/hand-ins/{number}/model",
    status_code=202,
    responses=problems(401, 403, 404, 409, 413),
    openapi_extra=BODY,
)
async def send_by_program(site: SiteOf, number: Number, person: Sender, request: Request) -> dict[str, Any]:
    """Send a hand-in's model to be verified: model.safetensors, config.json and the tokenizer, as `files`."""
    hand_in = await run_in_threadpool(refuse_sender, site.store, person, number)
    async with request.form(max_files=MOST_FILES, max_fields=4) as form:
        await run_in_threadpool(send, site.store, person, number, sent_files(form))
    with site.store.read() as session:
        return model_json(hand_in, session.get(Verification, number), whole=True)
