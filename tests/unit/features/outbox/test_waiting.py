"""What waits in an outbox: order, bounds, and what a survey of the store changes."""

from __future__ import annotations

import pytest

from vfmalign.core.domain.errors import TooLarge
from vfmalign.core.runtime.metrics import REGISTRY
from vfmalign.core.storage.keys import outbox_key, parse_outbox_key
from vfmalign.features.outbox.waiting import Waiting
from vfmalign.features.settings import OutboxOptions

SHA = "0" * 64


def make_waiting(**options: int) -> Waiting:
    waiting = Waiting("ward", OutboxOptions(**options))
    waiting.end_survey({}, waiting.begin_survey())
    return waiting


def store(waiting: Waiting, monitor: str = "m", size: int = 10) -> str:
    key = waiting.begin(monitor, size, SHA)
    waiting.end(key, is_written=True)
    return key


def get_metric(name: str) -> float | None:
    return REGISTRY.get_sample_value(f"vfmalign_outbox_{name}", {"tenant": "ward"})


def test_everything_may_wait_until_the_store_was_surveyed() -> None:
    waiting = Waiting("ward", OutboxOptions())
    assert waiting.has("m")
    waiting.end_survey({}, waiting.begin_survey())
    assert not waiting.has("m")


def test_keys_sort_in_the_order_in_which_they_were_drawn() -> None:
    waiting = make_waiting()
    keys = [store(waiting) for _ in range(200)]
    assert keys == sorted(set(keys))


def test_a_new_key_comes_after_those_of_a_replica_whose_clock_is_ahead() -> None:
    waiting = make_waiting()
    ahead = outbox_key("m", 4 * 10**18, "ffffffff", SHA)
    waiting.end_survey({ahead: 10}, waiting.begin_survey())
    assert store(waiting) > ahead


def test_a_key_of_no_clock_leaves_room_for_others() -> None:
    waiting = make_waiting()
    last = outbox_key("m", 10**20 - 1, "00000000", SHA)
    waiting.end_survey({last: 10}, waiting.begin_survey())
    assert waiting.has("m"), "it is found to be damaged, and deleted"
    keys = [store(waiting), store(waiting, "other")]
    assert None not in map(parse_outbox_key, keys), "what was answered as queued is found again"


def test_a_key_names_no_observation() -> None:
    key = store(make_waiting(), "prostate-ct")
    assert (parse_outbox_key(key) or ())[0] == "prostate-ct"
    for other in ("outbox/m/x.pb", f"outbox/{SHA}.pb", "features/m/" + key.rsplit("/", 1)[1], key + "x"):
        assert parse_outbox_key(other) is None


@pytest.mark.parametrize("options", [{"max_observations": 3}, {"max_bytes": 2**16}])
def test_an_outbox_is_full_at_its_bound_and_takes_more_once_there_is_room(options: dict[str, int]) -> None:
    waiting = make_waiting(**options)
    size = 2**16 // 3
    keys = [store(waiting, f"m{number}", size) for number in range(3)]
    with pytest.raises(TooLarge, match="3 observations with 65,535 bytes wait") as caught:
        waiting.begin("m9", size, SHA)
    assert caught.value.reason == "OUTBOX_FULL"
    waiting.remove(keys[1])
    store(waiting, "m9", size)
    assert waiting.get_monitors() == ["m0", "m2", "m9"]


def test_what_is_being_written_waits_and_is_not_sent() -> None:
    waiting = make_waiting()
    first, second = waiting.begin("m", 10, SHA), waiting.begin("m", 10, SHA)
    assert waiting.has("m")
    assert waiting.get_monitors() == []
    waiting.end(second, is_written=True)
    assert waiting.get_monitors() == ["m"]
    waiting.remove(second)
    assert waiting.get_monitors() == []
    assert waiting.has("m")
    waiting.end(first, is_written=False)
    assert not waiting.has("m")
    assert get_metric("observations") == get_metric("bytes") == 0


def test_a_survey_keeps_what_it_cannot_have_seen_and_drops_what_another_replica_has_sent() -> None:
    waiting = make_waiting()
    sent_by_another = store(waiting)
    stays = store(waiting)
    writing = waiting.begin("m", 10, SHA)
    before = waiting.begin_survey()
    written_meanwhile = store(waiting)
    of_another = outbox_key("other", 1, "ffffffff", SHA)
    waiting.end_survey({stays: 10, of_another: 7}, before)
    waiting.end(writing, is_written=True)
    assert waiting.begin_survey() == {stays, writing, written_meanwhile, of_another}
    assert sent_by_another not in waiting.begin_survey()
    assert get_metric("observations") == 4
    assert get_metric("bytes") == 37
    assert get_metric("oldest_timestamp_seconds") == 1e-9


def test_a_list_that_was_cut_off_leaves_every_monitor_waiting_and_the_outbox_full() -> None:
    waiting = make_waiting(max_observations=2)
    listed = {outbox_key("a", number, "ffffffff", SHA): 1 for number in range(waiting.limit)}
    waiting.end_survey(listed, waiting.begin_survey())
    assert not waiting.is_surveyed
    assert waiting.has("z")
    with pytest.raises(TooLarge):
        waiting.begin("z", 1, SHA)


def test_a_page_of_a_monitor_shows_what_others_have_stored_and_sent() -> None:
    waiting = make_waiting()
    sent, stays, beyond = (store(waiting) for _ in range(3))
    other_monitor = store(waiting, "n")
    of_another = outbox_key("m", 7, "ffffffff", SHA)
    waiting.end_page("m", {of_another: 5, stays: 10}, waiting.begin_survey(), is_last=False)
    assert waiting.begin_survey() == {of_another, stays, beyond, other_monitor}
    assert get_metric("oldest_timestamp_seconds") == 7e-9
    waiting.end_page("m", {}, waiting.begin_survey(), is_last=True)
    assert waiting.begin_survey() == {other_monitor}
    assert sent not in waiting.begin_survey()
    assert get_metric("bytes") == 10
