"""Adds evidence of channels and ranks within strata, and removes the test of the mix of strata.

Earlier states cannot be read. If all observations are still stored, `service.replay` computes the states of monitors
again from the observations.
"""

from __future__ import annotations

import hashlib

import sqlalchemy as sa
from alembic import op

from vfmalign.core.domain.record import canonical_json

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_MONITORS = sa.table(
    "monitors",
    *(sa.column(name) for name in ("tenant", "id", "request_digest")),
    *(sa.column(name, sa.JSON) for name in ("request", "spec", "status")),
)


def upgrade() -> None:
    """Adds the column. In requests, specs and statuses, removes the fields that monitors no longer have."""
    op.add_column("monitor_observations", sa.Column("log_channels", sa.Double()))
    connection = op.get_bind()
    for row in connection.execute(sa.select(_MONITORS)).all():
        request, spec = ({name: one[name] for name in one if name != "mix_alpha"} for one in (row.request, row.spec))
        mix = {name: row.status["mix"][name] for name in ("rows", "reference_rows")}
        changed = {
            "request": request,
            "request_digest": hashlib.sha256(canonical_json(request)).hexdigest(),  # as of a repeated request
            "spec": spec,
            "status": row.status | {"peak": None, "mix": mix},
        }
        where = (_MONITORS.c.tenant == row.tenant) & (_MONITORS.c.id == row.id)
        connection.execute(sa.update(_MONITORS).where(where).values(changed))
