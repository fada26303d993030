"""Alembic's entry: runs on the connection that store.py hands over."""

from typing import Any, Literal

from alembic import context

from smalltale.server.database.models import Base
from smalltale.server.database.models.base import UtcDateTime


def render(kind: str, thing: object, _: Any) -> str | Literal[False]:
    """Our column type by its plain name in new migrations."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(thing, UtcDateTime) else False


context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_item=render
)
context.run_migrations()
