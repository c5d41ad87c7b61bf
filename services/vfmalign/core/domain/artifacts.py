# ruff: noqa: PLC0414
"""Re-exports of records and keys under their former address. Import them from their own modules."""

from __future__ import annotations

from vfmalign.core.domain.datasets import MODALITIES as MODALITIES
from vfmalign.core.domain.datasets import SPLITS as SPLITS
from vfmalign.core.domain.datasets import Case as Case
from vfmalign.core.domain.datasets import Dataset as Dataset
from vfmalign.core.domain.datasets import Modality as Modality
from vfmalign.core.domain.datasets import Split as Split
from vfmalign.core.domain.datasets import VolumeKind as VolumeKind
from vfmalign.core.domain.datasets import VolumeRef as VolumeRef
from vfmalign.core.domain.jobs import CaseScore as CaseScore
from vfmalign.core.domain.jobs import FigureRef as FigureRef
from vfmalign.core.domain.jobs import JobFailure as JobFailure
from vfmalign.core.domain.jobs import JobProgress as JobProgress
from vfmalign.core.domain.jobs import JobResult as JobResult
from vfmalign.core.domain.jobs import MetricSpec as MetricSpec
from vfmalign.core.domain.jobs import Network as Network
from vfmalign.core.domain.jobs import ProbeModel as ProbeModel
from vfmalign.core.domain.jobs import TrainingRecipe as TrainingRecipe
from vfmalign.core.domain.jobs import TrainingSpec as TrainingSpec
from vfmalign.core.domain.jobs import probe_id as probe_id
from vfmalign.core.domain.models import LayerSpec as LayerSpec
from vfmalign.core.domain.models import ModelCard as ModelCard
from vfmalign.core.domain.models import Objective as Objective
from vfmalign.core.domain.models import Preprocessing as Preprocessing
from vfmalign.core.domain.models import Pretraining as Pretraining
from vfmalign.core.domain.record import ID_PATTERN as ID_PATTERN
from vfmalign.core.domain.record import SHA256_PATTERN as SHA256_PATTERN
from vfmalign.core.domain.record import Id as Id
from vfmalign.core.domain.record import Record as Record
from vfmalign.core.domain.record import Sha256 as Sha256
from vfmalign.core.domain.record import canonical_json as canonical_json
from vfmalign.core.domain.record import is_id as is_id
from vfmalign.core.storage.keys import check_key as check_key
from vfmalign.core.storage.keys import dataset_key as dataset_key
from vfmalign.core.storage.keys import experiment_key as experiment_key
from vfmalign.core.storage.keys import features_prefix as features_prefix
from vfmalign.core.storage.keys import job_key as job_key
from vfmalign.core.storage.keys import model_card_key as model_card_key
from vfmalign.core.storage.keys import upload_key as upload_key
from vfmalign.core.storage.keys import volume_key as volume_key
from vfmalign.core.storage.keys import weights_key as weights_key
