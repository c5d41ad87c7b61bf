"""What a check makes of the answers of other services."""

from __future__ import annotations

import pytest

from vfmalign.client.messages.mmd import ComputeOptions, Kernel
from vfmalign.client.samples import StoredFeatureSet
from vfmalign.core.domain.errors import DataLoss, DigestMismatch, NotFound, VfmalignError
from vfmalign.finetuning.checks.clients import ComparisonRequest, compare

BEFORE, AFTER, REFERENCE = (StoredFeatureSet(letter * 32, letter * 64) for letter in "abc")
REQUEST = ComparisonRequest(
    before=BEFORE,
    after=AFTER,
    reference=REFERENCE,
    options=ComputeOptions(pairing="paired", kernel=Kernel(fixed_sigma=1.0)),
)


class Refusing:
    def __init__(self, error: VfmalignError) -> None:
        self.error = error

    async def compute(self, *_: object, **__: object) -> None:
        raise self.error


@pytest.mark.parametrize("kind", [NotFound, DigestMismatch])
@pytest.mark.parametrize("one", [BEFORE, AFTER, REFERENCE])
async def test_a_set_that_mmd_does_not_have_in_the_recorded_version_is_lost(
    kind: type[VfmalignError], one: StoredFeatureSet
) -> None:
    """The stage that made the set then makes it again, instead of a check that fails."""
    error = kind("its manifest has another digest", subject=f"feature set {one.feature_set_id}")
    with pytest.raises(DataLoss, match="another digest") as caught:
        await compare(Refusing(error), REQUEST)  # type: ignore[arg-type]
    assert (caught.value.kind, caught.value.owner) == ("feature_set", one.feature_set_id)


async def test_an_error_about_something_else_stays_what_it_is() -> None:
    error = NotFound("there is no such bucket", subject="s3://vfmalign", reason="BUCKET_NOT_FOUND")
    with pytest.raises(NotFound) as caught:
        await compare(Refusing(error), REQUEST)  # type: ignore[arg-type]
    assert caught.value is error
