"""The alerts, evaluated by promtool over series that a test gives."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parents[1] / "k8s" / "components" / "monitoring"
NAMES = ("alerts", "slos")
"""Files of rules, without their endings."""


@cache
def load_groups() -> list[dict[str, Any]]:
    """The groups of rules of all files."""
    return [
        group for name in NAMES for group in yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["spec"]["groups"]
    ]


def load_rules() -> list[dict[str, Any]]:
    """The alerts of all groups."""
    return [rule for group in load_groups() for rule in group["rules"] if "alert" in rule]


def fires(folder: Path, alert: str, series: Mapping[str, str], minute: int) -> bool:
    """Whether an alert fires.

    Args:
        folder: for files.
        alert: its name.
        series: values from minute 0 on, one a minute, in promtool's notation.
        minute: when.
    """
    query = {
        "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) > bool 0',
        "eval_time": f"{minute}m",
        "exp_samples": [{"labels": "{}", "value": 1}],
    }
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    tests = [{"interval": "1m", "input_series": inputs, "promql_expr_test": [query]}]
    content = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": load_groups()}))
    (folder / "test.yaml").write_text(yaml.safe_dump(content))
    command = ["promtool", "test", "rules", "test.yaml"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    output = result.stdout + result.stderr
    assert result.returncode == 0 or "got:" in output, output
    return result.returncode == 0
