"""Upload of a submission's model for verification: by the form on its page, and by the API.

Input: one multipart request with the model's files. Output: a queued verification.
The permission to upload is checked before the body is read, and the files are spooled to disk, never held in memory.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from smalltale.server.database.models import Verification
from smalltale.server.errors import RequestProblem
from smalltale.server.verification.model_checks import MODEL_FILES
from smalltale.server.verification.model_uploads import UploadedFile
from smalltale.server.verification.verification import (
    authorize_model_upload,
    model_status,
    receive_model,
)
from smalltale.server.web.api.api import State, SubmissionId, Submitter, problems
from smalltale.server.web.context import Context, RowId
from smalltale.server.web.pages.submissions import render_submission

router = APIRouter()
MAX_FILES = len(MODEL_FILES) + 4
"""A few more than allowed are parsed, so that the error can name them."""
FILES_SCHEMA = {"type": "array", "items": {"type": "string", "format": "binary"}}
FORM_SCHEMA = {"type": "object", "required": ["files"], "properties": {"files": FILES_SCHEMA}}
API_OPTIONS: dict[str, Any] = {
    "status_code": 202,
    "responses": problems(401, 403, 404, 409, 413),
    "openapi_extra": {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM_SCHEMA}}}
    },
}


def uploaded_files(form: FormData) -> list[UploadedFile]:
    """The files of a form, open for reading."""
    return [
        UploadedFile(name=upload.filename or "", size=upload.size or 0, content=upload.file)
        for upload in form.getlist("files")
        if isinstance(upload, UploadFile)
    ]


@router.post("/submissions/{submission_id}/model", include_in_schema=False)
@router.post("/hand-ins/{submission_id}/model", include_in_schema=False)
async def upload_by_form(context: Context, request: Request, submission_id: RowId) -> Response:
    """Receive a model from the form on the submission's page; problems are shown next to the file field."""
    person = context.require_person()
    await run_in_threadpool(authorize_model_upload, context.database, person, submission_id)
    async with request.form(max_files=MAX_FILES, max_fields=4) as form:
        context.check_form_token(form.get("form_token"))
        try:
            await run_in_threadpool(
                receive_model, context.database, person, submission_id, uploaded_files(form)
            )
        except RequestProblem as problem:
            if problem.status != 422:
                raise
            return await run_in_threadpool(render_submission, context, submission_id, problem=problem)
    return context.redirect(f"/submissions/{submission_id}#model")


@router.post("/api/v1/submissions/{submission_id}/model", **API_OPTIONS)
@router.post("/api/v1/hand-ins/{submission_id}/model", **API_OPTIONS, deprecated=True)
async def upload_by_api(
    state: State, submission_id: SubmissionId, person: Submitter, request: Request
) -> dict[str, Any]:
    """Upload a submission's model for verification: model.safetensors, config.json and the tokenizer, as `files`."""
    submission = await run_in_threadpool(authorize_model_upload, state.database, person, submission_id)
    async with request.form(max_files=MAX_FILES, max_fields=4) as form:
        await run_in_threadpool(receive_model, state.database, person, submission_id, uploaded_files(form))
    with state.database.read() as session:
        return model_status(submission, session.get(Verification, submission_id), with_reasons=True)
