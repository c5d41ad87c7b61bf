"""What a check reports while its stages run, and which errors are tried again."""

import pytest

from vfmalign.client.messages.common import Progress
from vfmalign.core.domain.errors import BadOption, Exhausted, Forbidden, Unavailable
from vfmalign.finetuning.checks.reconciler import StatusBoard, is_transient


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
    await board.set_status("probes", "probing", Progress(phase="forward", done=1, total=2, unit="case"))
    mmd = Progress(phase="mmd", detail="comparing")
    probes = Progress(phase="probes", detail="probing", done=1, total=2, unit="case")
    assert checks.writes == [("c", (mmd,)), ("c", (mmd, probes))]


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
