"""Recording and alert rules of the objectives, under the names that Sloth gives them.

A rule that divides filters its divisor by `> 0`. Without events it has no sample, and not 0/0, which would stay in the
averages over the period and raise or hide alerts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deploy.observability.settings import FASTEST_BURN, FASTEST_TICKET, Objective, Settings

from vfmalign.core.runtime.metrics import SECONDS
from vfmalign.finetuning.metrics import WAIT_SECONDS

Rule = dict[str, Any]

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
"""Windows of the ratios that are computed from events."""
PAGE = ((FASTEST_BURN, "5m", "1h"), (6, "30m", "6h"))
_SECONDS = {"1h": 3600, "6h": 6 * 3600}
"""Of the longer windows of pages."""
TICKET = ((FASTEST_TICKET, "2h", "1d"), (1, "6h", "3d"))
"""Burn rates, and the short and the long window that both have to show them: the short one ends the alert early."""

_METHODS = {"compute": ("vfmalign.v1.MmdService", "Compute"), "extract": ("vfmalign.v1.FeatureService", "Extract")}
_BOUNDS = {"grpc_server_handling_seconds": SECONDS, "vfmalign_job_queue_wait_seconds": WAIT_SECONDS}
_PANEL = "/d/vfmalign-operations?viewPanel=3"
"""Burn rates, on the dashboard of operations."""
_TEXTS = {
    # Summaries, in which `{bound}` is `threshold_s`, and descriptions of the alerts.
    "compute-availability": (
        "Compute fails",
        "The panel `Failures of the server by reason` has the reasons, as have the lines `call` of mmd.",
    ),
    "compute-latency": (
        "Compute takes longer than {bound}",
        "Compare the queue, the CPU of mmd, and the size of the requests.",
    ),
    "extract-availability": (
        "Extract fails",
        "The panel `Failures of the server by reason` has the reasons, as have the lines `call` of features.",
    ),
    "extract-latency": (
        "Extract takes longer than {bound}",
        "Compare the queue, the stages of work, and the storage or PACS from which studies are read.",
    ),
    "checks-success": (
        "Checks and jobs fail by a fault of the system",
        "`vfmalign checks list --state failed` and `vfmalign jobs list --state failed` name them, and `show ID` the "
        "cause and the remedy.",
    ),
    "jobs-start": (
        "Jobs wait longer than {bound} until they start",
        "The panel `Jobs that wait, by reason` and `vfmalign jobs show ID` say what they wait for.",
    ),
}


def build_groups(settings: Settings) -> list[dict[str, Any]]:
    """Returns the groups of all objectives, as Sloth names them.

    Raises:
        ValueError: an objective is about nothing that is measured, or its bound is none of its histogram.
    """
    if unknown := settings.objectives.keys() - _TEXTS.keys():
        raise ValueError(f"{min(unknown)}: there is no such objective. Name one of {', '.join(_TEXTS)}.")
    return [group for name in settings.objectives for group in _build_groups(name, settings)]


def name_alert(objective: str) -> str:
    """Returns the name of the alerts of an objective, such as `VfmalignComputeLatency`."""
    return "Vfmalign" + "".join(part.capitalize() for part in objective.split("-"))


def _build_groups(name: str, settings: Settings) -> Iterator[dict[str, Any]]:
    one = settings.objectives[name]
    labels = {"sloth_id": f"{one.service}-{name}", "sloth_service": one.service, "sloth_slo": name}
    kinds = {
        "sli-recordings": list(_record_errors(name, one, settings.period_days, labels)),
        "meta-recordings": list(_record_budget(one, settings.period_days, labels)),
        "alerts": list(_alert(name, one, labels)),
    }
    for kind, rules in kinds.items():
        yield {"name": f"sloth-slo-{kind}-{labels['sloth_id']}", "rules": rules}


def _record_errors(name: str, one: Objective, days: int, labels: dict[str, str]) -> Iterator[Rule]:
    for window in WINDOWS:
        bad, total = _count_events(name, one, window)
        yield _record(
            f"slo:sli_error:ratio_rate{window}", f"({bad})\n/\n({total} > 0)", labels | {"sloth_window": window}
        )
    short = f"slo:sli_error:ratio_rate5m{_select(labels)}[{days}d]"
    average = f"sum_over_time({short})\n/ ignoring (sloth_window)\ncount_over_time({short})"
    yield _record(f"slo:sli_error:ratio_rate{days}d", average, labels | {"sloth_window": f"{days}d"})


def _count_events(name: str, one: Objective, window: str) -> tuple[str, str]:
    """Returns the expressions of the rates of bad and of all events."""
    subject, _, kind = name.partition("-")
    if subject in _METHODS:
        service, method = _METHODS[subject]
        call = f'grpc_service="{service}",grpc_method="{method}"'
        if kind == "latency":
            return _count_slow(name, "grpc_server_handling_seconds", call, one, window)
        bad, total = (
            f"vfmalign_calls_ended_total{{{call},{fault}}}" for fault in ('fault="server"', 'fault=~"none|server"')
        )
    elif name == "jobs-start":
        return _count_slow(name, "vfmalign_job_queue_wait_seconds", "", one, window)
    else:
        bad, total = (
            f'vfmalign_operations_ended_total{{kind=~"job|check",{ends}}}'
            for ends in ('state="failed",fault="system"', 'state=~"succeeded|failed"')
        )
    return _rate(bad, window), _rate(total, window)


def _count_slow(name: str, histogram: str, selector: str, one: Objective, window: str) -> tuple[str, str]:
    if one.threshold_s not in _BOUNDS[histogram]:
        known = ", ".join(f"{bound:g}" for bound in _BOUNDS[histogram])
        raise ValueError(f"{name}: {histogram} has no bound {one.threshold_s} s. Set `threshold_s` to one of {known}.")
    total = _rate(f"{histogram}_count{{{selector}}}", window)
    bound = ",".join(filter(None, (selector, f'le="{one.threshold_s}"')))
    return f"{total}\n-\n{_rate(f'{histogram}_bucket{{{bound}}}', window)}", total


def _rate(counter: str, window: str) -> str:
    """Returns the rate of a counter in each installation: several in one cluster have namespaces of their own."""
    return f"sum by (namespace) (rate({counter}[{window}]))"


def _record_budget(one: Objective, days: int, labels: dict[str, str]) -> Iterator[Rule]:
    selector = _select(labels)
    by = "on(sloth_id, sloth_slo, sloth_service) group_left"
    yield _record("slo:objective:ratio", f"vector({one.objective})", labels)
    yield _record("slo:error_budget:ratio", f"vector({one.budget})", labels)
    yield _record("slo:time_period:days", f"vector({days})", labels)
    for record, window in (("slo:current_burn_rate:ratio", "5m"), ("slo:period_burn_rate:ratio", f"{days}d")):
        ratio = f"slo:sli_error:ratio_rate{window}{selector}\n/ {by}\nslo:error_budget:ratio{selector}"
        yield _record(record, ratio, labels)
    yield _record("slo:period_error_budget_remaining:ratio", f"1 - slo:period_burn_rate:ratio{selector}", labels)


def _alert(name: str, one: Objective, labels: dict[str, str]) -> Iterator[Rule]:
    summary, description = _TEXTS[name]
    summary = summary.format(bound=describe_seconds(one.threshold_s or 0))
    for severity, sloth, windows in (("critical", "page", PAGE), ("warning", "ticket", TICKET)):
        if sloth == "page" and not one.pages:
            continue
        burns = [_burn(one, rate, short, long, _select(labels)) for rate, short, long in windows]
        if sloth == "page":
            burns = [
                f"{burn}\nand on (namespace)\n{_require_events(name, one, long)}"
                for burn, (_, _, long) in zip(burns, windows, strict=True)
            ]
        yield {
            "alert": name_alert(name),
            "expr": "\nor\n".join(f"(\n{burn}\n)" for burn in burns),
            "labels": {"severity": severity, "sloth_severity": sloth},
            "annotations": {
                "summary": f"{summary} more often than the objective of {round(100 * one.objective, 6):g} % allows.",
                "description": description,
                "runbook_url": f"docs/operations.md#{name_alert(name).lower()}",
                "dashboard_url": _PANEL,
            },
        }


def _require_events(name: str, one: Objective, window: str) -> str:
    """Returns an expression that is empty where there are too few bad events in a window for a page."""
    bad, _ = _count_events(name, one, window)
    return f"{_SECONDS[window]} * ({bad}) > {one.page_events - 0.5}"  # rates extrapolate to fractions of events


def describe_seconds(seconds: float) -> str:
    """Returns a duration in its largest whole unit, such as `4 h`."""
    units = (("h", 3600), ("min", 60), ("s", 1))
    unit, size = next((unit, size) for unit, size in units if seconds % size == 0 or size == 1)
    return f"{seconds / size:g} {unit}"


def _burn(one: Objective, rate: float, short: str, long: str, selector: str) -> str:
    ratios = (f"slo:sli_error:ratio_rate{window}{selector}" for window in (short, long))
    return "\nand\n".join(f"max({ratio} > ({rate} * {one.budget})) without (sloth_window)" for ratio in ratios)


def _record(name: str, expression: str, labels: dict[str, str]) -> Rule:
    return {"record": name, "expr": expression, "labels": labels}


def _select(labels: dict[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
