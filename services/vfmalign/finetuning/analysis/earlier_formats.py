"""Fields of stored artifacts that also accept what development versions before 0.1.0 wrote.

Their records had names of their own for what the API's messages hold. Each type below validates like the message it
names, after renaming those keys. New artifacts have the keys of the messages.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from vfmalign.client.messages.checks import Convergence, Gain, Probe
from vfmalign.client.messages.jobs import CurvePoint
from vfmalign.client.messages.mmd import ComputeResponse
from vfmalign.finetuning.analysis.verdict import Verdict


def _rename_keys(**names: str) -> BeforeValidator:
    """Returns a validator that renames keys of a JSON object, by earlier name, and passes on everything else."""

    def rename(content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        return {names.get(key, key): value for key, value in content.items()}

    return BeforeValidator(rename)


def _read_comparison(content: Any) -> Any:
    """Converts a comparison that has one number of rows, and pairs of coordinates in its projection."""
    if not isinstance(content, dict) or "rows" not in content:
        return content
    comparison = dict(content)
    comparison["rows_x"] = comparison["rows_y"] = comparison.pop("rows")
    if (projection := comparison.get("projection")) is not None:
        comparison["projection"] = {
            "x": [{"u": u, "v": v} for u, v in projection["before"]],
            "y": [{"u": u, "v": v} for u, v in projection["after"]],
            "explained_variance": projection["explained_variance"],
        }
    return comparison


def _read_verdict(content: Any) -> Any:
    """Converts `no_clear_gain`, an interval that includes 0 without a smallest relevant difference."""
    if not isinstance(content, dict) or content.get("label") != "no_clear_gain":
        return content
    return content | {"label": "inconclusive"}


def read_network_result(content: Any) -> Any:
    """Moves a network's steps to the specialised network's best score into its convergence."""
    if not isinstance(content, dict) or "steps_to_specialised" not in content:
        return content
    network = dict(content)
    steps = network.pop("steps_to_specialised") or {}
    network["convergence"] = network["convergence"] | {"steps_to_baseline": steps}
    return network


StoredGain = Annotated[Gain, _rename_keys(relative="relative_percent", difference="absolute")]
StoredVerdict = Annotated[Verdict, BeforeValidator(_read_verdict)]
StoredConvergence = Annotated[Convergence, _rename_keys(budget="steps")]
StoredProbe = Annotated[Probe, _rename_keys(val_score="validation_score")]
StoredCurvePoint = Annotated[CurvePoint, _rename_keys(val_score="validation_score")]
StoredComparison = Annotated[ComputeResponse, BeforeValidator(_read_comparison)]
