"""The dashboards in deploy/grafana are those that `make docs` writes, and show metrics that the services export."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from importlib import import_module
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from vfmalign.core.runtime.metrics import REGISTRY

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "grafana"
NAMES = ("monitors.json",)
COLUMNS = 24
_METRIC = re.compile(r"\b(vfmalign_\w+)(?:\{([^}]*)\})?")
_BY = re.compile(r"by \(([\w, ]+)\)")
_LEGEND = re.compile(r"\{\{(\w+)\}\}")
_TARGET_LABELS = {"job", "pod", "instance", "namespace"}
"""What Prometheus adds to every series."""


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboards", ROOT / "deploy/generate_dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=NAMES)
def board(request: pytest.FixtureRequest) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / request.param).read_text())
    return content


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """The labels of every metric that a service exports, by the name of its samples."""
    for package in ("features", "mmd", "finetuning", "monitoring", "database"):
        import_module(f"vfmalign.{package}.metrics")
    found = {}
    for name, metric in REGISTRY._names_to_collectors.items():
        own = set(getattr(metric, "_labelnames", ()))
        found |= {name: own, f"{name}_total": own}
    return found


def list_plots(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def list_queries(board: dict[str, Any]) -> list[dict[str, str]]:
    return [target for panel in list_plots(board) for target in panel["targets"]]


@pytest.mark.parametrize("name", NAMES)
def test_the_dashboards_are_up_to_date(name: str, generator: ModuleType) -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(NAMES) == set(generator.DASHBOARDS)
    assert (FOLDER / name).read_text() == generator.render(name), "run `make docs`"


def test_every_query_reads_metrics_and_labels_that_exist(board: dict[str, Any], labels: dict[str, set[str]]) -> None:
    for query in list_queries(board):
        used = _METRIC.findall(query["expr"])
        assert used, query
        for name, selector in used:
            assert name in labels, f"{name} is exported by no service"
            selected = set(re.findall(r"(\w+)=", selector))
            grouped = {label.strip() for found in _BY.findall(query["expr"]) for label in found.split(",")}
            assert selected | grouped <= labels[name] | _TARGET_LABELS, query["expr"]
            assert set(_LEGEND.findall(query["legendFormat"])) <= grouped, "a legend names labels that the series lack"


def test_every_metric_of_monitors_is_shown(board: dict[str, Any], labels: dict[str, set[str]]) -> None:
    shown = {name for query in list_queries(board) for name, _ in _METRIC.findall(query["expr"])}
    exported = {metric._name for metric in set(REGISTRY._names_to_collectors.values()) if hasattr(metric, "_name")}
    expected = {name for name in exported if name.startswith(("vfmalign_monitor_", "vfmalign_outbox_"))}
    assert expected <= {name.removesuffix("_total") for name in shown}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package promtool)")
def test_prometheus_reads_every_query(board: dict[str, Any], tmp_path: Path) -> None:
    queries = [query["expr"].replace("$__rate_interval", "5m") for query in list_queries(board)]
    assert not [query for query in queries if "[$" in query]
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
        assert [panel["datasource"], *(target["datasource"] for target in panel["targets"])] == [source] * (
            1 + len(panel["targets"])
        )
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    named = set(re.findall(r"\$(\w+)", json.dumps(board))) - {"__rate_interval"}
    assert named <= variables.keys()


def test_panels_have_ids_and_places_of_their_own(board: dict[str, Any]) -> None:
    panels = board["panels"]
    assert sorted(panel["id"] for panel in panels) == list(range(1, len(panels) + 1))
    for panel in panels:
        assert 0 <= panel["gridPos"]["x"] <= COLUMNS - panel["gridPos"]["w"], panel["title"]
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_above
