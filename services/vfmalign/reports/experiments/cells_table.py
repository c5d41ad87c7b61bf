"""The table of an experiment's cells, `cells.csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from vfmalign.analysis.experiments.cells import Cell
from vfmalign.analysis.experiments.points import FLAG_SYMBOLS, get_step_share
from vfmalign.analysis.experiments.report import ExperimentReport
from vfmalign.client.messages.common import Estimate


def to_csv(report: ExperimentReport) -> bytes:
    """Formats the cells as UTF-8 CSV, one row per cell. Cells without results come last and show the reason."""
    measures = sorted({name for cell in report.cells for name in cell.measures})
    variants = sorted({name for cell in report.cells for name in cell.shift_variants})
    controls = sorted({name for cell in report.cells for name in cell.controls})
    frozen = any(cell.frozen_scores for cell in report.cells)
    rows = [
        _to_row(cell)
        | ({"frozen_score": cell.frozen_score} if frozen else {})
        | _to_columns(cell.measures.items(), measures, "")
        | _to_columns(cell.shift_variants.items(), variants, "mmd2_")
        | _to_columns(cell.controls.items(), controls, "control_")
        | {name: getattr(cell.flags, name) for name in FLAG_SYMBOLS}
        for cell in report.cells
    ]
    rows += [
        {
            "model_id": cell.model_id,
            "task": cell.task,
            "seed": cell.seed,
            "check_id": cell.check_id,
            "train_cases": cell.train_cases or "all",
            "missing": cell.reason,
        }
        for cell in report.missing
    ]
    columns = [*rows[0], "missing"] if report.cells else [
        "model_id", "task", "seed", "check_id", "train_cases", "missing",
    ]  # fmt: skip
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def _to_row(cell: Cell) -> dict[str, object]:
    share = get_step_share(cell)
    return {
        "model_id": cell.model_id, "task": cell.task, "seed": cell.seed, "check_id": cell.check_id,
        "train_cases": cell.train_cases or "all", "subset_size": cell.subset_size or None,
        "subset_sha256": cell.subset_sha256,
        "architecture": cell.architecture, "objective": cell.objective, "phantom": cell.phantom,
        "patients": cell.patients, "layer": cell.layer, "mmd2_std": cell.shift.value,
        "mmd2_std_lower": cell.shift.interval.lower if cell.shift.interval else None,
        "mmd2_std_upper": cell.shift.interval.upper if cell.shift.interval else None,
        "mmd2_std_se": cell.shift_se, "shift_ratio": cell.shift_ratio.value, "metric": cell.metric.name,
        "score": cell.score, "baseline": cell.baseline, "rpg_specialised": cell.gain.value,
        "rpg_specialised_lower": cell.gain.interval.lower if cell.gain.interval else None,
        "rpg_specialised_upper": cell.gain.interval.upper if cell.gain.interval else None,
        "difference_specialised": cell.gain_difference.value,
        "smallest_difference": cell.metric.smallest_difference, "verdict": cell.verdict.label,
        "pretraining": cell.pretraining.label if cell.pretraining else None,
        "rpg_scratch": cell.gain_scratch.value,
        "steps_to_95": cell.steps_to_95.value, "censored": cell.steps_to_95.censored, "budget": cell.budget,
        "share_of_steps": None if share is None or cell.steps_to_95.censored else share,
        "weight_change": cell.weight_change,
    }  # fmt: skip


def _to_columns(numbers: Iterable[tuple[str, Estimate]], names: Sequence[str], prefix: str) -> dict[str, object]:
    values = {name: number.value for name, number in numbers}
    return {f"{prefix}{name}": values.get(name) for name in names}
