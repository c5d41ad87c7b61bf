"""One fault is one page with the example for Alertmanager, which a real Alertmanager reads."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.alert_rules import load_rules
from tests.alertmanager import EXAMPLE, PROGRAM, run_alertmanager
from tests.integration.cli.commands import wait_until

SERVICES = ("features", "finetuning", "mmd", "monitoring")

needs_alertmanager = pytest.mark.skipif(
    PROGRAM is None, reason="Alertmanager is not installed (Debian package prometheus-alertmanager)"
)


def list_alerts(namespace: str, *names: str, service: str = "") -> list[dict[str, str]]:
    """Labels of alerts with these names, in each service that may have them, or in one."""
    rules = [rule for rule in load_rules() if rule["alert"] in names]
    assert {rule["alert"] for rule in rules} == set(names)
    return [
        {"alertname": rule["alert"], "namespace": namespace, "job": f"vfmalign-{one}"} | rule["labels"]
        for rule in rules
        for one in ([service] if service else SERVICES)
    ]


STORE_LOST = [
    *list_alerts("a", "VfmalignStoreLost", "VfmalignStoreFails", "VfmalignStoreWritesFail", "VfmalignChecksWait"),
    *list_alerts("a", "VfmalignProbeFails", service="features"),
    *list_alerts("a", "VfmalignExtractAvailability", "VfmalignExtractDatasetAvailability"),
]
FAULTS: dict[str, tuple[list[dict[str, str]], set[tuple[str, str]]]] = {
    "the store is lost": (STORE_LOST, {("a", "VfmalignStoreLost")}),
    "the store is lost, and the database of another installation": (
        [*STORE_LOST, *list_alerts("b", "VfmalignDatabaseFails", service="finetuning")],
        {("a", "VfmalignStoreLost"), ("b", "VfmalignDatabaseFails")},
    ),
    "a service is down": (
        list_alerts("a", "VfmalignServiceDown", "VfmalignProbeFails", "VfmalignComputeAvailability", service="mmd"),
        {("a", "VfmalignServiceDown")},
    ),
    "a service is down, and another one for a reason of its own": (
        [
            *list_alerts("a", "VfmalignServiceDown", service="mmd"),
            *list_alerts("a", "VfmalignExtractAvailability", service="features"),
        ],
        {("a", "VfmalignServiceDown"), ("a", "VfmalignExtractAvailability")},
    ),
    "the database fails": (
        list_alerts("a", "VfmalignDatabaseFails", "VfmalignNoLeader", service="finetuning"),
        {("a", "VfmalignDatabaseFails")},
    ),
    "the disk of the store is full": (
        list_alerts("a", "VfmalignStoreWritesFail", "VfmalignStoreFails", "VfmalignExtractAvailability"),
        {("a", "VfmalignStoreWritesFail")},
    ),
    "the device of mmd hangs": (
        list_alerts("a", "VfmalignProbeFails", "VfmalignComputeAvailability", service="mmd"),
        {("a", "VfmalignProbeFails")},
    ),
}


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """The address of an Alertmanager with the example, alone and without its receivers."""
    with run_alertmanager(tmp_path) as address:
        yield f"http://{address}/api/v2"


def post(url: str, alerts: Sequence[dict[str, str]]) -> None:
    body = json.dumps([{"labels": labels} for labels in alerts]).encode()
    request = urllib.request.Request(f"{url}/alerts", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30):
        pass


def list_groups(url: str, receiver: str, *, inhibited: bool) -> list[list[dict[str, Any]]]:
    """The alerts of each notification, with or without those that another one silences."""
    query = urllib.parse.urlencode({"receiver": receiver, "inhibited": str(inhibited).lower()})
    with urllib.request.urlopen(f"{url}/alerts/groups?{query}", timeout=30) as page:
        return [group["alerts"] for group in json.load(page) if group["alerts"]]


@needs_alertmanager
@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_is_one_page(fault: str, url: str) -> None:
    alerts, causes = FAULTS[fault]
    post(url, alerts)
    critical = {frozenset(one.items()) for one in alerts if one["severity"] == "critical"}

    def find(*, inhibited: bool) -> list[list[dict[str, Any]]]:
        return list_groups(url, "pager", inhibited=inhibited)

    wait_until(lambda: sum(map(len, find(inhibited=True))) == len(critical), "every critical alert")
    named = [
        {(one["labels"]["namespace"], one["labels"]["alertname"]) for one in group} for group in find(inhibited=False)
    ]
    assert set().union(*named) == causes
    assert len(named) == len({namespace for namespace, _ in causes}), "one page for each installation"


def test_every_alert_that_the_example_names_exists() -> None:
    text, names = EXAMPLE.read_text(), {rule["alert"] for rule in load_rules()}
    for pattern in re.findall(r'alertname(?:!=|=~|=)"([^"]+)"', text):
        assert all(any(re.fullmatch(part, name) for name in names) for part in re.split(r"\|(?![^(]*\))", pattern)), (
            pattern
        )
