"""A Prometheus scrapes the stack while it works and fails, and every panel and rule has something to show.

The stack runs a check and an experiment, calls are answered, refused and denied, and a monitor observes. The MMD
service, the object storage and the monitoring service are away for a while.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import psutil
import pytest
from tests.alert_rules import load_groups
from tests.dashboards import NAMES, ROOT, fill_in, list_plots, load_board
from tests.e2e.conftest import DATASET, MODEL, PHANTOMS, World, recipe
from tests.integration.cli.commands import suspended, wait_until
from tests.integration.features.dicom_service import make_declaration
from tests.monitored_model import store_reference
from tests.prometheus import PROGRAM, Prometheus, run_prometheus, serve_page

from vfmalign.cli.local.stack import SERVICES
from vfmalign.client import Client, ComputeOptions, MonitorReference, MonitorSpec, ObservedStudy
from vfmalign.client.messages.features import PacsReference, StudyObservation
from vfmalign.core.domain.datasets import DatasetManifest
from vfmalign.core.domain.errors import PacsUnavailable, VfmalignError
from vfmalign.core.domain.record import canonical_json
from vfmalign.core.storage.datasets import load_dataset, to_datalist
from vfmalign.core.storage.keys import check_key, dataset_key
from vfmalign.core.storage.model_cards import load_card
from vfmalign.imaging.phantoms.rendering import generate_case
from vfmalign.imaging.volumes import encode
from vfmalign.v1 import alignment_pb2, alignment_pb2_grpc, experiment_pb2, experiment_pb2_grpc, mmd_pb2, mmd_pb2_grpc

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(PROGRAM is None, reason="prometheus is not installed (Debian package prometheus)"),
]

MONITOR, LAYER = "watched", "stages.3"
WINDOW = 16
TOO_MANY_BYTES = 24 * 2**20
"""In a message of at most 16 MiB."""
RULES = "with-rules"
RANGE = "30s"
"""In place of `$__rate_interval`."""
SCRAPES = ROOT / "tests" / "unit" / "deploy" / "scrapes"
WITHOUT_DATA = {"Memory of accelerators": "there is none"}
NOT_MOVED = {
    "Internal errors per hour": "a bug",
    "Answers not read per hour": "their callers hang; tests/hostile",
    "Lost log lines per hour": "a full disk; tests/faults",
    "Failed transactions per hour": "a database that is away; tests/faults",
    "Takeovers per hour": "leaders stay",
    "Failed probes per hour": "a probe takes place once a minute; tests/integration/finetuning",
    "Faults of monitor states per hour": "snapshots that fail; tests/faults",
}
"""Panels whose counters stand still here, and what would move them."""


class Work:
    """What the test does to the stack.

    Args:
        world: the stack.
        client, impatient: call it with the owner's token; the second one does not wait long.
    """

    def __init__(self, world: World, client: Client, impatient: Client) -> None:
        self._world, self._client, self._impatient = world, client, impatient
        volumes = generate_case(5, 1, PHANTOMS).volumes
        self._study = {kind: encode(volumes[kind]) for kind in ("t2w", "dwi", "adc")}
        self._observed = 0
        self._mmd = mmd_pb2_grpc.MmdServiceStub(world.channel("mmd"))

    def extract(self, monitor: str = "", times: int = 1) -> None:
        for _ in range(times):
            self._observed += 1
            study = ObservedStudy(
                observation_id=f"o-{self._observed}", group=f"g-{self._observed}", acquire_time="2026-11-30T08:00:00Z"
            )
            observation = StudyObservation(monitor_id=monitor, study=study) if monitor else None
            self._client.features.extract(MODEL, self._study, layers=[LAYER], observation=observation)

    def compute(self) -> None:
        x, y = (np.random.default_rng(seed).normal(size=(40, 8)).astype(np.float32) for seed in (0, 1))
        self._client.mmd.compute(x, y, ComputeOptions(pairing="independent"), reference=x)
        (answer,) = self._mmd.ComputeBatch(mmd_pb2.ComputeBatchRequest(requests=[mmd_pb2.ComputeRequest()]), timeout=30)
        assert answer.error.reason

    def create_monitor(self) -> None:
        """Creates a monitor of which the study is no surprise."""
        center_C = self._client.features.extract(MODEL, self._study, layers=[LAYER]).layers[LAYER]
        store = self._world.store
        reference = store_reference(store, load_card(store, MODEL), LAYER, center_C)
        spec = MonitorSpec(
            reference=MonitorReference(feature_set_id=reference), window_rows=WINDOW, max_silence_hours=24
        )
        self._client.monitors.create(MONITOR, spec)

    def create_experiment(self) -> None:
        """Creates an experiment of one short cell, and a check that fails by its request."""
        spec = experiment_pb2.ExperimentSpec(
            model_ids=[MODEL],
            dataset_id=DATASET,
            tasks=[{"name": "segmentation"}],
            seeds=[0],
            recipe=recipe(epochs=1, steps_per_epoch=2),
            permutations=99,
            bootstrap_resamples=100,
        )
        stub = experiment_pb2_grpc.ExperimentServiceStub(self._world.channel("finetuning"))
        stub.CreateExperiment(experiment_pb2.CreateExperimentRequest(experiment_id="shown", spec=spec), timeout=30)
        dataset = load_dataset(self._world.store, DATASET)
        train = (*dataset.train, dataset.test[0])
        leaking = DatasetManifest(id="leaks", train=train, val=dataset.val, test=dataset.test)
        rules = json.dumps(json.loads(make_declaration())["selections"])
        for one in (leaking, dataset.model_copy(update={"id": RULES, "selections": rules})):
            self._world.store.put(dataset_key(one.id), canonical_json(to_datalist(one)))
        self._world.create("not-possible", dataset_id="leaks")

    def wait_for_the_experiment(self) -> None:
        check = self._world.finish("shown-segmentation-micro-0")
        assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.failure
        assert self._world.finish("not-possible").state == alignment_pb2.CHECK_STATE_FAILED

    def lose_a_report(self) -> None:
        """Removes the report of the check, which is written again when somebody asks for it."""
        name = "shown-segmentation-micro-0"
        self._world.store.delete(check_key(name, "report.html"))
        stub = alignment_pb2_grpc.AlignmentServiceStub(self._world.channel("finetuning"))
        request = alignment_pb2.GetCheckReportRequest(check_id=name)

        def is_there() -> bool:
            try:
                return bool(list(stub.GetCheckReport(request, timeout=10)))
            except grpc.RpcError:
                return False

        assert not is_there()
        wait_until(is_there, "the report that was written again")

    def fail(self) -> None:
        """Makes calls that are denied, refused, invalid, and about a PACS that is not there."""
        address = self._world.stack.get_state().services["mmd"].ports.address
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
            mmd_pb2_grpc.MmdServiceStub(channel).Compute(mmd_pb2.ComputeRequest(), timeout=10)
        too_large = mmd_pb2.ComputeRequest(x={"feature_set_id": "x" * TOO_MANY_BYTES})
        for request in (too_large, mmd_pb2.ComputeRequest()):
            with pytest.raises(grpc.RpcError):
                self._mmd.Compute(request, timeout=10)
        absent = PacsReference(server="absent", study_uid="1.2.3")
        with pytest.raises(PacsUnavailable):
            self._client.features.extract(MODEL, dicom=absent, rules_dataset_id=RULES)
        self.extract("no-such-monitor")

    def ask_the_storage(self) -> None:
        """Asks for a model that nobody has read yet, and gives up soon."""
        with pytest.raises(VfmalignError):
            self._impatient.features.extract("absent", self._study)


def has_moved(prometheus: Prometheus, query: str, meanwhile: Callable[[], None] = lambda: None) -> bool:
    """Whether a value has been above 0, after something that a test does meanwhile."""
    meanwhile()
    return any(max(values) > 0 for values in prometheus.query(query).values())


def trouble(world: World, work: Work, prometheus: Prometheus) -> None:
    """Takes the parts of the stack away, one after the other."""
    state = world.stack.get_state()
    assert state.store is not None
    assert state.store.process is not None
    failed = "sum(vfmalign_monitor_window_failures_total)"
    with suspended(psutil.Process(world.pid("mmd"))):
        work.extract(MONITOR, WINDOW)
        wait_until(lambda: has_moved(prometheus, failed), "a window without MMD²")
    os.kill(world.pid("mmd"), signal.SIGKILL)
    with suspended(psutil.Process(world.pid("monitoring"))):
        work.extract(MONITOR)
        time.sleep(6)
    lost = 'sum(vfmalign_store_failures_total{operation="probe"})'
    with suspended(psutil.Process(state.store.process.pid)):
        # A probe begins 15 s after the last one, and fails after ten.
        wait_until(lambda: has_moved(prometheus, lost, meanwhile=work.ask_the_storage), "a failed probe")
    world.channels.pop("mmd").close()


@pytest.fixture(scope="module")
def prometheus(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped the stack while it worked and failed."""
    state = world.stack.get_state()
    assert state.token_file is not None
    token = state.token_file.read_text().strip()
    ports = {name: state.services[name].ports for name in SERVICES}
    addresses = {f"{name}_address": one.address for name, one in ports.items()}
    targets = {f"vfmalign-{name}": f"127.0.0.1:{one.metrics}" for name, one in ports.items()}
    rules = [ROOT / "deploy" / "prometheus" / name for name in ("alerts.yml", "slos.yml")]
    recorded = "".join(path.read_text() for path in sorted(SCRAPES.glob("*.txt")))
    with (
        serve_page(recorded) as exporter,
        run_prometheus(tmp_path_factory.mktemp("prometheus"), targets | {"exporters": exporter}, rules) as running,
        Client(**addresses, token=token) as client,
        Client(**addresses, token=token, call_timeout_s=3) as impatient,
    ):
        wait_until(lambda: len(running.query("vfmalign_build_info")) == len(SERVICES), "the first scrapes")
        first_minute = time.time() // 60
        work = Work(world, client, impatient)
        work.create_experiment()
        work.create_monitor()
        for _ in range(2):  # the first event of a reason begins its series, and the second one moves it
            work.fail()
            work.extract(MONITOR, 6)
            work.compute()
            time.sleep(3)
        trouble(world, work, running)
        work.wait_for_the_experiment()
        work.lose_a_report()
        time.sleep(6)
        # Subqueries of a day have a value for each full minute.
        wait_until(lambda: time.time() // 60 > first_minute, "a full minute")
        # The first probe takes place a minute after the start, and the budget is recorded last.
        budget = 'slo:period_error_budget_remaining:ratio{sloth_id="finetuning-probes-success"}'
        wait_until(lambda: len(running.query(budget)) > 0, "the objective of the probes")
        yield running


def list_targets(name: str) -> list[tuple[str, str]]:
    """Titles and queries of all panels of a dashboard."""
    return [
        (panel["title"], fill_in(target["expr"], RANGE))
        for panel in list_plots(load_board(name))
        for target in panel["targets"]
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_returns_data(name: str, prometheus: Prometheus) -> None:
    empty = {title for title, query in list_targets(name) if not prometheus.query(query)}
    assert empty == {title for title, _ in list_targets(name)} & WITHOUT_DATA.keys()


@pytest.mark.parametrize("name", NAMES)
def test_counters_have_moved(name: str, prometheus: Prometheus) -> None:
    still = {
        title
        for title, query in list_targets(name)
        if re.search(r"(rate|increase)\(", query) and not has_moved(prometheus, query)
    }
    assert still <= NOT_MOVED.keys()


def test_every_record_has_samples(prometheus: Prometheus) -> None:
    empty = [
        (rule["record"], rule["labels"]["sloth_id"])
        for group in load_groups()
        for rule in group["rules"]
        if "record" in rule and not prometheus.query(f'{rule["record"]}{{sloth_id="{rule["labels"]["sloth_id"]}"}}')
    ]
    assert empty == []


def test_every_alert_reads_metrics_that_are_there(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"] == []
    expected = [rule for group in load_groups() for rule in group["rules"]]
    assert len(rules) == len(expected)
    names = {
        name
        for rule in expected
        for name in re.findall(r"\b(?:(?:vfmalign|grpc_server|process)_\w+|slo:[\w:]+)", rule["expr"])
    }
    assert len(names) > 20
    assert [name for name in sorted(names) if not prometheus.query(name)] == []


def test_every_counter_that_alerts_read_begins_with_zero(prometheus: Prometheus) -> None:
    """An increase does not see the first event of a series that begins with it."""
    expressions = {rule["expr"] for group in load_groups() for rule in group["rules"]}
    counters = {
        found.group(1)
        for expression in expressions
        for found in re.finditer(r"(?:increase|rate)\((\w+_total(?:{[^}]*})?)\[", expression)
    }
    assert len(counters) > 10
    begins = {counter: [values[0] for values in prometheus.query(counter).values()] for counter in counters}
    assert {counter for counter, firsts in begins.items() if 0 not in firsts} == set()


def test_an_outage_of_seconds_burns_the_budget_of_extract_and_wakes_nobody(prometheus: Prometheus) -> None:
    fired = prometheus.query('ALERTS{alertname="VfmalignExtractAvailability",alertstate="firing"}')
    assert {dict(labels)["sloth_severity"] for labels in fired} == {"ticket"}


def test_pods_that_have_ended_hold_no_gpu(prometheus: Prometheus) -> None:
    (query,) = (
        query for title, query in list_targets("jobs") if title == "GPUs assigned to pods" and "requests" in query
    )
    ((labels, values),) = prometheus.query(query).items()
    assert (dict(labels), set(values)) == ({"namespace": "vfmalign-jobs"}, {1.0})


def test_a_renamed_metric_has_no_data(prometheus: Prometheus) -> None:
    for name in NAMES:
        for title, query in list_targets(name):
            renamed = re.sub(r"\b(vfmalign|grpc|process|slo|kube|DCGM|up)(_|:|{)", r"\1_renamed\2", query)
            assert renamed != query, title
            assert prometheus.query(renamed) == {}, title


def test_no_label_identifies_a_study(prometheus: Prometheus) -> None:
    found = {
        value for series in prometheus.get("series", **{"match[]": '{job=~"vfmalign-.*"}'}) for value in series.values()
    }
    assert not {value for value in found if re.fullmatch(r"[og]-\d+", value)}
