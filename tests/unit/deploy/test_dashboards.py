"""The dashboards are those that `make dashboards` writes, show metrics that exist, and lead to their runbooks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.observability.files import DASHBOARDS, render_files
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families
from tests.alert_rules import load_groups, load_rules
from tests.dashboards import FOLDER, NAMES, ROOT, fill_in, list_plots, list_queries, load_board

from vfmalign.core.runtime.metrics import REGISTRY, announce_build

COLUMNS = 24
SCRAPES = Path(__file__).with_name("scrapes")
"""What exporters of others export, in excerpts."""
LARGEST_OBJECT_BYTES = 250_000
"""`kubectl apply` notes an object in an annotation of at most 256 KiB."""
_METRIC = re.compile(r"\b((?:vfmalign|grpc_server|process|kube|DCGM)_\w+|slo:[\w:]+|up(?={))(?:\{([^}]*)\})?")
_BY = re.compile(r"(?:by|on) \(([\w, ]+)\)")
_LEGEND = re.compile(r"\{\{(\w+)\}\}")
_TARGET_LABELS = {"job", "pod", "instance", "namespace"}
"""What Prometheus adds to every series."""
_SUFFIXES = ("", "_total", "_bucket", "_count", "_sum")
NOT_SHOWN = {
    "grpc_server_started": "its calls are shown when they end",
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
    grouped = {label.strip() for found in _BY.findall(expression) for label in found.split(",")}
    for name, selector in used:
        assert name in labels, f"{name} is exported by nobody"
        selected = set(re.findall(r"(\w+)[=!]", selector))
        assert selected <= labels[name] | _TARGET_LABELS, expression
    known = set.union(*(labels[name] for name, _ in used))
    assert grouped <= known | _TARGET_LABELS, expression
    return grouped, known


def test_every_query_reads_metrics_and_labels_that_exist(board: dict[str, Any], labels: dict[str, set[str]]) -> None:
    for query in list_queries(board):
        grouped, known = check_names(query["expr"], labels)
        shown = set(_LEGEND.findall(query["legendFormat"]))
        assert shown <= (grouped or known), "a legend names labels that the series lack"


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
    page = (ROOT / "docs" / "dashboards.md").read_text()
    rows = re.findall(r"^\| (`.+?`) \|", page.partition("## Number of series")[2], flags=re.MULTILINE)
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
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "operations.md").read_text(), flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
    for panel in list_plots(board):
        (link,) = panel["links"]
        address, _, anchor = link["url"].partition("#")
        assert address == "${docs}/operations.md"
        assert anchor in anchors, panel["title"]


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
