"""First screen of an experiment's page: the cautions, and the figures that are shown beside the three answers."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from vfmalign.analysis.checks.cautions import Caution
from vfmalign.analysis.experiments.answers import VERDICT_TEXTS
from vfmalign.analysis.experiments.claims import Claim, ClaimName
from vfmalign.analysis.experiments.points import SHIFT
from vfmalign.analysis.experiments.report import ExperimentReport
from vfmalign.analysis.experiments.strata import Design
from vfmalign.client.formatting import format_correlation, format_p_value
from vfmalign.client.messages.checks import VerdictLabel
from vfmalign.client.messages.common import Estimate
from vfmalign.core.formats.documents import pluralise
from vfmalign.reports.drawing.charts import ForestRow, SharePart, draw_forest, draw_shares

_COMPARISONS: dict[Design, str] = {"within_task": "across models", "within_model": "across tasks"}
VERDICT_MARKS: dict[VerdictLabel, str] = {"gain": "▲", "equivalent": "≈", "harm": "▼"}
_ENDS: dict[ClaimName, tuple[str, str]] = {
    "gain": ("less shift, more gain", "less shift, less gain"),
    "convergence": ("less shift, slower", "less shift, faster"),
}


@dataclass(frozen=True)
class FirstScreen:
    """Content of the first screen, in addition to the answers.

    Attributes:
        gain, convergence: figures of the correlation of the shift with the gain (`gain`) and with convergence
            (`convergence`).
        shares: figure that shows how many pairs of model and task have each verdict; None if there are no pairs.
        not_beaten: text that states how many pairs of model and task do not beat the naive baseline; empty if all pairs
            beat it.
    """

    cautions: tuple[Caution, ...]
    gain: Markup
    convergence: Markup
    shares: Markup | None
    not_beaten: str


def make_first_screen(report: ExperimentReport) -> FirstScreen:
    """Builds the first screen."""
    not_beaten = sum(average.flags.not_beaten for average in report.averages)
    shares = None
    if report.averages:
        parts = [
            SharePart(VERDICT_MARKS.get(label, ""), text, report.answers.verdicts.get(label, 0), label)
            for label, text in VERDICT_TEXTS.items()
            if not label.startswith("insufficient_") or label in report.answers.verdicts
        ]
        title = "Pairs of model and task, by their verdict over a specialised network"
        shares = draw_shares(parts, identifier="verdict-counts", title=title)
    return FirstScreen(
        cautions=list_cautions(report),
        gain=draw_claims(report, "gain", "Rank correlation of shift and gain"),
        convergence=draw_claims(report, "convergence", "Rank correlation of shift and steps to 95 %"),
        shares=shares,
        not_beaten=f"{not_beaten} of {pluralise(len(report.averages), 'pair')}" if not_beaten else "",
    )


def list_cautions(report: ExperimentReport) -> tuple[Caution, ...]:
    """Lists the cautions that apply to all numbers of the report."""
    cautions = []
    if report.phantom:
        cautions.append(
            Caution(
                title="Rehearsal on phantoms: not evidence",
                text="The cases are generated and do not come from patients. The numbers show that the procedure "
                "runs, but they do not show how useful a model is in a clinic.",
            )
        )
    if any(cell.flags.not_held_out for cell in report.cells):
        text = "In some cells the same case is in several splits. The numbers describe these runs only."
        cautions.append(Caution(title="Not held out", text=text))
    if unknown := sorted({cell.model_id for cell in report.cells if not cell.leakage_known}):
        verb = "is" if len(unknown) == 1 else "are"
        text = f"The pretraining data of {', '.join(unknown)} {verb} unknown and may include test cases."
        cautions.append(Caution(title="Pretraining set unknown", text=text))
    if report.missing:
        cells = pluralise(len(report.cells) + len(report.missing), "cell")
        text = f"{len(report.missing)} of {cells} ended without a result and enter no number on this page."
        cautions.append(Caution(title="Incomplete", text=text))
    return tuple(cautions)


def draw_claims(report: ExperimentReport, outcome: ClaimName, title: str) -> Markup:
    """Draws the mean rank correlation of shift and outcome, across models and across tasks, on an axis around zero."""
    rows = [
        ForestRow(_COMPARISONS[claim.design], Estimate(value=claim.rho), _describe(claim))
        for claim in report.claims
        if (claim.claim, claim.shift_measure) == (outcome, SHIFT.name)
    ]
    return draw_forest(
        rows,
        identifier=f"{outcome}-forest",
        title=f"{title}, about zero",
        ends=_ENDS[outcome],
        limits=(-1.0, 1.0),
        format_tick=lambda value: format_correlation(value, 1) if value else "0",
    )


def _describe(claim: Claim) -> str:
    if claim.rho is None:
        return "absent"
    test = "no test" if claim.test is None else f"p = {format_p_value(claim.test.p_two_sided)}"
    return f"{format_correlation(claim.rho)}, {test}"
