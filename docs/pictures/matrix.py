"""The published experiment as a matrix of models and tasks, from docs/evidence/report.json."""

from __future__ import annotations

import textwrap
from pathlib import Path

from canvas import LINE, Canvas

from vfmalign.analysis.experiments.averages import SeedAverage
from vfmalign.analysis.experiments.report import ExperimentReport
from vfmalign.client.formatting import format_number

REPORT = Path(__file__).parents[1] / "evidence" / "report.json"
LEFT, TOP, CELL, GAP = 240, 92, (144, 52), 6
"""Left and upper edge of the cells, their size, and the space between them, in pixels."""
UNITS = {"classification": "AUROC", "segmentation": "Dice", "super_resolution": "dB", "denoising": "dB"}


def draw_experiment() -> Canvas:
    """Every model in every task: the difference from the specialised network and the shift."""
    report = ExperimentReport.model_validate_json(REPORT.read_bytes())
    averages = {(one.model_id, one.task): one for one in report.averages}
    models, tasks = sorted({model for model, _ in averages}), sorted({task for _, task in averages})
    bottom = TOP + len(models) * (CELL[1] + GAP)
    canvas = Canvas(
        LEFT + len(tasks) * (CELL[0] + GAP) + 10,
        bottom + 76,
        "The experiment's models and tasks",
        "; ".join(f"{model} in {task}: {describe(one)}" for (model, task), one in sorted(averages.items())),
    )
    for column, name in enumerate(tasks):
        kind, _, parameters = name.partition(":")
        middle = LEFT + column * (CELL[0] + GAP) + CELL[0] // 2
        canvas.text((middle, 24), kind.replace("_", " "), "title", anchor="middle")
        values = [parameter.partition("=")[2].replace("_", " ") for parameter in parameters.split(",")]
        lines = [*textwrap.wrap(", ".join(values), 22), f"difference in {UNITS[kind]}"]
        for number, line in enumerate(lines, 1):
            canvas.text((middle, 24 + LINE * number), line, "small", anchor="middle")
    for row, model in enumerate(models):
        y = TOP + row * (CELL[1] + GAP)
        canvas.text((10, y + CELL[1] // 2 + 5), model)
        for column, name in enumerate(tasks):
            one = averages[model, name]
            difference = f"{sign(one)} {format_signed(one.gain_difference.value)}"
            shift = f"MMD² {format_number(one.shift.value)}{' †' if one.flags.saturated else ''}"
            canvas.box((LEFT + column * (CELL[0] + GAP), y), CELL, difference, shift, kind=judge(one))
    canvas.box((10, bottom + 12), (16, 16), "", kind="gpu")
    canvas.text((34, bottom + 25), "▲ gain over a network made for the task", "small")
    canvas.box((420, bottom + 12), (16, 16), "", kind="box")
    canvas.text((444, bottom + 25), "≈ equivalent, ○ inconclusive", "small")
    canvas.box((740, bottom + 12), (16, 16), "", kind="harm")
    canvas.text((764, bottom + 25), "▼ harm", "small")
    canvas.text(
        (10, bottom + 54),
        "Means over the seeds; verdicts by intervals over seeds and patients. MMD²: how far features moved. "
        "† saturated: it no longer grows with the distance.",
        "small",
    )
    return canvas


def judge(one: SeedAverage) -> str:
    """Returns the kind of box for a verdict."""
    return {"gain": "gpu", "harm": "harm"}.get(one.verdict.label, "box")


def sign(one: SeedAverage) -> str:
    """Returns the sign of a verdict, which says the same as the colour where it has one."""
    return {"gain": "▲", "harm": "▼", "equivalent": "≈"}.get(one.verdict.label, "○")


def describe(one: SeedAverage) -> str:
    """Returns one cell in words."""
    verdict = one.verdict.label.replace("_", " ")
    return f"{format_signed(one.gain_difference.value)}, {verdict}, MMD² {format_number(one.shift.value)}"


def format_signed(value: float | None) -> str:
    """Formats a difference with its sign."""
    return f"+{format_number(value)}" if value is not None and value > 0 else format_number(value)
