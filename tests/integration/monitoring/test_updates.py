"""What an update of a monitor changes, on SQLite and PostgreSQL."""

from __future__ import annotations

import pytest
from tests.integration.monitoring.conftest import draw

from vfmalign.core.domain.errors import BadOption, Conflict, NotFound


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
async def test_an_update_changes_the_spec_and_neither_the_evidence_nor_the_first_request(service, reference):
    await service.create("m", reference, alpha=0.05, title="first", max_silence_hours=2)
    await service.observe("m", draw(30, seed=2))
    before = await service.monitors.get("m")
    after = await service.monitors.update("m", max_silence_hours=72)
    assert after == before.model_copy(update={"spec": before.spec.model_copy(update={"max_silence_hours": 72})})
    assert (await service.monitors.update("m", title="second", max_silence_hours=0)).spec.title == "second"
    assert b"second" in await service.monitors.get_report("m")
    await service.observe("m", draw(31, seed=2), start=30)
    again = await service.create("m", reference, alpha=0.05, title="first", max_silence_hours=2)
    assert (again.spec.title, again.spec.max_silence_hours, again.epoch.rows) == ("second", 0, 31)
    with pytest.raises(Conflict, match="differs in alpha;"):
        await service.create("m", reference, alpha=0.01, title="first", max_silence_hours=2)
    for wrong, words in (({}, "nothing to change"), ({"max_silence_hours": -1}, "max_silence_hours")):
        with pytest.raises(BadOption, match=words):
            await service.monitors.update("m", **wrong)
    with pytest.raises(NotFound):
        await service.monitors.update("gone", title="t")
