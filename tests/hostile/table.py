"""All rows."""

from __future__ import annotations

from tests.hostile import (
    dicom_rows,
    erasure_rows,
    features_rows,
    finetuning_rows,
    imports_rows,
    mmd_rows,
    monitoring_rows,
    observation_rows,
    token_rows,
    volumes_rows,
    wire_rows,
)
from tests.hostile.row import Row

ROWS: tuple[Row, ...] = (
    *wire_rows.ROWS,
    *token_rows.ROWS,
    *features_rows.ROWS,
    *erasure_rows.ROWS,
    *volumes_rows.ROWS,
    *dicom_rows.ROWS,
    *imports_rows.ROWS,
    *mmd_rows.ROWS,
    *finetuning_rows.ROWS,
    *monitoring_rows.ROWS,
    *observation_rows.ROWS,
)
