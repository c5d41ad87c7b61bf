"""A model that normalises by a window takes volumes in HU, and refuses others before it reads one."""

import numpy as np
import pytest

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.runtime.metrics import Stages
from vfmalign.features.converters import to_study_request
from vfmalign.features.extraction.study import Source, prepare_sources
from vfmalign.imaging.volumes import Volume, encode
from vfmalign.v1 import features_pb2 as pb

WINDOW = Preprocessing(modalities=("ct",), shape_dhw=(8, 8, 8), normalisation="window", window=(-1000, 1000))
MR = Preprocessing(modalities=("ct",), shape_dhw=(8, 8, 8))
ABSENT = StoredObject(key="volumes/none/c/ct.nii.gz", sha256="a" * 64)


@pytest.fixture
def content():
    values = np.random.default_rng(0).integers(-1000, 1000, (8, 8, 8)).astype(np.int16)
    return encode(Volume(values, np.diag([-1.0, -1.0, 1.0, 1.0])))


def prepare(preprocessing, content, unit):
    source = Source("ct", "study.volumes[0]", content, unit)
    return prepare_sources(None, [source], preprocessing, "identity", Stages())


def test_a_study_states_its_unit(content):
    values = prepare(WINDOW, content, "HU").input_CDHW
    assert 0.0 <= float(values.min()) < 0.01
    assert 0.99 < float(values.max()) <= 1.0
    assert prepare(MR, content, "").input_CDHW.shape == (1, 8, 8, 8)
    assert prepare(MR, content, "SUVbw").input_CDHW.shape == (1, 8, 8, 8)


@pytest.mark.parametrize(("preprocessing", "unit"), [(WINDOW, ""), (WINDOW, "SUVbw"), (MR, "HU")])
def test_a_unit_that_does_not_fit_is_refused_before_a_volume_is_read(preprocessing, unit):
    with pytest.raises(BadOption) as caught:
        prepare(preprocessing, ABSENT, unit)
    assert caught.value.field == "study.volumes"
    assert "ct" in caught.value.message
    assert "HU" in caught.value.message


def test_an_unknown_unit_is_refused():
    volume = pb.StudyVolume(modality="ct", nifti=b"x", unit="hu")
    request = pb.ExtractRequest(model_id="m", study=pb.Study(volumes=[volume]))
    with pytest.raises(BadOption) as caught:
        to_study_request(request, str)
    assert caught.value.field == "study.volumes[0].unit"
    for unit in ("HU", "SUVbw"):
        volume.unit = unit
        request = pb.ExtractRequest(model_id="m", study=pb.Study(volumes=[volume]))
        assert to_study_request(request, str).sources[0].unit == unit
