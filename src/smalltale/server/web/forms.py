"""HTML forms: parsed completely, and accepted only with our form token.

Input: a multipart or URL-encoded request. Output: PostedForm, its text fields and its file.
Pitfall: an uploaded file is held in memory; request_limits.py bounds the body before it is parsed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from smalltale.server.database.models import Edition
from smalltale.server.errors import RequestProblem
from smalltale.server.web.context import RequestContext, create_context


@dataclass(frozen=True, kw_only=True)
class PostedForm:
    """A form with a valid token: its text fields and its file."""

    context: RequestContext
    fields: dict[str, str]
    lists: dict[str, list[str]]
    """All values of a field, for checkboxes that share a name."""
    file_name: str = ""
    content: bytes = b""

    def __getitem__(self, name: str) -> str:
        return self.fields.get(name, "")


async def read_form(request: Request) -> PostedForm:
    """FastAPI dependency: parse and check a form. Raises RequestProblem for a form without our token."""
    async with request.form(max_files=1, max_fields=40) as form:
        context = await run_in_threadpool(create_context, request)
        pairs = [
            (name, value.replace("\x00", "")) for name, value in form.multi_items() if isinstance(value, str)
        ]
        fields = dict(pairs)
        context.check_form_token(fields.pop("form_token", None))
        upload = next((value for value in form.values() if isinstance(value, UploadFile)), None)
        return PostedForm(
            context=context,
            fields=fields,
            lists={name: [value for key, value in pairs if key == name] for name in fields},
            file_name=(upload.filename or "") if upload else "",
            content=await upload.read() if upload else b"",
        )


Form = Annotated[PostedForm, Depends(read_form)]


def require_edition(context: RequestContext) -> Edition:
    """The current edition. Raises RequestProblem before the first one is imported."""
    if context.edition is None:
        raise RequestProblem(404, "there is no edition yet")
    return context.edition
