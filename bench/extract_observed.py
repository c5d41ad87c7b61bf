"""`Extract` with an observation beside one without, while monitoring is present and while it is away.

The services and the object store are processes of this machine, reached over loopback; the monitor is one of SQLite.
The study is a prostate phantom in the message. The encoders are the smallest one, of which an observation takes the
largest share, and that of the published ProFound-Conv checkpoint; their weights are random. One feature service has a
monitoring service that runs, another one an address where nothing listens. Each makes calls with and without an
observation in turn; every round begins with another kind of call, and ratios are formed within a round. The interval
of their median is that of order statistics, which assumes no distribution.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scipy.stats import binom
from tests.monitored_model import store_reference

from bench.endpoint.server import running_store
from bench.measure import MeasurementSettings
from bench.services import run_service
from bench.tables import Section, Table
from vfmalign.cli.local.ports import free_ports
from vfmalign.client import Client, MonitorReference, MonitorSpec, ObservedStudy, StudyObservation
from vfmalign.client.features import StudyFeatures
from vfmalign.imaging.phantoms.rendering import generate_case
from vfmalign.imaging.volumes import encode
from vfmalign.models.cards import publish
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state

MODELS = ("profound_conv_micro", "profound_conv_tiny")
MONITOR = "bench"
MODALITIES = ("t2w", "dwi", "adc")
ROUNDS = 20
"""Rounds of calls for each repeat of the settings, which has four calls."""
PRESENT, AWAY = "monitoring present", "monitoring away"
LIMIT = 1.1
Round = dict[str, float]
"""Seconds by the names of `_name`."""


def run(settings: MeasurementSettings) -> Section:
    """Measures both services in turns, one encoder after the other."""
    section = Section("extract_observed", "Extract with an observation, prostate phantom")
    phantom = generate_case(0, 0).volumes
    volumes = {kind: encode(phantom[kind]) for kind in MODALITIES}
    for model in MODELS:
        with _run_services(settings.threads, model, volumes) as clients:
            rounds = _measure(clients, model, volumes, ROUNDS * settings.repeats)
        _add_times(section, model, rounds)
        section.records += [
            {"case": section.name, "model": model, "round": number, **one} for number, one in enumerate(rounds)
        ]
    return section


@contextmanager
def _run_services(threads: int, model: str, volumes: Mapping[str, bytes]) -> Iterator[Mapping[str, Client]]:
    """Runs the services with an encoder and a monitor of it; yields a client of each feature service."""
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory()))
        store, environment = resources.enter_context(running_store(folder))
        card = publish(store, model, random_state(ARCHITECTURES[model], 0), architecture=model, objective="random")

        def start(name: str, service: str, **variables: str) -> str:
            own = folder / name.replace(" ", "-")
            own.mkdir()
            running = run_service(service, own, {**environment, **variables}, threads)
            return resources.enter_context(running).address

        monitoring = start("monitoring", "monitoring", VFMALIGN_STATE_DIR=str(folder / "state"))
        addresses = {PRESENT: monitoring, AWAY: f"127.0.0.1:{free_ports(1)[0]}"}
        clients = {
            name: resources.enter_context(
                Client(
                    features_address=start(name, "features", VFMALIGN_MONITORING_ADDRESS=address),
                    monitoring_address=monitoring,
                )
            )
            for name, address in addresses.items()
        }
        features_C = clients[PRESENT].features.extract(model, volumes).layers[card.primary_layer]
        reference = MonitorReference(feature_set_id=store_reference(store, card, card.primary_layer, features_C))
        clients[PRESENT].monitors.create(MONITOR, MonitorSpec(reference=reference))
        yield clients


def _name(service: str, *, observes: bool) -> str:
    return f"{service}, {'with' if observes else 'without'} an observation"


def _measure(clients: Mapping[str, Client], model: str, volumes: Mapping[str, bytes], count: int) -> list[Round]:
    """Makes calls in rounds; the first three warm up, and let the services learn where monitoring is."""
    kinds = [(service, observes) for service in clients for observes in (False, True)]
    rounds: list[Round] = []
    for number in range(-3, count):
        first = number % len(kinds)
        seconds: Round = {}
        for service, observes in [*kinds[first:], *kinds[:first]]:
            study = ObservedStudy(observation_id=f"o{number + 3}", group=f"g{number + 3}")
            observation = StudyObservation(monitor_id=MONITOR, study=study) if observes else None
            start_s = time.perf_counter()
            answer = clients[service].features.extract(model, volumes, observation=observation)
            seconds[_name(service, observes=observes)] = time.perf_counter() - start_s
            if observes and number >= 0:
                _check(answer)
        if number >= 0:
            rounds.append(seconds)
    return rounds


def _check(answer: StudyFeatures) -> None:
    """Checks that a call has measured what it is for."""
    if answer.observation is None or answer.observation.delivery != "queued":
        raise RuntimeError(f"the observation was not queued: {answer.observation}")


def _add_times(section: Section, model: str, rounds: Sequence[Round]) -> None:
    """Adds the medians of the calls, and of the ratios with their intervals."""
    rows = []
    for service in (PRESENT, AWAY):
        names = [_name(service, observes=observes) for observes in (False, True)]
        without_s, with_s = (statistics.median(one[name] for one in rounds) for name in names)
        ratios = sorted(one[names[1]] / one[names[0]] for one in rounds)
        low, high = _get_interval(ratios)
        rows.append(
            (
                service,
                f"{without_s * 1000:.1f}",
                f"{with_s * 1000:.1f}",
                f"{statistics.median(ratios):.3f}",
                f"{low:.3f} to {high:.3f}",
            )
        )
        verdict = "below" if high < LIMIT else "not below"
        section.sentences.append(f"`{model}`, {service}: the interval of the ratio is {verdict} {LIMIT}.")
    columns = ("", "without, ms", "with, ms", "ratio", "95 % interval")
    section.tables.append(Table(f"`{model}`, medians of {len(rounds)} rounds", columns, rows))


def _get_interval(figures: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % interval of the median of sorted figures: order statistics by the binomial distribution."""
    rank = int(binom.ppf(0.025, len(figures), 0.5))
    return figures[max(rank - 1, 0)], figures[min(len(figures) - rank, len(figures) - 1)]
