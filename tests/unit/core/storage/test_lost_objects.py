"""What a reader reports of an object that is not as it was recorded."""

import pytest

from vfmalign.core.domain.errors import DataLoss, NotFound, PreconditionFailed
from vfmalign.core.storage.lost_objects import lost_as


@pytest.mark.parametrize("error", [NotFound("there is no such object"), PreconditionFailed("its digest is another")])
def test_an_object_that_is_missing_or_changed_is_lost(error):
    with pytest.raises(DataLoss, match="restore it") as lost, lost_as("volume", "phantoms", "restore it"):
        raise error
    assert (lost.value.kind, lost.value.owner) == ("volume", "phantoms")


@pytest.mark.parametrize(
    "error", [NotFound("x", reason="BUCKET_NOT_FOUND"), PreconditionFailed("x", reason="WRONG_REGION")]
)
def test_a_wrong_setting_of_the_store_loses_nothing(error):
    with pytest.raises(type(error)) as raised, lost_as("volume", "phantoms", "restore it"):
        raise error
    assert raised.value is error
