"""Table of experiments."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from vfmalign.database.tables import LifecycleRow


class ExperimentRow(LifecycleRow):
    """One experiment; see `experiments.repository.StoredExperiment` for the fields. Cells are rows of `checks`."""

    __tablename__ = "experiments"

    pinned_inputs: Mapped[dict[str, Any]]
    restored_cells: Mapped[list[str]] = mapped_column(sa.JSON, default=list)
    report: Mapped[dict[str, Any] | None]

    @classmethod
    def has_model(cls, model_id: str) -> sa.ColumnElement[bool]:
        """Returns the SQL condition that is true for experiments that include a model."""
        models: sa.ColumnElement[str] = cls.request["model_ids"].as_string()  # a JSON array
        return models.contains(f'"{model_id}"', autoescape=True)
