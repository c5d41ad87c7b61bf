"""The rules of the objectives, evaluated by promtool: what burns an error budget fires, and what does not is silent."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.observability import files
from deploy.observability.__main__ import main
from deploy.observability.rules import build_groups, describe_seconds, name_alert
from deploy.observability.settings import SETTINGS, load

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
OBJECTIVES = sorted(SETTINGS.objectives)
KINDS = ("compute-availability", "compute-latency", "probes-success", "checks-success", "jobs-start")
"""One of each kind: others differ by their selectors."""
STEP_MIN, EVENTS = 1, 6000
"""Minutes between two samples, and events in that time."""
HOUR = 60 // STEP_MIN
DURATION_H = 20
CALLS = {
    "compute": 'grpc_service="vfmalign.v1.MmdService",grpc_method="Compute"',
    "compute-batch": 'grpc_service="vfmalign.v1.MmdService",grpc_method="ComputeBatch"',
    "extract": 'grpc_service="vfmalign.v1.FeatureService",grpc_method="Extract"',
    "extract-dataset": 'grpc_service="vfmalign.v1.FeatureService",grpc_method="ExtractDataset"',
    "observe": 'grpc_service="vfmalign.v1.MonitoringService",grpc_method="Observe"',
}
RECORDS = {
    **{f"slo:sli_error:ratio_rate{window}": 2.0 for window in ("5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d")},
    "slo:current_burn_rate:ratio": 2.0,
    "slo:period_burn_rate:ratio": 2.0,
    "slo:period_error_budget_remaining:ratio": -1.0,
}
"""Every ratio that depends on events, and its value where errors are twice as frequent as is allowed."""
COUNTS = ("slo:bad_events:increase5m", "slo:events:increase5m")


def to_series(name: str, bad: Sequence[float], total: float) -> Iterator[dict[str, str]]:
    """The series that an objective reads, with so many bad events of all in each step."""
    for series, steps in to_numbers(name, bad, [total] * len(bad)).items():
        values = " ".join(f"{value:g}" if value < 1e6 else str(int(value)) for value in accumulate(steps, initial=0))
        yield {"series": series, "values": values}


def to_numbers(name: str, bad: Sequence[float], every: Sequence[float]) -> dict[str, Sequence[float]]:
    """By how much the series that an objective reads grow in each step."""
    good = [total - number for number, total in zip(bad, every, strict=True)]
    subject, _, kind = name.rpartition("-")
    bound = SETTINGS.objectives[name].threshold_s
    numbers: dict[str, Sequence[float]]
    if kind == "availability":
        call = CALLS[subject]
        numbers = {
            f'vfmalign_calls_ended_total{{{call},fault="none"}}': good,
            f'vfmalign_calls_ended_total{{{call},fault="server"}}': bad,
        }
    elif name == "probes-success":
        numbers = {
            'vfmalign_probes_total{service="mmd",outcome="succeeded"}': good,
            'vfmalign_probes_total{service="mmd",outcome="failed"}': bad,
        }
    elif name == "checks-success":
        ended = "vfmalign_operations_ended_total"
        numbers = {
            f'{ended}{{kind="check",state="succeeded",fault="none"}}': good,
            f'{ended}{{kind="check",state="failed",fault="system"}}': bad,
            f'{ended}{{kind="check",state="failed",fault="request"}}': [0] * len(bad),
        }
    else:
        histogram, call = "vfmalign_job_queue_wait_seconds", ""
        if subject in CALLS:
            histogram, call = "grpc_server_handling_seconds", CALLS[subject] + ","
        numbers = {
            f'{histogram}_bucket{{{call}le="{bound}"}}': good,
            f'{histogram}_bucket{{{call}le="+Inf"}}': every,
            f"{histogram}_count{{{call}}}": every,
        }
    return numbers


def evaluate(
    folder: Path,
    names: Sequence[str],
    series: Sequence[dict[str, str]],
    queries: Sequence[dict[str, Any]],
    every: str = "5m",
) -> None:
    """Asserts the results of queries, with the rules of these objectives.

    The rules of all objectives take much longer, and so do evaluations every minute, which alerts of minutes need.
    """
    groups = [group for group in build_groups(SETTINGS) if group["name"].endswith(tuple(names))]
    assert len(groups) == 3 * len(names)
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    interval = f"{STEP_MIN}m"
    test = {"interval": interval, "input_series": list(series), "promql_expr_test": list(queries)}
    content = {"rule_files": ["rules.yaml"], "evaluation_interval": every, "tests": [test]}
    content["group_eval_order"] = [group["name"] for group in groups]  # records before the alerts that read them
    (folder / "test.yaml").write_text(yaml.safe_dump(content))
    command = ["promtool", "test", "rules", "test.yaml"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def expect_alerts(hour: float, expected: dict[str, str]) -> dict[str, Any]:
    """Expects these alerts, the severity by objective, and no others."""
    firing = [
        {"labels": f'{{alertname="{name_alert(name)}",sloth_severity="{severity}"}}', "value": 1}
        for name, severities in expected.items()
        for severity in severities.split()
    ]
    expression = 'count by (alertname, sloth_severity) (ALERTS{alertstate="firing"})'
    return {"expr": expression, "eval_time": f"{round(60 * hour)}m", "exp_samples": firing}


def burn(name: str, rate: float, hours: float) -> list[float]:
    """Bad events of each step at a multiple of the allowed rate."""
    return [round(EVENTS * min(1.0, rate * SETTINGS.objectives[name].budget))] * round(hours * HOUR)


@needs_promtool
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_fast_burn_fires_at_once_and_ends_with_its_cause(name: str, tmp_path: Path) -> None:
    """All events are bad from the second to the fourth hour. The page ends within three minutes."""
    bad = [*burn(name, 0, 2), *burn(name, 1e9, 2), *burn(name, 0, 0.1)]
    loud = "page ticket" if SETTINGS.objectives[name].pages else "ticket"
    evaluate(
        tmp_path,
        [name],
        list(to_series(name, bad, EVENTS)),
        [
            expect_alerts(1.9, {}),
            expect_alerts(3.5, {name: loud}),
            expect_alerts(4, {name: loud}),
            expect_alerts(4 + 3 / 60, {name: "ticket"}),
        ],
        every="1m",
    )


@needs_promtool
@pytest.mark.parametrize("name", KINDS)
def test_a_slow_burn_is_a_ticket_that_ends_with_its_cause(name: str, tmp_path: Path) -> None:
    bad = [*burn(name, 2, 10), *burn(name, 0, DURATION_H - 10)]
    evaluate(
        tmp_path,
        [name],
        list(to_series(name, bad, EVENTS)),
        [expect_alerts(9, {name: "ticket"}), expect_alerts(19, {})],
    )


@needs_promtool
@pytest.mark.parametrize("name", KINDS)
def test_errors_that_the_objective_allows_fire_nothing(name: str, tmp_path: Path) -> None:
    series = list(to_series(name, burn(name, 0.5, DURATION_H), EVENTS))
    evaluate(tmp_path, [name], series, [expect_alerts(hour, {}) for hour in (1, 5, 19)])


@needs_promtool
@pytest.mark.parametrize("name", KINDS)
def test_every_record_has_its_value(name: str, tmp_path: Path) -> None:
    one = SETTINGS.objectives[name]
    labels = f'{{sloth_id="{one.service}-{name}", sloth_service="{one.service}", sloth_slo="{name}"}}'
    constants = {
        "slo:objective:ratio": one.objective,
        "slo:error_budget:ratio": one.budget,
        "slo:time_period:days": 30.0,
    }
    values = {
        record: factor * one.budget if record.startswith("slo:sli_error") else factor
        for record, factor in RECORDS.items()
    }
    events = 5 * EVENTS / STEP_MIN
    values |= dict(zip(COUNTS, (2 * one.budget * events, events), strict=True))
    defined = {rule["record"] for group in build_groups(SETTINGS) for rule in group["rules"] if "record" in rule}
    assert defined == values.keys() | constants.keys()
    queries = [
        {
            "expr": f"round(1e5 * sum without (sloth_window) ({record}{labels}))",
            "eval_time": "10h",
            "exp_samples": [{"labels": labels, "value": round(1e5 * value)}],
        }
        for record, value in (values | constants).items()
    ]
    evaluate(tmp_path, [name], list(to_series(name, burn(name, 2, 12), EVENTS)), queries)


@needs_promtool
@pytest.mark.parametrize("name", KINDS)
def test_without_events_there_is_no_ratio_and_no_alert(name: str, tmp_path: Path) -> None:
    """Traffic ends after two hours: the short windows have no sample, and the averages of the period stay."""
    nothing = {"exp_samples": [], "eval_time": "9h"}
    recent = '{__name__=~"slo:sli_error:ratio_rate(5m|30m|1h|2h|6h)|slo:current_burn_rate:ratio"}'
    series = list(to_series(name, [0.0] * (DURATION_H * HOUR), 0))
    evaluate(
        tmp_path,
        [name],
        series,
        [
            nothing | {"expr": '{__name__=~"slo:sli_error:.*|slo:.*burn_rate.*|slo:period_error.*"}'},
            expect_alerts(9, {}),
        ],
    )
    before = list(to_series(name, burn(name, 0.5, 2), EVENTS))
    for one in before:
        one["values"] += f" {one['values'].split()[-1]}x{7 * HOUR}"
    period = {"expr": "count(slo:sli_error:ratio_rate30d == slo:sli_error:ratio_rate30d)", "eval_time": "9h"}
    evaluate(
        tmp_path,
        [name],
        before,
        [nothing | {"expr": recent}, period | {"exp_samples": [{"labels": "{}", "value": 1}]}, expect_alerts(9, {})],
    )


@needs_promtool
def test_faults_of_callers_and_of_requests_burn_nothing(tmp_path: Path) -> None:
    call, operations = f"vfmalign_calls_ended_total{{{CALLS['compute']}", "vfmalign_operations_ended_total"
    rates = {
        f'{call},fault="none"}}': 10,
        f'{call},fault="caller"}}': 20,
        f'{call},fault="pacs"}}': 20,
        f'{call},fault="server"}}': 0,
        f'{operations}{{kind="check",state="succeeded",fault="none"}}': 1,
        f'{operations}{{kind="check",state="failed",fault="request"}}': 9,
        f'{operations}{{kind="check",state="failed",fault="system"}}': 0,
        f'{operations}{{kind="check",state="cancelled",fault="none"}}': 50,
    }
    names = ("compute-availability", "checks-success")
    evaluate(tmp_path, names, to_counters(rates), [expect_errors(names, 0), expect_alerts(10, {})])


@needs_promtool
def test_an_outage_pages_though_a_caller_sends_many_invalid_requests(tmp_path: Path) -> None:
    call = f"vfmalign_calls_ended_total{{{CALLS['compute']}"
    rates = {f'{call},fault="none"}}': 0, f'{call},fault="caller"}}': 1000, f'{call},fault="server"}}': 1}
    name = "compute-availability"
    evaluate(tmp_path, [name], to_counters(rates), [expect_errors([name], 1), expect_alerts(5, {name: "page ticket"})])


@needs_promtool
@pytest.mark.parametrize(
    ("failures", "severities"),
    [
        ([1], "ticket"),
        ([1] * 9, "ticket"),
        ([10], "ticket"),  # a burst, and how it leaves the windows
        ([100, 0], "ticket"),
        ([100, 0, 0], "ticket"),
        ([100, 0, 0, 0, 0], "ticket"),
        ([1] * 10, "page ticket"),
        ([8, 0, 2], "page ticket"),
        ([1] * 10 + [0] * 4, "ticket"),  # it is over
    ],
)
def test_a_page_needs_ten_failures_that_last(failures: list[float], severities: str, tmp_path: Path) -> None:
    """There are four calls an hour in a quiet night, and failures in the last minutes."""
    name, steps = "extract-availability", 6 * HOUR
    bad = [0.0] * (steps - len(failures)) + failures
    every = [one + float(step % (HOUR // 4) == 0) for step, one in enumerate(bad)]
    series = to_processes(to_numbers(name, bad, every), restart=HOUR)
    evaluate(tmp_path, [name], series, [expect_alerts(steps / HOUR, {name: severities})], every="1m")


def to_processes(numbers: Mapping[str, Sequence[float]], restart: int) -> list[dict[str, str]]:
    """Series of two processes that share the events: one is started again, and the other one appears at that time.

    Events after that step go to both in turns. A process that starts exports 0 before its first event.
    """
    series = []
    for name, steps in numbers.items():
        turns = [[value if step % 2 == turn else 0.0 for step, value in enumerate(steps)] for turn in (0, 1)]
        first = [*accumulate(steps[:restart], initial=0), *accumulate(turns[0][restart + 1 :], initial=0)]
        second = ["_"] * restart + [f"{value:g}" for value in accumulate(turns[1][restart:], initial=0)]
        series += [
            {"series": name.replace("{", '{pod="a",'), "values": " ".join(f"{value:g}" for value in first)},
            {"series": name.replace("{", '{pod="b",'), "values": " ".join(second)},
        ]
    return series


@needs_promtool
@pytest.mark.parametrize("name", KINDS)
def test_the_budget_left_is_that_of_all_events(name: str, tmp_path: Path) -> None:
    """Five events of a quiet night are bad, each in minutes of its own, and none of the 5,000 of the day.

    An average of ratios would show the budget as used up many times over.
    """
    night = 4 * HOUR
    bad = [float(step % 45 == 20 and step < night) for step in range(8 * HOUR)]
    every = [one if step < night else 21.0 + (step % 7 == 0) for step, one in enumerate(bad)]
    assert sum(bad) == 5
    restart = 6 * HOUR
    every[restart] = bad[restart] = 0.0  # what happens during a restart is not counted
    left = 1 - sum(bad) / sum(every) / SETTINGS.objectives[name].budget
    value = f"abs(slo:period_error_budget_remaining:ratio - {left:.6f}) < bool 0.01"
    query = {"expr": f"sum({value})", "eval_time": f"{len(bad) + 5}m", "exp_samples": [{"labels": "{}", "value": 1}]}
    numbers = {series: [*steps, *[0.0] * 5] for series, steps in to_numbers(name, bad, every).items()}
    evaluate(tmp_path, [name], to_processes(numbers, restart), [query], every="1m")


@needs_promtool
def test_an_installation_that_fails_is_not_hidden_by_another_one(tmp_path: Path) -> None:
    """Of two in one cluster, a small one fails."""
    call = f"vfmalign_calls_ended_total{{{CALLS['compute']}"
    rates = {
        f'{call},namespace="small",fault="none"}}': 0,
        f'{call},namespace="small",fault="server"}}': 1,
        f'{call},namespace="large",fault="none"}}': 1000,
        f'{call},namespace="large",fault="server"}}': 0,
    }
    fired = {
        "expr": 'count by (namespace) (ALERTS{alertstate="firing"})',
        "eval_time": "5h",
        "exp_samples": [{"labels": '{namespace="small"}', "value": 2}],
    }
    left = {
        "expr": "sum by (namespace) (slo:period_error_budget_remaining:ratio)",
        "eval_time": "5h",
        "exp_samples": [
            {"labels": '{namespace="small"}', "value": -199},
            {"labels": '{namespace="large"}', "value": 1},
        ],
    }
    evaluate(tmp_path, ["compute-availability"], to_counters(rates), [fired, left])


def to_counters(rates: dict[str, int]) -> list[dict[str, str]]:
    """Series that grow by so much in each step."""
    return [{"series": name, "values": f"0+{rate}x{DURATION_H * HOUR}"} for name, rate in rates.items()]


def expect_errors(names: Sequence[str], ratio: float) -> dict[str, Any]:
    """Expects the share of bad events within an hour."""
    samples = [{"labels": f'{{sloth_slo="{name}"}}', "value": ratio} for name in names]
    return {"expr": "sum by (sloth_slo) (slo:sli_error:ratio_rate1h)", "eval_time": "5h", "exp_samples": samples}


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("compute-latency: {service: mmd, objective: 0.9, threshold_s: 45}", "no bound 45.0 s. Set .* 10, 30, 60, 300"),
        ("jobs-start: {service: finetuning, objective: 0.9}", "jobs-start: .* has no bound None s"),
        ("compute-beauty: {service: mmd, objective: 0.9}", "compute-beauty: there is no such objective"),
    ],
)
def test_an_objective_that_nothing_measures_is_refused(objective: str, message: str) -> None:
    ticket = objective.replace("}", ", pages: false}")
    settings = load(f"{{docs: x, period_days: 30, objectives: {{{ticket}}}}}")
    with pytest.raises(ValueError, match=message):
        build_groups(settings)


def test_an_objective_whose_alerts_would_never_fire_is_refused() -> None:
    text = "{docs: x, period_days: 30, objectives: {jobs-start: {service: finetuning, objective: %s, pages: %s}}}"
    with pytest.raises(ValueError, match=r"jobs-start: with the objective .* never fires"):
        load(text % ("0.9", "true"))
    assert load(text % ("0.9", "false")).objectives["jobs-start"].budget == 0.1
    with pytest.raises(ValueError, match="objective"):
        load(text % ("99.5", "true"))
    with pytest.raises(ValueError, match="period_days"):  # as long as a window of the alerts
        load((text % ("0.9", "false")).replace("30", "3"))


def test_an_alert_says_what_its_objective_is() -> None:
    objectives = "compute-latency: {service: mmd, objective: 0.9995, threshold_s: 0.25}"
    groups = build_groups(load(f"{{docs: x, period_days: 30, objectives: {{{objectives}}}}}"))
    alerts = [rule for group in (*build_groups(SETTINGS), *groups) for rule in group["rules"] if "alert" in rule]
    summaries = {alert["annotations"]["summary"] for alert in alerts}
    assert {
        "Compute takes longer than 1 min more often than the objective of 95 % allows.",
        "Jobs wait longer than 4 h until they start more often than the objective of 90 % allows.",
        "Compute takes longer than 0.25 s more often than the objective of 99.95 % allows.",
    } <= summaries
    assert not any("{" in summary for summary in summaries)


def test_wrong_settings_are_named_and_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = "{docs: x, period_days: 30, objectives: {compute-beauty: {service: mmd, objective: 0.99}}}"
    monkeypatch.setattr(files, "SETTINGS", load(settings))
    monkeypatch.setattr(Path, "write_text", lambda path, _: pytest.fail(f"{path} is written"))
    with pytest.raises(SystemExit, match=r"settings\.yaml: compute-beauty: there is no such objective\. Name one of"):
        main()


def test_the_documentation_states_the_objectives() -> None:
    lines = (files.ROOT / "docs" / "operations.md").read_text().splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines]
    rows = {row[0].strip("`"): row[1:] for row in cells if len(row) == 5}
    for name, one in SETTINGS.objectives.items():
        good, _, share, pages = rows[name]
        assert (share, pages) == (f"{100 * one.objective:g} %", "yes" if one.pages else "no")
        assert one.threshold_s is None or f" within {describe_seconds(one.threshold_s)}" in good
