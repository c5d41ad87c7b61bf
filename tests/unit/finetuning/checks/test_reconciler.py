"""Which checks run, what a check reports while its stages run, and which errors are tried again."""

import asyncio
from collections import Counter, defaultdict
from functools import partial

import pytest

from vfmalign.client.async_client import AsyncClient
from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.common import Progress
from vfmalign.core.domain.errors import BadOption, Exhausted, Forbidden, StoreUnavailable, Unauthenticated, Unavailable
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.finetuning.checks.artifacts import Stage
from vfmalign.finetuning.checks.reconciler import PollingPolicy, Reconciler, StatusBoard, is_transient
from vfmalign.finetuning.checks.repository import CheckRepository, ReportRefs
from vfmalign.finetuning.jobs.repository import JobRepository

WAIT_S = 30


class Checks:
    """Records every write."""

    def __init__(self):
        self.writes = []

    def set_stage_progress(self, check_id, stages):
        self.writes.append((check_id, stages))


async def test_stages_report_side_by_side_and_only_changes_are_written():
    checks = Checks()
    board = StatusBoard(checks, "c")
    for _ in range(2):
        await board.set_status("mmd", "comparing")
    await board.set_status("measures", "measuring", Progress(phase="forward", done=1, total=2, unit="case"))
    mmd = Progress(phase="mmd", detail="comparing")
    measures = Progress(phase="measures", detail="measuring", done=1, total=2, unit="case")
    assert checks.writes == [("c", (mmd,)), ("c", (mmd, measures))]


async def test_a_wait_ends_with_its_stage_and_the_last_progress_stays():
    checks = Checks()
    board = StatusBoard(checks, "c")
    await board.set_status("start", "waiting", reason="UNAVAILABLE")
    await board.set_status("mmd", "comparing")
    await board.remove("start")
    assert checks.writes[-1] == ("c", (Progress(phase="mmd", detail="comparing"),))
    await board.remove("mmd")
    assert len(checks.writes) == 3


def too_large():
    error = Exhausted("needs 9 GiB")
    error.retry_after_s = None
    return error


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (Unavailable("draining"), True),
        (Forbidden("no role"), True),
        (Exhausted("the queue is full"), True),
        (too_large(), False),
        (BadOption("unknown layer"), False),
    ],
)
def test_errors_that_end_by_themselves_are_tried_again(error, transient):
    assert is_transient(error) is transient


class EndlessStage:
    """The only stage of its checks: it runs until its check is cancelled."""

    def __init__(self):
        self.started, self.ended = defaultdict(asyncio.Event), defaultdict(asyncio.Event)
        self.running = set()

    async def find(self, context):
        return None

    async def make(self, context, outputs):
        self.running.add(context.check.id)
        self.started[context.check.id].set()
        try:
            await asyncio.Event().wait()
        finally:
            self.running.remove(context.check.id)
            self.ended[context.check.id].set()

    def get_all(self, seeds):
        return [Stage("endless", (), self.find, self.make, "stages/endless.json")]


class RefusedStage:
    """The only stage of its checks: it fails with the error of its check."""

    def __init__(self, **errors):
        self.errors = errors

    async def find(self, context):
        return None

    async def make(self, context, outputs):
        raise self.errors[context.check.id]

    def get_all(self, seeds):
        return [Stage("refused", (), self.find, self.make, "stages/refused.json")]


class SharingStages:
    """A stage, one that reads its artifact, and one that only comes after it."""

    def __init__(self):
        self.given = {}

    async def find(self, context):
        return None

    async def make(self, context, outputs, *, name):
        self.given[name] = dict(outputs.items())
        return Progress(phase=name)

    def get_all(self, seeds):
        first = Stage("first", (), self.find, partial(self.make, name="first"), "first.json")
        reads = Stage("reads", ("first",), self.find, partial(self.make, name="reads"), "reads.json")
        after = Stage("after", (), self.find, partial(self.make, name="after"), "after.json", after=("first",))
        return [first, reads, after]


async def test_a_stage_is_given_the_artifacts_that_it_declares_to_read_and_no_others(database, store):
    checks, stages = CheckRepository(database), SharingStages()
    checks.create("c", CheckSpec(model_id="m", dataset_id="d", task="segmentation"))
    async with asyncio.timeout(WAIT_S), AsyncClient() as client:
        reconciler = Reconciler(
            get_stages=stages.get_all,
            checks=checks,
            jobs=JobRepository(database),
            store=store,
            client=client,
            policy=PollingPolicy(),
        )
        await reconciler.reconcile()
        while len(stages.given) < 3:  # noqa: ASYNC110 - the driver of the check changes it
            await asyncio.sleep(0.02)
        await reconciler.end()
    assert stages.given == {"first": {}, "reads": {"first": Progress(phase="first")}, "after": {}}


async def test_checks_that_wait_are_counted_by_the_kind_of_the_error(database, store):
    checks = CheckRepository(database)
    refused = Unauthenticated("the token's signature is wrong", reason="BAD_SIGNATURE")
    stage = RefusedStage(c0=refused, c1=refused, c2=StoreUnavailable("no answer"), c3=BadOption("unknown layer"))
    for check_id in stage.errors:
        checks.create(check_id, CheckSpec(model_id="m", dataset_id="d", task="segmentation"))
    async with asyncio.timeout(WAIT_S), AsyncClient() as client:
        reconciler = Reconciler(
            get_stages=stage.get_all,
            checks=checks,
            jobs=JobRepository(database),
            store=store,
            client=client,
            policy=PollingPolicy(first_wait_s=WAIT_S, longest_wait_s=WAIT_S),
        )
        nothing = reconciler.count_waiting()
        assert not any(nothing.values())
        await reconciler.reconcile()
        while sum(reconciler.count_waiting().values()) < 3:  # noqa: ASYNC110 - drivers of checks change it
            await asyncio.sleep(0.02)
        while checks.get("c3").state != "failed":  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.02)
        waiting = reconciler.count_waiting()
        assert waiting.keys() == nothing.keys(), "the reasons are bounded"
        assert +Counter(waiting) == {"UNAUTHENTICATED": 2, "STORE_UNAVAILABLE": 1}
        checks.cancel("c0")
        await reconciler.reconcile()
        assert +Counter(reconciler.count_waiting()) == {"UNAUTHENTICATED": 1, "STORE_UNAVAILABLE": 1}
        await reconciler.end()
        assert not any(reconciler.count_waiting().values())


async def test_a_cancelled_check_ends_though_a_reopened_one_takes_it_beyond_the_limit(database, store):
    checks, stage, ref = CheckRepository(database), EndlessStage(), StoredFile(key="k", sha256="0" * 64, size_bytes=1)
    for check_id in ("c0", "c1", "c2"):
        checks.create(check_id, CheckSpec(model_id="m", dataset_id="d", task="segmentation"))
    checks.begin("c0")
    checks.succeed("c0", ReportRefs(json_ref=ref, html_ref=ref))
    async with asyncio.timeout(WAIT_S), AsyncClient() as client:
        reconciler = Reconciler(
            get_stages=stage.get_all,
            checks=checks,
            jobs=JobRepository(database),
            store=store,
            client=client,
            policy=PollingPolicy(max_checks=2),
        )
        await reconciler.reconcile()
        for check_id in ("c1", "c2"):
            await stage.started[check_id].wait()

        checks.reopen("c0", "its report is lost")
        assert [check.id for check in checks.active()] == ["c0", "c1", "c2"], "the oldest first"
        await reconciler.reconcile()

        checks.cancel("c2")
        await reconciler.reconcile()
        assert checks.get("c2").state == "cancelled"
        assert stage.ended["c2"].is_set()
        await stage.started["c0"].wait()
        assert stage.running == {"c0", "c1"}, "the reopened check takes the place"
        await reconciler.end()
