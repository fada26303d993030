"""editions keep their judges' qualifications, judgements the panel's common scale"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("edition", sa.Column("calibrations", sa.JSON(), nullable=False, server_default="{}"))
    op.drop_column("edition", "qualified")
    for name in ("calibrated", "weight"):
        op.add_column("judgement", sa.Column(name, sa.Double(), nullable=True))
