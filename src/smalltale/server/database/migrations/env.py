"""Alembic's environment: runs the migrations on the connection that session.py passes."""

from typing import Any, Literal

from alembic import context

from smalltale.server.database.models import Base
from smalltale.server.database.models.base import UtcDateTime


def render_item(kind: str, schema_item: object, _: Any) -> str | Literal[False]:
    """Write UtcDateTime as SQLAlchemy's own type in new migrations."""
    is_instant = kind == "type" and isinstance(schema_item, UtcDateTime)
    return "sa.DateTime(timezone=True)" if is_instant else False


context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_item=render_item
)
context.run_migrations()
