"""an edition keeps, by panel, its judges and its rubric's version"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("edition", sa.Column("panels", sa.JSON(), nullable=False, server_default="{}"))
