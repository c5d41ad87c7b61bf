"""Recording and alert rules of the objectives, under the names that Sloth gives them.

A rule that divides filters its divisor by `> 0`. Without events it has no sample, and not 0/0, which would raise or
hide alerts. The ratio over the period divides sums of recorded counts: an average of ratios would give a quiet night
the weight of a busy day.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from deploy.observability.settings import FASTEST_BURN, FASTEST_TICKET, Objective, Settings

from vfmalign.core.runtime.metrics import SECONDS
from vfmalign.finetuning.metrics import WAIT_SECONDS

Rule = dict[str, Any]

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
"""Windows of the ratios that are computed from events."""
PAGE = ((FASTEST_BURN, "5m", "1h"), (6, "30m", "6h"))
TICKET = ((FASTEST_TICKET, "2h", "1d"), (1, "6h", "3d"))
"""Burn rates with a short and a long window. An alert fires if both show the rate; the short one ends it early."""

_METHODS = {
    "compute": ("vfmalign.v1.MmdService", "Compute"),
    "compute-batch": ("vfmalign.v1.MmdService", "ComputeBatch"),
    "extract": ("vfmalign.v1.FeatureService", "Extract"),
    "extract-dataset": ("vfmalign.v1.FeatureService", "ExtractDataset"),
    "observe": ("vfmalign.v1.MonitoringService", "Observe"),
}
_BOUNDS = {"grpc_server_handling_seconds": SECONDS, "vfmalign_job_queue_wait_seconds": WAIT_SECONDS}
_PANEL = "/d/vfmalign-operations?viewPanel=3"
"""Burn rates, on the dashboard of operations."""
_TEXTS = {
    # Summaries, in which `{bound}` is `threshold_s`, and descriptions of the alerts.
    **{
        f"{subject}-availability": (
            f"{method} fails",
            "The panel `Failures of the server by reason` and the log lines `call` of {service} show the reasons.",
        )
        for subject, (_, method) in _METHODS.items()
    },
    "compute-latency": (
        "Compute takes longer than {bound}",
        "Look at the length of the queue, the CPU time of mmd, and the sizes of the requests.",
    ),
    "extract-latency": (
        "Extract takes longer than {bound}",
        "Look at the length of the queue, the durations of the stages of work, and the storage or PACS from which "
        "studies are read.",
    ),
    "checks-success": (
        "Checks and jobs fail by a fault of the system",
        "`vfmalign checks list --state failed` and `vfmalign jobs list --state failed` list them. `show ID` gives the "
        "cause and the remedy.",
    ),
    "probes-success": (
        "Probes of the services and of the object storage fail",
        "The panel `Failed probes per hour` shows which. The log line `probe_failed` of {service} gives the reason.",
    ),
    "jobs-start": (
        "Jobs wait longer than {bound} until they start",
        "The panel `Jobs that wait, by reason` and `vfmalign jobs show ID` show what the jobs wait for.",
    ),
}


def build_groups(settings: Settings) -> list[dict[str, Any]]:
    """Returns the groups of all objectives, as Sloth names them.

    Raises:
        ValueError: an objective has no measurement, or its threshold is not a bound of its histogram.
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
    bad, total = _find_events(name, one)
    for window in WINDOWS:
        ratio = f"({_add('rate', bad, f'[{window}]')})\n/\n({_add('rate', total, f'[{window}]')} > 0)"
        yield _record(f"slo:sli_error:ratio_rate{window}", ratio, labels | {"sloth_window": window})
    counts = {"slo:bad_events:increase5m": bad, "slo:events:increase5m": total}
    for record, events in counts.items():
        yield _record(record, _add("increase", events, "[5m]"), labels)
    # Windows of five minutes overlap, so that each event is in as many bad as total counts.
    over_period = (f"sum_over_time({record}{_select(labels)}[{days}d])" for record in counts)
    ratio = "{}\n/\n({} > 0)".format(*over_period)
    yield _record(f"slo:sli_error:ratio_rate{days}d", ratio, labels | {"sloth_window": f"{days}d"})


def _find_events(name: str, one: Objective) -> tuple[list[str], list[str]]:
    """Returns counters of the bad events and of all events; those after the first one are subtracted from it."""
    subject, _, kind = name.rpartition("-")
    if name == "jobs-start":
        return _find_slow(name, "vfmalign_job_queue_wait_seconds", "", one)
    if name == "probes-success":
        return ['vfmalign_probes_total{outcome="failed"}'], ["vfmalign_probes_total"]
    if name == "checks-success":
        ends = ('state="failed",fault="system"', 'state=~"succeeded|failed"')
        bad, total = (f'vfmalign_operations_ended_total{{kind=~"job|check",{end}}}' for end in ends)
        return [bad], [total]
    service, method = _METHODS[subject]
    call = f'grpc_service="{service}",grpc_method="{method}"'
    if kind == "latency":
        return _find_slow(name, "grpc_server_handling_seconds", call, one)
    calls = f"vfmalign_calls_ended_total{{{call}"
    return [f'{calls},fault="server"}}'], [f'{calls},fault=~"none|server"}}']


def _find_slow(name: str, histogram: str, selector: str, one: Objective) -> tuple[list[str], list[str]]:
    if one.threshold_s not in _BOUNDS[histogram]:
        known = ", ".join(f"{bound:g}" for bound in _BOUNDS[histogram])
        raise ValueError(f"{name}: {histogram} has no bound {one.threshold_s} s. Set `threshold_s` to one of {known}.")
    total = f"{histogram}_count{{{selector}}}"
    bound = ",".join(filter(None, (selector, f'le="{one.threshold_s}"')))
    return [total, f"{histogram}_bucket{{{bound}}}"], [total]


def _add(function: str, counters: list[str], window: str) -> str:
    """Returns the events of counters in each installation: several in one cluster have namespaces of their own."""
    return "\n-\n".join(f"sum by (namespace) ({function}({counter}{window}))" for counter in counters)


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
    selector = _select(labels)
    rules = {"ticket": _any(_burn(one, *windows, selector) for windows in TICKET)}
    if one.pages:
        rules = {"page": _page(name, one, selector)} | rules
    for sloth, expression in rules.items():
        severity = "critical" if sloth == "page" else "warning"
        yield {
            "alert": name_alert(name),
            "expr": expression,
            # Alertmanager silences what follows from a service that is down, by its job.
            "labels": {"severity": severity, "sloth_severity": sloth, "job": f"vfmalign-{one.service}"},
            "annotations": {
                "summary": f"{summary} more often than the objective of {round(100 * one.objective, 6):g} % allows.",
                "description": description.format(service=one.service),
                "runbook_url": f"docs/runbooks.md#{name_alert(name).lower()}",
                "dashboard_url": _PANEL,
            },
        }


def _page(name: str, one: Objective, selector: str) -> str:
    """Returns the expression of a page: a burn with enough bad events, some of the last two minutes and some before.

    One burst, such as the calls of one client with too short a deadline, wakes nobody, and a page ends soon after its
    cause. Increases are extrapolated to fractions of events, hence the halves.
    """
    bad, _ = _find_events(name, one)

    def require(number: float, window: str) -> str:
        return f"and on (namespace)\n({_add('increase', bad, window)}) > {number}"

    burns = (
        f"{_burn(one, rate, short, long, selector)}\n{require(one.page_events - 0.5, f'[{long}]')}"
        for rate, short, long in PAGE
    )
    return f"(\n{_any(burns)}\n)\n{require(0.5, '[2m]')}\n{require(0.5, '[1h] offset 2m')}"


def _any(expressions: Iterable[str]) -> str:
    return "\nor\n".join(f"(\n{expression}\n)" for expression in expressions)


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
