"""What waits in an outbox: order, bounds, and what a survey of the store changes."""

from __future__ import annotations

import pytest

from vfmalign.core.domain.errors import TooLarge
from vfmalign.core.runtime.metrics import REGISTRY
from vfmalign.core.storage.keys import outbox_key, parse_outbox_key
from vfmalign.features.outbox.pending import PendingKeys
from vfmalign.features.settings import OutboxOptions

SHA = "0" * 64


def make_pending(**options: int) -> PendingKeys:
    pending = PendingKeys("ward", OutboxOptions(**options))
    pending.end_survey({}, pending.begin_survey())
    return pending


def store(pending: PendingKeys, monitor: str = "m", size: int = 10) -> str:
    key = pending.begin(monitor, size, SHA)
    pending.end(key, is_written=True)
    return key


def get_metric(name: str) -> float | None:
    return REGISTRY.get_sample_value(f"vfmalign_outbox_{name}", {"tenant": "ward"})


def test_keys_sort_in_the_order_in_which_they_were_drawn() -> None:
    pending = make_pending()
    keys = [store(pending) for _ in range(200)]
    assert keys == sorted(set(keys))


def test_a_new_key_comes_after_those_of_a_replica_whose_clock_is_ahead() -> None:
    pending = make_pending()
    ahead = outbox_key("m", 4 * 10**18, "ffffffff", SHA)
    pending.end_survey({ahead: 10}, pending.begin_survey())
    assert store(pending) > ahead


def test_a_key_of_no_clock_leaves_room_for_others() -> None:
    pending = make_pending()
    last = outbox_key("m", 10**20 - 1, "00000000", SHA)
    pending.end_survey({last: 10}, pending.begin_survey())
    assert pending.get_monitors() == ["m"], "it is found to be damaged, and deleted"
    keys = [store(pending), store(pending, "other")]
    assert None not in map(parse_outbox_key, keys), "what was answered as queued is found again"


def test_a_key_names_no_observation() -> None:
    key = store(make_pending(), "prostate-ct")
    assert (parse_outbox_key(key) or ())[0] == "prostate-ct"
    for other in ("outbox/m/x.pb", f"outbox/{SHA}.pb", "features/m/" + key.rsplit("/", 1)[1], key + "x"):
        assert parse_outbox_key(other) is None


@pytest.mark.parametrize("options", [{"max_observations": 3}, {"max_bytes": 2**16}])
def test_an_outbox_is_full_at_its_bound_and_takes_more_once_there_is_room(options: dict[str, int]) -> None:
    pending = make_pending(**options)
    size = 2**16 // 3
    keys = [store(pending, f"m{number}", size) for number in range(3)]
    with pytest.raises(TooLarge, match="3 observations with 65,535 bytes are waiting") as caught:
        pending.begin("m9", size, SHA)
    assert caught.value.reason == "OUTBOX_FULL"
    pending.remove(keys[1])
    store(pending, "m9", size)
    assert pending.get_monitors() == ["m0", "m2", "m9"]


def test_what_is_being_written_waits_and_is_not_sent() -> None:
    pending = make_pending()
    first, second = pending.begin("m", 10, SHA), pending.begin("m", 10, SHA)
    assert pending.get_monitors() == []
    pending.end(second, is_written=True)
    assert pending.get_monitors() == ["m"]
    pending.remove(second)
    assert pending.get_monitors() == []
    assert get_metric("observations") == 1
    pending.end(first, is_written=False)
    assert get_metric("observations") == get_metric("bytes") == 0


def test_a_survey_keeps_what_it_cannot_have_seen_and_drops_what_another_replica_has_sent() -> None:
    pending = make_pending()
    sent_by_another = store(pending)
    stays = store(pending)
    writing = pending.begin("m", 10, SHA)
    before = pending.begin_survey()
    written_meanwhile = store(pending)
    of_another = outbox_key("other", 1, "ffffffff", SHA)
    pending.end_survey({stays: 10, of_another: 7}, before)
    pending.end(writing, is_written=True)
    assert pending.begin_survey() == {stays, writing, written_meanwhile, of_another}
    assert sent_by_another not in pending.begin_survey()
    assert get_metric("observations") == 4
    assert get_metric("bytes") == 37
    assert get_metric("oldest_timestamp_seconds") == 1e-9


def test_a_list_that_was_cut_off_leaves_the_outbox_full() -> None:
    pending = make_pending(max_observations=2)
    listed = {outbox_key("a", number, "ffffffff", SHA): 1 for number in range(pending.limit)}
    pending.end_survey(listed, pending.begin_survey())
    assert not pending.is_surveyed
    with pytest.raises(TooLarge):
        pending.begin("z", 1, SHA)


def test_a_page_of_a_monitor_shows_what_others_have_stored_and_sent() -> None:
    pending = make_pending()
    sent, stays, beyond = (store(pending) for _ in range(3))
    other_monitor = store(pending, "n")
    of_another = outbox_key("m", 7, "ffffffff", SHA)
    pending.end_page("m", {of_another: 5, stays: 10}, pending.begin_survey(), is_last=False)
    assert pending.begin_survey() == {of_another, stays, beyond, other_monitor}
    assert get_metric("oldest_timestamp_seconds") == 7e-9
    pending.end_page("m", {}, pending.begin_survey(), is_last=True)
    assert pending.begin_survey() == {other_monitor}
    assert sent not in pending.begin_survey()
    assert get_metric("bytes") == 10
