"""models are sent, and verified by a worker"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "verification",
        sa.Column("hand_in_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("asked_by", sa.String(length=40), nullable=True),
        sa.Column("upload", sa.String(length=32), nullable=True),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("changed", sa.DateTime(timezone=True), nullable=False),
        sa.Column("counted", sa.BigInteger(), nullable=True),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("stories", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["hand_in_id"], ["hand_in.id"]),
        sa.PrimaryKeyConstraint("hand_in_id"),
    )
    op.create_table(
        "model_piece",
        sa.Column("upload", sa.String(length=32), nullable=False),
        sa.Column("file", sa.String(length=60), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("hand_in_id", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["hand_in_id"], ["hand_in.id"]),
        sa.PrimaryKeyConstraint("upload", "file", "number"),
    )
    op.create_index(op.f("ix_model_piece_hand_in_id"), "model_piece", ["hand_in_id"], unique=False)
