"""The dashboards are those that `make dashboards` writes, show metrics that exist, and lead to their runbooks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from deploy.observability.files import DASHBOARDS, render_files
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families
from tests.alert_rules import load_groups, load_rules
from tests.dashboards import FOLDER, NAMES, ROOT, fill_in, list_plots, list_queries, load_board

from vfmalign.core.rpc.call_metrics import DENIALS, Fault
from vfmalign.core.runtime.metrics import REGISTRY, announce_build
from vfmalign.core.storage.store.attempts import Operation

COLUMNS = 24
SCRAPES = Path(__file__).with_name("scrapes")
"""What exporters of others export, in excerpts."""
LARGEST_OBJECT_BYTES = 250_000
"""`kubectl apply` notes an object in an annotation of at most 256 KiB."""
_METRIC = re.compile(r"\b((?:vfmalign|grpc_server|process|kube|DCGM)_\w+|slo:[\w:]+|up(?={))(?:\{([^}]*)\})?")
_BY = re.compile(r"\b(by|on) \(([\w, ]+)\)")
_LEGEND = re.compile(r"\{\{(\w+)\}\}")
_TARGET_LABELS = {"job", "pod", "instance", "namespace"}
"""What Prometheus adds to every series."""
_SUFFIXES = ("", "_total", "_bucket", "_count", "_sum")
NOT_SHOWN = {
    "grpc_server_started": "its calls are shown when they end",
    "vfmalign_deleted_objects": "deletions are rare, and the log names each",
    "vfmalign_deleted_bytes": "the same",
    "vfmalign_build_info": "the variables of the dashboards read it",
    "vfmalign_engine_cpu_seconds": "a comparison counts when it ends; the CPU of its process shows whether it works",
    "vfmalign_pacs_received_bytes": "no question of an operator is about it",
}


@pytest.fixture(params=NAMES)
def board(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load_board(request.param)


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """The labels of every metric that services, rules and exporters of others have, by the name of its samples."""
    for package in ("features", "mmd", "finetuning", "monitoring", "database"):
        import_module(f"vfmalign.{package}.metrics")
    announce_build()
    found: dict[str, set[str]] = {"up": set()}  # which Prometheus itself records of every target
    for name, metric in REGISTRY._names_to_collectors.items():
        own = set(getattr(metric, "_labelnames", ()))
        for sample in {name} | {f"{name}{suffix}" for suffix in _SUFFIXES}:
            found[sample] = own | ({"le"} if sample.endswith("_bucket") else set())
    for group in load_groups():
        found |= {rule["record"]: set(rule["labels"]) for rule in group["rules"] if "record" in rule}
    for path in SCRAPES.glob("*.txt"):
        for family in text_string_to_metric_families(path.read_text()):
            found[family.name] = {label for sample in family.samples for label in sample.labels}
    return found


def test_every_generated_file_is_up_to_date() -> None:
    files = render_files()
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.json" for name in NAMES}
    assert set(DASHBOARDS) == set(NAMES)
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    assert stale == [], "run `make dashboards`"


def test_the_sdk_of_grafana_reads_every_dashboard_and_loses_nothing(board: dict[str, Any]) -> None:
    register_default_plugins()
    again = JSONEncoder(sort_keys=True).encode(Dashboard.from_json(board))
    assert json.loads(again) == board


def check_names(expression: str, labels: dict[str, set[str]]) -> tuple[set[str], set[str]]:
    """Asserts that metrics and labels exist; returns the labels that group the result, and all of the metrics."""
    used = _METRIC.findall(expression)
    assert used, expression
    named = [(kind, label.strip()) for kind, found in _BY.findall(expression) for label in found.split(",")]
    grouped = {label for kind, label in named if kind == "by"}
    for name, selector in used:
        assert name in labels, f"{name} is exported by nobody"
        selected = set(re.findall(r"(\w+)[=!]", selector))
        assert selected <= labels[name] | _TARGET_LABELS, expression
    known = set.union(*(labels[name] for name, _ in used)) | _TARGET_LABELS
    assert {label for _, label in named} <= known, expression
    return grouped, known


def test_every_query_reads_metrics_and_labels_that_exist(board: dict[str, Any], labels: dict[str, set[str]]) -> None:
    for query in list_queries(board):
        grouped, known = check_names(query["expr"], labels)
        shown = set(_LEGEND.findall(query["legendFormat"]))
        assert shown <= (grouped or known), "a legend names labels that the series lack"
        of_one = "namespace" not in query["expr"]  # a constant, or what knows no installation, such as a node
        assert of_one or query["legendFormat"].startswith("{{namespace}} "), "two installations would look the same"


def test_every_rule_reads_metrics_and_labels_that_exist(labels: dict[str, set[str]]) -> None:
    for group in load_groups():
        for rule in group["rules"]:
            if not rule["expr"].startswith("vector("):
                check_names(rule["expr"], labels)


def test_every_metric_is_shown_or_listed(labels: dict[str, set[str]]) -> None:
    queries = [query["expr"] for name in NAMES for query in list_queries(load_board(name))]
    rules = [rule["expr"] for group in load_groups() for rule in group["rules"]]
    shown = {name for query in (*queries, *rules) for name, _ in _METRIC.findall(query)}
    exported = {metric._name for metric in set(REGISTRY._names_to_collectors.values()) if hasattr(metric, "_name")}
    missing = {name for name in exported if not {f"{name}{suffix}" for suffix in _SUFFIXES} & shown}
    assert missing <= NOT_SHOWN.keys()


def test_the_bound_of_every_label_is_stated(labels: dict[str, set[str]]) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    section = page.partition("### Number of series")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`) \|", section, flags=re.MULTILINE)
    stated = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    exported = {name for name in labels if not name.startswith(("kube_", "DCGM_"))}
    assert set.union(*(labels[name] for name in exported)) | _TARGET_LABELS == stated


def test_no_query_invents_a_value(board: dict[str, Any]) -> None:
    """A metric that was renamed would be 0, and its panel or alert silent."""
    rules = [rule["expr"] for group in load_groups() for rule in group["rules"]]
    for expression in (*rules, *(query["expr"] for query in list_queries(board))):
        assert not re.search(r"\bor\s+(on\s*\(.*?\)\s*)?vector|absent|\bor\s+0", expression), expression


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package promtool)")
def test_prometheus_reads_every_query(board: dict[str, Any], tmp_path: Path) -> None:
    queries = [fill_in(query["expr"], "5m") for query in list_queries(board)]
    rules = [{"record": f"panel:number{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    command = ["promtool", "check", "rules", "rules.yaml"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(queries)} rules found" in result.stdout


FAILED = 'vfmalign_calls_failed_total{grpc_service="vfmalign.v1.MmdService",grpc_method="Compute",'
DENIED = 'vfmalign_calls_denied_total{grpc_service="vfmalign.v1.MmdService",grpc_method="Compute",'
HANDLED = 'grpc_server_handled_total{grpc_type="unary",grpc_service="vfmalign.v1.MmdService",grpc_method="Compute",'
FIRST_EVENTS = (
    f'{DENIED}reason="BAD_SIGNATURE"}}',
    f'{DENIED}reason="NOT_OWNER"}}',
    f'{FAILED}fault="caller",reason="BAD_OPTION"}}',
    f'{HANDLED}grpc_code="INTERNAL"}}',
    f'{HANDLED}grpc_code="RESOURCE_EXHAUSTED"}}',
    "vfmalign_answers_not_taken_total{}",
    'vfmalign_store_failures_total{operation="get"}',
    'vfmalign_store_attempts_total{operation="put",outcome="failed"}',
    'vfmalign_artifacts_recomputed_total{kind="report"}',
    'vfmalign_artifacts_recomputed_total{kind="feature_set_part"}',
    "vfmalign_database_errors_total{}",
    'vfmalign_pacs_failures_total{server="archive",operation="search",reason="PACS_REFUSED"}',
    'vfmalign_pacs_failures_total{server="archive",operation="search",reason="STUDY_NOT_FOUND"}',
    "vfmalign_log_lines_lost_total{}",
    "vfmalign_audit_lines_lost_total{}",
    'vfmalign_probes_total{service="store",outcome="failed"}',
    'vfmalign_operations_ended_total{kind="job",state="failed",fault="system"}',
    'vfmalign_operations_ended_total{kind="check",state="cancelled",fault="none"}',
    'vfmalign_job_attempts_ended_total{outcome="interrupted"}',
    'vfmalign_monitor_observations_total{tenant="default",monitor="m",outcome="entered"}',
    'vfmalign_monitor_observations_total{tenant="default",monitor="m",outcome="conflict"}',
    'vfmalign_observations_delivered_total{delivery="queued",reason=""}',
    'vfmalign_observations_delivered_total{delivery="recorded",reason=""}',
    'vfmalign_observations_delivered_total{delivery="dropped",reason="OUTBOX_FULL"}',
    'vfmalign_observations_delivered_total{delivery="dropped",reason="NOT_FOUND"}',
    'vfmalign_monitor_window_failures_total{reason="UNAVAILABLE"}',
    'vfmalign_monitor_window_failures_total{reason="NOT_FOUND"}',
    "vfmalign_monitor_snapshot_failures_total{}",
    "vfmalign_monitor_replays_that_differ_total{}",
)
"""Series, each of which has one event."""
START = """
import vfmalign.database.metrics, vfmalign.features.metrics, vfmalign.finetuning.metrics, vfmalign.monitoring.metrics
from prometheus_client import generate_latest
from vfmalign.core.rpc.call_metrics import Method
from vfmalign.core.runtime.metrics import REGISTRY, announce_build
from vfmalign.core.storage.store.attempts import Attempts
announce_build()
Method.create("vfmalign.v1.MmdService", "Compute", "unary")
Attempts(None, 1)
vfmalign.features.metrics.register_pacs(["archive"])
print(generate_latest(REGISTRY).decode())
"""
"""What services register before their first event, in a process of its own: other tests here count events."""


def list_at_start() -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """The series that services export with 0 when they start."""
    command = [sys.executable, "-c", START]
    page = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    samples = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
    return {(sample.name, frozenset(sample.labels.items())) for sample in samples if sample.value == 0}


def ask_per_hour(series: str, minute: int, events: int) -> dict[str, Any]:
    """Expects that a panel per hour of a counter shows so many events, or that none shows any."""
    name = series.partition("{")[0]
    queries = [fill_in(query["expr"], "5m") for board in map(load_board, NAMES) for query in list_queries(board)]
    least = max(events, 1)
    shown = [f"(sum({query}) >= {least} < {least + 1})" for query in queries if f"increase({name}{{" in query]
    assert shown, f"{name} has no panel"
    samples = [{"labels": "{}", "value": 1}] if events else []
    return {"expr": f"count({' or '.join(shown)})", "eval_time": f"{minute}m", "exp_samples": samples}


def evaluate(folder: Path, tests: list[dict[str, Any]]) -> None:
    (folder / "test.yaml").write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "1m", "tests": tests}))
    command = ["promtool", "test", "rules", "test.yaml"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_series_of_bounded_labels_begin_with_zero() -> None:
    at_start = list_at_start()

    def list_values(name: str, label: str) -> set[str]:
        return {dict(labels)[label] for found, labels in at_start if found == name}

    assert list_values("vfmalign_calls_denied_total", "reason") == set(DENIALS)
    assert list_values("vfmalign_store_attempts_total", "outcome") == {"answered", "failed"}
    assert list_values("vfmalign_store_attempts_total", "operation") == set(get_args(Operation))
    assert list_values("vfmalign_observations_delivered_total", "delivery") == {"queued", "recorded", "dropped"}
    assert list_values("vfmalign_calls_ended_total", "fault") == set(get_args(Fault))
    assert list_values("vfmalign_probes_total", "service") == {"features", "mmd", "monitoring", "store"}
    assert list_values("vfmalign_probes_total", "outcome") == {"succeeded", "failed"}
    assert list_values("vfmalign_operations_ended_total", "kind") == {"job", "check", "experiment"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package promtool)")
def test_the_first_event_of_a_kind_is_shown_for_an_hour(tmp_path: Path) -> None:
    """Its series begins with it, unless the service exports it with 0 from its start."""
    at_start, tests = list_at_start(), []
    for series in FIRST_EVENTS:
        name, _, selector = series.partition("{")
        before = "0" if (name, frozenset(re.findall(r'(\w+)="([^"]*)"', selector))) in at_start else "_"
        inputs = [{"series": series.replace("{", '{job="vfmalign-x",'), "values": f"{before}x30 1x150"}]
        queries = [ask_per_hour(series, 33, 1), ask_per_hour(series, 85, 1), ask_per_hour(series, 150, 0)]
        tests.append({"name": series, "interval": "1m", "input_series": inputs, "promql_expr_test": queries})
    evaluate(tmp_path, tests)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package promtool)")
def test_events_around_births_and_restarts_are_shown(tmp_path: Path) -> None:
    """A process begins with one event and has two more, and three after its restart. Another one is older."""
    name = "vfmalign_monitor_window_failures_total"
    inputs = [
        {"series": f'{name}{{job="x",pod="a",reason="NOT_FOUND"}}', "values": "_x80 1x5 3x5 1x5 3x20"},
        {"series": f'{name}{{job="x",pod="b",reason="NOT_FOUND"}}', "values": "7x90 8x30"},
    ]
    queries = [ask_per_hour(f"{name}{{", 79, 0), ask_per_hour(f"{name}{{", 110, 7)]
    evaluate(tmp_path, [{"interval": "1m", "input_series": inputs, "promql_expr_test": queries}])


def test_every_denial_has_a_remedy() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    table = page.partition("### Refused callers")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.+?`) \|", table, flags=re.MULTILINE)
    assert {reason for cell in cells for reason in re.findall(r"`(\w+)`", cell)} == set(DENIALS)


def test_every_panel_says_what_it_shows_and_asks_the_chosen_prometheus(board: dict[str, Any]) -> None:
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["query"] == "prometheus"
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in list_plots(board):
        assert panel["title"], panel
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert [panel["datasource"], *(target["datasource"] for target in panel["targets"])] == [source] * (
            1 + len(panel["targets"])
        )
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert "[$__rate_interval]" in json.dumps(panel) or "rate(" not in json.dumps(panel), panel["title"]
    named = set(re.findall(r"\$\{?(\w+)", json.dumps(board))) - {"__rate_interval", "__all"}
    assert named <= variables.keys()
    for name, variable in variables.items():
        is_choice = name not in {"datasource", "docs"}
        assert (variable.get("includeAll", False), variable.get("allValue")) == (
            (True, ".*") if is_choice else (False, None)
        )


def test_a_line_is_dashed_where_its_panel_says_so(board: dict[str, Any]) -> None:
    for panel in list_plots(board):
        dashed = [override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]]
        assert ("dashed" in panel["description"].lower()) == bool(dashed), panel["title"]
        legends = [_LEGEND.sub("x", target["legendFormat"]) for target in panel["targets"]]
        assert all(any(re.search(pattern, legend) for legend in legends) for pattern in dashed), panel["title"]


def test_a_panel_that_leaves_out_zeros_says_so(board: dict[str, Any]) -> None:
    """Its reader would take it for one that is broken."""
    for panel in list_plots(board):
        if any(target["expr"].endswith(" > 0") for target in panel["targets"]):
            assert re.search(r"[Nn]othing is drawn|are left out", panel["description"]), panel["title"]


def test_every_panel_leads_to_a_section_that_exists(board: dict[str, Any]) -> None:
    anchors = {}
    for page in ("operations.md", "runbooks.md"):
        headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE)
        anchors[page] = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
    for panel in list_plots(board):
        (link,) = panel["links"]
        address, _, anchor = link["url"].partition("#")
        assert anchor in anchors[address.removeprefix("${docs}/")], panel["title"]


@pytest.mark.parametrize("rule", load_rules(), ids=lambda rule: rule["alert"])
def test_every_alert_leads_to_a_panel_that_shows_what_it_looks_at(rule: dict[str, Any]) -> None:
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url", "dashboard_url"}
    uid, number = re.fullmatch(r"/d/([\w-]+)\?viewPanel=(\d+)", rule["annotations"]["dashboard_url"]).groups()  # type: ignore[union-attr]
    (board,) = (board for board in map(load_board, NAMES) if board["uid"] == uid)
    (panel,) = (panel for panel in list_plots(board) if panel["id"] == int(number))
    shown = {name for target in panel["targets"] for name, _ in _METRIC.findall(target["expr"])}
    watched = {name for name, _ in _METRIC.findall(rule["expr"])}
    assert shown & watched, panel["title"]


def test_panels_have_ids_and_places_of_their_own(board: dict[str, Any]) -> None:
    panels = board["panels"]
    assert sorted(panel["id"] for panel in panels) == list(range(1, len(panels) + 1))
    for panel in panels:
        assert 0 <= panel["gridPos"]["x"] <= COLUMNS - panel["gridPos"]["w"], panel["title"]
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_above


def test_the_sidecar_of_grafana_finds_the_same_dashboards() -> None:
    path = ROOT / "k8s" / "components" / "grafana" / "dashboards.yaml"
    maps = list(yaml.safe_load_all(path.read_text()))
    found = {}
    for item in maps:
        assert item["metadata"]["labels"]["grafana_dashboard"] == "1"
        ((name, content),) = item["data"].items()
        assert len(content.encode()) < LARGEST_OBJECT_BYTES
        found[name] = json.loads(content)
    assert found == {f"vfmalign-{name}.json": load_board(name) for name in NAMES}


def test_compose_provisions_the_dashboards_and_their_prometheus() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    grafana, prometheus = compose["services"]["grafana"], compose["services"]["prometheus"]
    mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "vfmalign.yaml").read_text())["providers"]
    (dashboards,) = (source for source, target in mounts.items() if target == provider["options"]["path"])
    assert ROOT / "deploy" / dashboards == FOLDER
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    (port,) = prometheus["ports"]
    assert source["url"] == f"http://prometheus:{port.rpartition(':')[2]}"
    assert grafana["profiles"] == ["grafana"], "its image has to come from a registry"
    assert grafana["ports"] == ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"], "there is no login"
