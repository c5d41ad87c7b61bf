"""The gate: whose turn it is, who loses a place, and what happens to those that leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from vfmalign.core.domain.errors import Exhausted, Unavailable
from vfmalign.core.runtime import fair_gate, metrics
from vfmalign.core.runtime.fair_gate import Caller, FairGate, current_caller

CLINIC, LAB, WARD = Caller("clinic", "ada"), Caller("lab", "bob"), Caller("ward", "eve")
COLLEAGUE = Caller("clinic", "cy")


class Calls:
    """Calls that stay inside until they are ended.

    Attributes:
        entered: names of the calls, in the order in which they entered.
    """

    def __init__(self, gate: FairGate) -> None:
        self._gate, self._ends = gate, dict[str, asyncio.Event]()
        self.entered: list[str] = []

    async def begin(self, caller: Caller, *names: str) -> list[asyncio.Task[None]]:
        """Begins calls, and returns them once each is inside, waits or was refused."""
        tasks = [asyncio.create_task(self._call(caller, name)) for name in names]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return tasks

    async def end(self, name: str) -> None:
        """Ends a call, and returns once the next one has entered."""
        self._ends[name].set()
        for _ in range(4):
            await asyncio.sleep(0)

    async def end_all(self) -> None:
        """Ends calls in the order in which they enter, until nobody waits."""
        for name in self.entered:  # grows
            await self.end(name)

    async def _call(self, caller: Caller, name: str) -> None:
        current_caller.set(caller)
        async with self._gate.enter():
            self.entered.append(name)
            self._ends[name] = asyncio.Event()
            await self._ends[name].wait()


def get_depth(name: str) -> float | None:
    return metrics.REGISTRY.get_sample_value("vfmalign_queue_depth", {"queue": name})


async def test_tenants_take_turns_and_within_a_tenant_its_callers() -> None:
    calls = Calls(FairGate(1, 20, "turns"))
    await calls.begin(CLINIC, *(f"ada {number}" for number in range(4)))
    await calls.begin(COLLEAGUE, "cy 0", "cy 1")
    await calls.begin(LAB, "bob 0", "bob 1")
    await calls.begin(WARD, "eve 0")
    await calls.end_all()
    assert calls.entered == ["ada 0", "bob 0", "eve 0", "cy 0", "bob 1", "ada 1", "cy 1", "ada 2", "ada 3"]


async def test_a_tenant_that_comes_again_and_again_does_not_keep_another_one_waiting() -> None:
    calls = Calls(FairGate(1, 20, "again"))
    await calls.begin(CLINIC, "ada 0", "ada 1", "ada 2")
    for number in range(2):
        await calls.begin(LAB, f"bob {number}")
        await calls.begin(WARD, f"eve {number}")
        for name in (f"ada {number}", f"bob {number}", f"eve {number}"):
            await calls.end(name)
    assert calls.entered == ["ada 0", "bob 0", "eve 0", "ada 1", "bob 1", "eve 1", "ada 2"]


async def test_a_caller_alone_has_every_place() -> None:
    calls = Calls(FairGate(2, 5, "alone"))
    tasks = await calls.begin(CLINIC, "0", "1", "2", "3", "4", "5")
    assert calls.entered == ["0", "1"]
    assert get_depth("alone") == 5
    with pytest.raises(Exhausted, match="queue alone: 5 calls") as caught:
        await tasks[5]
    assert (caught.value.reason, caught.value.retry_after_s) == ("QUEUE_FULL", fair_gate.SHORTEST_RETRY_S)
    await calls.end_all()
    await asyncio.gather(*tasks[:5])
    assert get_depth("alone") == 0


async def test_a_newcomer_displaces_the_newest_waiting_call_of_the_tenant_with_most_places() -> None:
    calls = Calls(FairGate(1, 5, "full"))
    ada = await calls.begin(CLINIC, "ada 0", "ada 1", "ada 2")
    bob = await calls.begin(LAB, "bob 0", "bob 1")
    eve = await calls.begin(WARD, "eve 0")
    with pytest.raises(Exhausted) as caught:
        await ada[2]
    assert caught.value.reason == "QUEUE_FULL"
    assert get_depth("full") == 5
    (refused,) = await calls.begin(LAB, "bob 2")
    with pytest.raises(Exhausted):
        await refused
    (colleague,) = await calls.begin(WARD, "eve 1")  # as many as the others have: nobody holds more
    with pytest.raises(Exhausted):
        await colleague
    await calls.end_all()
    await asyncio.gather(*ada[:2], *bob, *eve)
    assert calls.entered == ["ada 0", "bob 0", "eve 0", "ada 1", "bob 1"]


async def test_within_a_tenant_the_caller_with_most_places_loses_one() -> None:
    calls = Calls(FairGate(1, 3, "colleagues"))
    ada = await calls.begin(CLINIC, "ada 0", "ada 1", "ada 2")
    await calls.begin(COLLEAGUE, "cy 0")
    with pytest.raises(Exhausted):
        await ada[2]
    await calls.end_all()
    assert calls.entered == ["ada 0", "cy 0", "ada 1"]


async def test_whoever_leaves_while_it_waits_gives_its_place_back_at_once() -> None:
    calls = Calls(FairGate(1, 3, "leaving"))
    _, leaves, stays = await calls.begin(CLINIC, "0", "1", "2")
    leaves.cancel()
    await asyncio.sleep(0)
    (late,) = await calls.begin(CLINIC, "3")
    await calls.end_all()
    await asyncio.gather(stays, late)
    assert calls.entered == ["0", "2", "3"]
    assert leaves.cancelled()


async def test_a_deadline_gives_the_place_back() -> None:
    gate = FairGate(1, 2, "deadline")
    async with gate.enter():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), gate.enter():
                pass
        assert get_depth("deadline") == 1
    assert get_depth("deadline") == 0


@pytest.mark.parametrize("leaves_first", [True, False])
async def test_a_call_that_is_displaced_while_it_leaves_blocks_nobody(leaves_first: bool) -> None:
    calls = Calls(FairGate(1, 2, "race"))
    first, second = await calls.begin(CLINIC, "0", "1")
    if leaves_first:
        second.cancel()
    newcomer = asyncio.create_task(calls._call(LAB, "2"))
    await asyncio.sleep(0)  # it takes the place; nobody has noticed yet
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    await calls.end_all()
    await asyncio.gather(first, newcomer)
    assert (calls.entered, get_depth("race")) == (["0", "2"], 0)


async def test_a_call_that_leaves_as_its_turn_comes_passes_it_on() -> None:
    calls = Calls(FairGate(1, 3, "pass"))
    first, second, third = await calls.begin(CLINIC, "0", "1", "2")
    first.cancel()
    await asyncio.sleep(0)  # the second one has its turn, and has not noticed
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    await calls.end_all()
    await third
    assert (calls.entered, get_depth("pass")) == (["0", "2"], 0)


async def test_a_call_that_has_left_keeps_its_place_until_it_ends() -> None:
    gate, entered = FairGate(1, 2, "left"), asyncio.Event()

    async def call() -> None:
        async with gate.enter():
            entered.set()

    async with gate.enter() as leave:
        waiting = asyncio.create_task(call())
        await asyncio.sleep(0)
        leave()
        leave()
        await waiting
        assert entered.is_set()
        assert get_depth("left") == 1


async def test_a_refusal_states_how_long_the_places_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s)
    gate = FairGate(2, 3, "delay")
    calls = Calls(gate)
    await calls.begin(CLINIC, "0", "1", "2")
    now_s = 4.0
    await calls.end("0")
    now_s = 8.0  # the second one was inside for 8 s, and had the thread for 4
    await calls.end("1")
    await calls.begin(CLINIC, "3", "4")
    (refused,) = await calls.begin(CLINIC, "5")
    with pytest.raises(Exhausted) as caught:
        await refused
    assert caught.value.retry_after_s == pytest.approx(3 * 4.0)
    now_s = 1e6
    await calls.end("2")
    await calls.begin(CLINIC, "6")
    (refused,) = await calls.begin(CLINIC, "7")
    with pytest.raises(Exhausted) as caught:
        await refused
    assert caught.value.retry_after_s == fair_gate.LONGEST_RETRY_S
    await calls.end_all()


async def test_whoever_repeats_a_refused_call_too_early_is_refused_before_it_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 0.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s)
    monkeypatch.setattr(fair_gate, "_READ_PAUSE_S", 0.1 * fair_gate.SHORTEST_RETRY_S)
    gate = FairGate(1, 2, "early")
    calls = Calls(gate)

    def check(caller: Caller) -> None:
        current_caller.set(caller)
        with gate.expect():
            pass

    await calls.begin(CLINIC, "0", "1")
    check(CLINIC)  # full, but nobody was refused
    (refused,) = await calls.begin(CLINIC, "2")
    with pytest.raises(Exhausted):
        await refused
    check(CLINIC)  # it may be for another queue
    with pytest.raises(Exhausted) as caught:
        check(CLINIC)
    gate.forgive()
    check(CLINIC)
    (refused,) = await calls.begin(CLINIC, "3")
    with pytest.raises(Exhausted):
        await refused
    with pytest.raises(Exhausted):
        check(CLINIC)
    assert (caught.value.reason, caught.value.retry_after_s) == ("QUEUE_FULL", fair_gate.SHORTEST_RETRY_S)
    check(LAB)  # it would displace a call
    check(COLLEAGUE)
    now_s = fair_gate.SHORTEST_RETRY_S
    check(CLINIC)  # it has waited as it was told
    now_s = 0.0
    await calls.end("0")
    check(CLINIC)  # there is a place
    now_s = 0.5 * fair_gate.SHORTEST_RETRY_S
    with gate.expect():
        check(CLINIC)  # one place, for which a call comes already
        with pytest.raises(Exhausted):
            check(CLINIC)
    check(CLINIC)
    await calls.end_all()


async def test_a_gate_remembers_refusals_only_until_their_delay_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s)
    gate = FairGate(1, 1, "memory")
    calls = Calls(gate)
    await calls.begin(CLINIC, "inside")
    for number in range(50):
        (refused,) = await calls.begin(Caller("clinic", str(number)), str(number))
        with pytest.raises(Exhausted):
            await refused
        now_s += 0.5 * fair_gate.SHORTEST_RETRY_S
    assert len(gate._refused_until) <= 3
    await calls.end_all()


async def test_a_closed_gate_sends_everybody_to_another_replica_who_is_not_inside() -> None:
    gate = FairGate(1, 3, "closed")
    calls = Calls(gate)
    inside, waiting = await calls.begin(CLINIC, "0", "1")
    gate.close()
    (late,) = await calls.begin(LAB, "2")
    for task in (waiting, late):
        with pytest.raises(Unavailable) as caught:
            await task
        assert caught.value.reason == "DRAINING"
    await calls.end("0")
    await inside
    assert (calls.entered, get_depth("closed")) == (["0"], 0)


async def test_a_gate_that_closes_as_a_turn_comes_lets_nobody_in() -> None:
    gate = FairGate(1, 3, "closing")
    calls = Calls(gate)
    first, second = await calls.begin(CLINIC, "0", "1")
    first.cancel()
    await asyncio.sleep(0)
    gate.close()
    with pytest.raises(Unavailable):
        await second
    assert calls.entered == ["0"]


async def test_the_gate_forgets_who_has_left() -> None:
    gate = FairGate(1, 3, "forgets")
    calls = Calls(gate)
    for number in range(5):
        await calls.begin(Caller("clinic", str(number)), str(number))
    await calls.end_all()
    state: list[Callable[[], int]] = [
        getattr(gate, name).__len__ for name in ("_calls", "_inside", "_places", "_turns")
    ]
    assert [length() for length in state] == [0, 0, 0, 0]
