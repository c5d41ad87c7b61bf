"""How many calls a caller has, and memory for requests: who gets it, who waits, and who has to make room."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from vfmalign.core.domain.errors import Exhausted
from vfmalign.core.rpc.limits.admission import Admission, ShareExhausted
from vfmalign.core.runtime.fair_gate import Caller

MESSAGE = 10
ME, OTHER, THIRD = Caller("clinic", "ada"), Caller("lab", "bob"), Caller("ward", "eve")
COLLEAGUE = Caller("clinic", "cy")


def create(**changes: Any) -> Admission:
    settings = {"message_bytes": MESSAGE, "total_bytes": 4 * MESSAGE, "message_timeout_s": 60.0, "grace_s": 0.1}
    timeouts = {"answer_timeout_s": 60.0, "wait_s": 0.05}
    return Admission(**{"calls_per_caller": 2, **settings, **timeouts, **changes})


def sends(data: bytes | None) -> Any:
    """A call that sends a message at once, or never."""

    async def read() -> Any:
        if data is None:
            await asyncio.Event().wait()
        return data

    return SimpleNamespace(read=read)


async def test_a_call_keeps_the_size_of_its_message_until_it_ends() -> None:
    admission = create()
    async with admission.reserve(ME) as reservation:
        assert admission.used_bytes == MESSAGE
        assert await admission.read(sends(b"abc"), reservation) == b"abc"
        assert admission.used_bytes == 3
    assert admission.used_bytes == 0


async def test_calls_of_one_caller_are_limited_until_one_ends() -> None:
    admission = create()
    with admission.count(ME):
        with (
            admission.count(ME),
            admission.count(OTHER),
            pytest.raises(Exhausted, match="2 calls are open") as caught,
            admission.count(ME),
        ):
            pass
        assert caught.value.reason == "TOO_MANY_CALLS"
        assert "VFMALIGN_SERVER__MAX_CALLS_PER_CALLER" in caught.value.remedy
        assert caught.value.retry_after_s is not None
        with admission.count(ME):
            pass


async def test_one_caller_gets_half_of_the_memory() -> None:
    admission = create()
    async with admission.reserve(ME), admission.reserve(ME):
        with pytest.raises(Exhausted) as caught:
            async with admission.reserve(ME):
                pass
        assert caught.value.reason == "REQUESTS_EXHAUSTED"
        assert caught.value.retry_after_s is not None
        assert isinstance(caught.value, ShareExhausted)
        async with admission.reserve(OTHER):
            assert admission.used_bytes == 3 * MESSAGE
            async with admission.reserve(OTHER):
                with pytest.raises(Exhausted) as full:
                    async with admission.reserve(THIRD):
                        pass
                assert (full.value.reason, type(full.value)) == ("REQUESTS_EXHAUSTED", Exhausted)
    assert admission.used_bytes == 0


async def test_the_callers_of_one_tenant_get_three_quarters_of_the_memory() -> None:
    admission = create()
    async with admission.reserve(ME), admission.reserve(ME), admission.reserve(COLLEAGUE):
        with pytest.raises(ShareExhausted, match="your share of the memory"):
            async with admission.reserve(COLLEAGUE):
                pass
        async with admission.reserve(OTHER):
            assert admission.used_bytes == 4 * MESSAGE


async def test_memory_goes_to_the_tenant_and_the_caller_that_hold_least() -> None:
    admission, order = create(wait_s=60.0, total_bytes=8 * MESSAGE), list[Caller]()
    ends = {caller: asyncio.Event() for caller in (ME, COLLEAGUE, OTHER, THIRD)}

    async def hold(caller: Caller) -> None:
        async with admission.reserve(caller):
            order.append(caller)
            await ends[caller].wait()

    callers = (ME, ME, ME, ME, COLLEAGUE, OTHER, OTHER, OTHER)
    calls = [asyncio.create_task(hold(caller)) for caller in callers]
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(hold(caller)) for caller in (OTHER, COLLEAGUE, THIRD)]
    await asyncio.sleep(0)
    order.clear()
    for _ in range(2):  # the first two of ME end, one after the other
        calls.pop(0).cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert order == [THIRD, COLLEAGUE]
    for end in ends.values():
        end.set()
    await asyncio.gather(*calls, *waiting)
    assert admission.used_bytes == 0


async def test_a_waiting_call_gets_what_another_returns() -> None:
    admission = create(wait_s=60.0)
    order: list[int] = []

    async def call(number: int) -> None:
        async with admission.reserve(ME) as reservation:
            await admission.read(sends(b"x"), reservation)
            order.append(number)

    async with asyncio.timeout(10):
        await asyncio.gather(*(call(number) for number in range(50)))
    assert order == list(range(50))
    assert admission.used_bytes == 0


async def test_the_oldest_unfinished_message_makes_room() -> None:
    admission = create(wait_s=60.0)

    async def stall() -> None:
        async with admission.reserve(ME) as reservation:
            await admission.read(sends(None), reservation)

    stalled = [asyncio.create_task(stall()) for _ in range(2)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10), admission.reserve(ME) as reservation:
        assert await admission.read(sends(b"x"), reservation) == b"x"
    with pytest.raises(Exhausted, match="not complete"):
        await stalled[0]
    assert not stalled[1].done()
    stalled[1].cancel()


async def test_a_message_that_takes_too_long_ends_the_call() -> None:
    admission = create(message_timeout_s=0.05)
    with pytest.raises(Exhausted) as caught:
        async with admission.reserve(ME) as reservation:
            await admission.read(sends(None), reservation)
    assert caught.value.reason == "MESSAGE_STALLED"
    assert admission.used_bytes == 0


async def test_a_caller_that_leaves_while_it_waits_holds_nothing() -> None:
    admission = create(wait_s=60.0)

    async def call() -> None:
        async with admission.reserve(ME):
            await asyncio.Event().wait()

    calls = [asyncio.create_task(call()) for _ in range(3)]
    await asyncio.sleep(0)
    for task in reversed(calls):
        task.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert admission.used_bytes == 0


async def test_memory_that_is_returned_while_a_waiting_caller_leaves_goes_to_the_next() -> None:
    admission = create(wait_s=60.0)
    order: list[str] = []

    async def call(name: str) -> None:
        async with admission.reserve(ME):
            order.append(name)

    async with admission.reserve(ME):
        async with admission.reserve(ME):
            calls = [asyncio.create_task(call(name)) for name in ("leaves", "stays")]
            await asyncio.sleep(0)
            calls[0].cancel()  # it has not noticed yet
        await calls[1]
    await asyncio.gather(*calls, return_exceptions=True)
    assert (order, admission.used_bytes) == (["stays"], 0)


async def test_an_answer_holds_memory_until_it_is_taken() -> None:
    admission = create()
    taken = await admission.send(ME, MESSAGE, give_up=lambda: None)
    async with admission.reserve(ME):
        with pytest.raises(Exhausted, match="the memory for requests and answers is in use"):
            await admission.send(ME, 1, give_up=lambda: None)
    assert admission.used_bytes == MESSAGE
    taken()
    assert admission.used_bytes == 0


async def test_an_answer_larger_than_the_memory_of_one_caller_takes_all_of_it() -> None:
    admission = create()
    taken = await admission.send(ME, 100 * MESSAGE, give_up=lambda: None)
    assert admission.used_bytes == 2 * MESSAGE
    taken()


async def test_an_answer_that_is_not_taken_is_given_up_again_and_again() -> None:
    admission, given_up = create(answer_timeout_s=0.01), asyncio.Semaphore(0)
    taken = await admission.send(ME, 1, give_up=given_up.release)
    async with asyncio.timeout(10):
        for _ in range(3):
            await given_up.acquire()
    taken()


async def test_the_oldest_answer_makes_room() -> None:
    admission, order = create(wait_s=60.0), list[int]()
    answers = [await admission.send(ME, MESSAGE, give_up=lambda number=number: free(number)) for number in range(2)]

    def free(number: int) -> None:
        order.append(number)
        answers[number]()

    async with asyncio.timeout(10), admission.reserve(ME):
        assert order == [0]
    answers[1]()


async def test_anonymous_callers_learn_where_to_probe() -> None:
    admission = create(is_shared=True, calls_per_caller=1)
    with admission.count(ME), pytest.raises(Exhausted, match="callers without a token") as caught, admission.count(ME):
        pass
    assert "health port" in caught.value.remedy
