"""The generated dashboards, as tests read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
NAMES = ("callers", "jobs", "monitors", "operations")


def load_board(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


def list_plots(board: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels without the titles of rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def list_queries(board: dict[str, Any]) -> list[dict[str, str]]:
    return [target for panel in list_plots(board) for target in panel["targets"]]


def fill_in(query: str, interval: str, **variables: str) -> str:
    """A query with values in place of Grafana's variables: every value of those that are not given."""
    query = query.replace("$__rate_interval", interval)
    for name in ("namespace", "job", "method", "tenant", "monitor"):
        query = query.replace(f"${name}", variables.get(name, ".*"))
    assert "$" not in query, query
    return query
