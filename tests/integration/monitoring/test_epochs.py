"""Epochs of a monitor: new references, resets, and the highest evidence."""

from __future__ import annotations

import math

import pytest
from tests.integration.monitoring.conftest import CHANNELS, LAYERS, both_databases, draw, evidence_of, store_set

from vfmalign.client import MonitorReference
from vfmalign.core.domain.errors import BadOption, InvalidInput, PreconditionFailed
from vfmalign.monitoring.sequential import EpochStart, Monitor, MonitorOptions


@both_databases
async def test_a_new_reference_begins_an_epoch_with_its_own_share_of_alpha(service, store):
    first = store_set(store, draw(90, seed=1), "one")
    await service.create("m", first, alpha=0.05)
    await service.observe("m", draw(100, seed=2, shift=2.0))
    assert (await service.monitors.get("m")).epoch.alarm is not None
    seen = store_set(store, draw(90, seed=3), "two", groups=[f"o-g{row}" for row in range(90)])
    with pytest.raises(InvalidInput, match="an earlier epoch has seen patients"):
        await service.monitors.replace_reference("m", 1, MonitorReference(feature_set_id=seen), "unseen_reference")
    unseen = store_set(store, draw(90, seed=4, shift=2.0), "three", sha256="5" * 64)
    replaced = await service.monitors.replace_reference(
        "m", 1, MonitorReference(feature_set_id=unseen), "unseen_reference"
    )
    again = await service.monitors.replace_reference(
        "m", 1, MonitorReference(feature_set_id=unseen), "unseen_reference"
    )
    assert replaced == again
    assert (replaced.epoch.number, replaced.epoch.has_guarantee, replaced.epoch.rows) == (2, True, 0)
    share = 0.1 * 0.05  # the second epoch's of α
    limits = {"rows": 1 / 0.4, "blocks_of_4": 4, "blocks_of_16": 4, "channels": CHANNELS / 0.1}
    thresholds = {one.component: one.log_threshold for one in replaced.components}
    assert thresholds == pytest.approx({name: math.log(limit / share) for name, limit in limits.items()})
    assert [(one.number, one.rows, one.alarm is not None) for one in replaced.earlier_epochs] == [(1, 100, True)]
    assert replaced.origin.checkpoint_sha256 == "5" * 64
    with pytest.raises(PreconditionFailed) as caught:
        await service.observe("m", draw(1, seed=5), prefix="old")
    assert caught.value.reason == "WRONG_ORIGIN"
    with pytest.raises(PreconditionFailed, match="the current epoch is 2"):
        await service.monitors.replace_reference("m", 1, MonitorReference(feature_set_id=first), "reset")
    reset = await service.monitors.replace_reference("m", 2, MonitorReference(feature_set_id=first), "reset")
    assert (reset.epoch.number, reset.epoch.has_guarantee) == (3, False)
    await service.kill()
    await service.start()
    await service.observe("m", draw(20, seed=6), prefix="new")
    assert (await service.monitors.get("m")).epoch.rows == 20


@both_databases
async def test_a_reset_keeps_the_reference_watches_again_and_has_no_bound(service, store):
    reference, drifted = draw(90, seed=1), draw(60, seed=2, shift=2.0)
    feature_set = store_set(store, reference, "kept")
    before = await service.create("m", feature_set, alpha=0.05, seed=3)
    await service.observe("m", {name: array[:1] for name, array in drifted.items()}, prefix="first")
    await service.observe("m", drifted)
    first = (await service.monitors.get("m")).epoch
    assert first.alarm is not None
    for start in ("fixed", "unseen_reference"):
        with pytest.raises(BadOption, match="only a reset keeps the reference") as caught:
            await service.monitors.replace_reference("m", 1, None, start)
        assert caught.value.field == "reference"
    assert (await service.monitors.get("m")).epoch == first

    reset = await service.monitors.replace_reference("m", 1, None, "reset")
    assert await service.monitors.replace_reference("m", 1, None, "reset") == reset, "the same call again"
    epoch = reset.epoch
    assert (epoch.number, epoch.start, epoch.has_guarantee, epoch.rows, epoch.alarm) == (2, "reset", False, 0, None)
    assert epoch.reference == first.reference == before.spec.reference
    assert (reset.spec, reset.origin, reset.channels) == (before.spec, before.origin, before.channels)
    assert [(one.number, one.rows, one.alarm) for one in reset.earlier_epochs] == [(1, 61, first.alarm)]
    assert reset.peak is None
    repeated = await service.observe("m", drifted, prefix="again", groups=[f"o-g{row}" for row in range(60)])
    assert {one.outcome for one in repeated} == {"repeated_patient"}
    assert await service.monitors.replace_reference("m", 1, None, "reset") == await service.monitors.get("m")

    library = Monitor(MonitorOptions(alpha=0.05, seed=3), reference[LAYERS[0]], [f"kept-p{row}" for row in range(90)])
    library.start_epoch(EpochStart.RESET, reference[LAYERS[0]], [f"kept-p{row}" for row in range(90)])
    more = draw(60, seed=5, shift=2.0)
    names = [f"more-{row}" for row in range(60)]
    library.observe(more[LAYERS[0]], names, names)
    await service.kill()
    await service.start()
    results = await service.observe("m", more, prefix="more")
    assert sum(one.raised_alarm for one in results) == 1
    monitor = await service.monitors.get("m")
    assert evidence_of(monitor) == list(library.status.log_evidence.values())
    assert monitor.epoch.alarm.row == library.status.alarm.row
    again = await service.monitors.replace_reference("m", 2, None, "reset")
    assert (again.epoch.number, again.epoch.reference) == (3, first.reference)
    with pytest.raises(PreconditionFailed, match="the current epoch is 3"):
        await service.monitors.replace_reference("m", 1, None, "reset")


async def test_the_highest_evidence_of_an_epoch_is_shown_beside_what_it_fell_to(service, reference):
    created = await service.create("m", reference, alpha=0.05)
    assert created.peak is None
    await service.observe("m", draw(40, seed=2, shift=2.0))
    high = await service.monitors.get("m")
    thresholds = {one.component: one.log_threshold for one in high.components}
    assert high.peak.log_evidence > thresholds[high.peak.component]
    await service.observe("m", draw(150, seed=3), prefix="calm")
    later = await service.monitors.get("m")
    excess = max(one.log_evidence - one.log_threshold for one in later.components)
    assert later.peak.log_evidence - thresholds[later.peak.component] > excess
    assert later.peak.row < 190
    assert (await service.monitors.list())[0].peak == later.peak
