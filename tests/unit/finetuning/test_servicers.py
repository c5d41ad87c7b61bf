"""What the servicers of jobs, checks and experiments share."""

import pytest

from vfmalign.finetuning.servicers import OperationServicer


def test_a_servicer_that_converts_nothing_cannot_be_created():
    class Incomplete(OperationServicer):
        pass

    with pytest.raises(TypeError, match="_convert"):
        Incomplete(None, watching=None)
