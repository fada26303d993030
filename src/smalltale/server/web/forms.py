"""Forms: read whole, and only where they come from our own pages.

In: a request with a form. Out: Posted, its fields and its file.
Beware: a file is held in memory; the door (limits.py) bounds it before it is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from smalltale.server.database.models import Edition
from smalltale.server.errors import Problem
from smalltale.server.web.context import Visit, visit


@dataclass(frozen=True, kw_only=True)
class Posted:
    """A form that is ours: its text fields and its file."""

    visit: Visit
    fields: dict[str, str]
    lists: dict[str, list[str]]
    file_name: str = ""
    content: bytes = b""

    def __getitem__(self, name: str) -> str:
        return self.fields.get(name, "")


async def posted(request: Request) -> Posted:
    """Read and check a form. Raises Problem where it is not ours."""
    async with request.form(max_files=1, max_fields=40) as form:
        v = await run_in_threadpool(visit, request)
        texts = [
            (name, value.replace("\x00", "")) for name, value in form.multi_items() if isinstance(value, str)
        ]
        v.check_form(dict(texts).get("form_token"))
        upload = next((value for value in form.values() if isinstance(value, UploadFile)), None)
        content = await upload.read() if upload else b""
        fields = {name: value for name, value in texts if name != "form_token"}
        lists = {name: [value for other, value in texts if other == name] for name in fields}
        return Posted(
            visit=v,
            fields=fields,
            lists=lists,
            file_name=(upload.filename or "") if upload else "",
            content=content,
        )


Form = Annotated[Posted, Depends(posted)]


def edition_of(v: Visit) -> Edition:
    """The current edition. Raises Problem."""
    if v.edition is None:
        raise Problem(404, "there is no edition yet")
    return v.edition
