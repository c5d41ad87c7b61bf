"""What stands in for the processes around the finetuning service: two services, training, and stored inputs."""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np

from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.errors import BadOption, DataLoss, DigestMismatch, NotFound
from vfmalign.core.domain.models import ModelCard, Preprocessing
from vfmalign.core.domain.record import canonical_json
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.rpc.access.credentials import TENANT
from vfmalign.core.rpc.status_mapping import DETAILS_KEY, get_status_code, to_status
from vfmalign.core.storage.datasets import save_dataset, to_datalist
from vfmalign.core.storage.feature_set_writer import FeatureSetWriter
from vfmalign.core.storage.feature_sets import FeatureRequest, read_committed, read_feature_set, read_named
from vfmalign.core.storage.keys import dataset_key, model_card_key
from vfmalign.v1 import (
    common_pb2,
    features_pb2,
    features_pb2_grpc,
    mmd_pb2,
    mmd_pb2_grpc,
)

LAYERS = ("stages.0", "stages.1")

# Trains nothing: writes what a training process writes. Seed 5 waits for a file, seed 3 finds the data bad as long as
# there is no file. Scores rise with the seed from 8 on, and with seed 12 also by the preset's recipe for random
# weights. Lesions are cut where the job allows it.
PROGRAM = """
import gc, os, signal, sys, time
gc.disable()
from pathlib import Path
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.domain.field_of_view import CaseInside
from vfmalign.core.domain.jobs import *
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.storage.keys import job_key, model_card_key
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.trainings import select_training_cases
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.store.object_store import ObjectStore
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
store = ObjectStore(StoreSettings()).of_uri(sys.argv[1])
spec = store.read(store.key(sys.argv[1]), TrainingSpec)
root = Path(os.environ["TEST_FOLDER"])
with (root / "starts").open("a") as file:
    file.write(f"{spec.job_id}\\n")
if spec.seed == 3 and not (root / "go").exists():
    failure = JobFailure(exit_code=3, reason="BAD_VOLUME", message="not a volume")
    store.write(job_key(spec.job_id, "failure.json"), failure)
    sys.exit(3)
if spec.seed == 5:
    while not (root / "go").exists():
        time.sleep(0.05)
level = {"pretrained": 0.6, "scratch": 0.4, "specialised": 0.5}[spec.network] + 0.01 * max(0, spec.seed - 7)
level -= 0.05 if spec.frozen else 0.0
if spec.seed == 12 and spec.recipe.layer_decay == 1.0 and spec.network != "specialised":
    level += 0.05
curve = tuple(JobProgress(epoch=e, epochs=6, step=10 * e, steps=60, train_loss=None, elapsed_seconds=float(e),
    validation_score=level * (1 - 2.0 ** -e)) for e in range(7))
def publish(name, digest):
    card = store.read(model_card_key(spec.model_id), ModelCard)
    store.put(f"models/{name}/{digest}.safetensors", b"weights")
    ref = StoredObject(key=f"models/{name}/{digest}.safetensors", sha256=digest)
    card = card.model_copy(update={"id": name, "checkpoint": ref, "source": f"job {spec.job_id}"})
    store.write(model_card_key(name), card)
    return card
for point in curve:
    store.write(job_key(spec.job_id, f"progress/{point.epoch:04d}.json"), point)
metric = MetricSpec(
    name="lesion_dice", unit="", higher_is_better=True, floor=0.05, smallest_difference=0.01)
dataset = load_dataset(store, spec.dataset_id, spec.dataset_digest)
cases, subset = dataset.test, ()
if spec.train_cases:
    task = get_task_spec(spec.task, dataset.declaration)
    subset = select_training_cases(dataset, task, spec.train_cases, spec.seed)
    level += 0.01 * len(subset)
wobble = len(spec.network) / 1000
scores = tuple(CaseScore(case=c.id, group=c.group, values={"lesion_dice": level + wobble * (i % 3)})
    for i, c in enumerate(cases))
naive = tuple(one.model_copy(update={"values": {"lesion_dice": 0.1 + 0.001 * i}}) for i, one in enumerate(scores))
inside = tuple(CaseInside(case=c.id, split="test", inside={"gland": 1.0, "lesion": i / 10 if i < 10 else 1.0})
    for i, c in enumerate(cases) if spec.allow_cut_organs)
encoder = publish(spec.publish_as, "e" * 64) if spec.publish_as else None
store.write(job_key(spec.job_id, "result.json"), JobResult(
    job_id=spec.job_id, metrics=(metric,), primary_metric="lesion_dice", curve=curve,
    selected_epoch=6, selected_step=60, test_scores=scores, naive_baseline_scores=naive,
    weight_change=None if spec.network == "specialised" else 0.0 if spec.frozen else 0.1, encoder=spec.publish_as,
    encoder_sha256="e" * 64 if encoder else "", encoder_card_sha256=encoder.digest() if encoder else "",
    train_subset=tuple(c.id for c in subset), inside=inside, parameters=1000, device="cpu",
    stage_seconds={"fit": 1.0}, processor_seconds=1.0,
    software={"torch": "0"}))
"""


def get_store(store, context):
    """Returns the objects of the tenant for which a call acts."""
    return store.of_tenant(dict(context.invocation_metadata()).get(TENANT, store.tenant))


class Features(features_pb2_grpc.FeatureServiceServicer):
    """Stores small random sets by what was asked; a dataset called `slow…` keeps a call open until it is cancelled."""

    def __init__(self, store):
        self.store, self.calls, self.commits, self.cancelled = store, [], [], threading.Event()
        self.seed, self.committed, self.creators = 0, [], set()

    def ExtractDataset(self, request, context):
        name = f"{request.model_id}/{request.dataset_id}/{request.split}/{request.initialisation}"
        self.calls.append(name)
        self.creators.add(request.created_by)
        store = get_store(self.store, context)
        yield features_pb2.ExtractDatasetResponse(
            progress=common_pb2.Progress(phase="forward", done=1, total=12, unit="case", elapsed_seconds=0.1)
        )
        while request.dataset_id.startswith("slow"):
            if not context.is_active():
                self.cancelled.set()
                return
            time.sleep(0.02)
        self.commits.append(name)
        committed = self.commit(request, store)
        self.committed.append(committed)
        self.after_commit(request, committed)
        yield features_pb2.ExtractDatasetResponse(
            feature_set=features_pb2.FeatureSet(
                feature_set_id=committed.manifest.request.feature_set_id(), rows=12, groups=12,
                checkpoint_sha256=request.checkpoint_sha256, dataset_digest=request.dataset_digest,
                manifest=common_pb2.ObjectRef(uri=store.uri(committed.key), sha256=committed.sha256),
            ),
            cost=common_pb2.Cost(device="cpu"),
        )  # fmt: skip

    def after_commit(self, request, committed):
        """Replaced by tests that damage what was stored."""

    def commit(self, request, store):
        """Writes a set of two parts, whatever is left of it, as the real service does."""
        asked = FeatureRequest(
            model_id=request.model_id, model_sha256=request.checkpoint_sha256, dataset_id=request.dataset_id,
            dataset_digest=request.dataset_digest, split=("pretrain", "train", "val", "test")[request.split - 1],
            init_seed=request.initialisation_seed, layers=tuple(request.layers),
            initialisation="random" if request.initialisation == features_pb2.INITIALISATION_RANDOM else "checkpoint",
            preprocessing=Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=None, shape_dhw=(16, 64, 64)),
        )  # fmt: skip
        cases = [f"case-{row}" for row in range(12)]
        writer = FeatureSetWriter(store, asked, cases, cases)
        rng = np.random.default_rng(self.seed)
        for start in (0, 6):
            writer.write_part(start, {name: rng.normal(size=(6, 4)).astype("f4") for name in asked.layers})
        try:
            replaced = read_committed(store, asked.feature_set_id())
        except (NotFound, DataLoss):
            replaced = None
        return writer.commit({"torch": "0"}, replaced=replaced)


class Mmd(mmd_pb2_grpc.MmdServiceServicer):
    """Answers with numbers made from the feature sets' ids; refuses `frechet`, and everything where `error` is set.

    Reads the sets in the versions that are asked for, as the real service does.
    """

    def __init__(self, store):
        self.store, self.calls, self.error, self.delay_s = store, [], None, 0.0

    def Compute(self, request, context):
        self.calls.append(request)
        time.sleep(self.delay_s)
        refused = BadOption("takes at most 8192 rows", field="measures")
        error = refused if mmd_pb2.MEASURE_FRECHET in request.measures else self.error
        try:
            for source in (request.x, request.y, request.reference):
                if source.HasField("feature_set_id"):
                    own = get_store(self.store, context)
                    committed = read_named(own, source.feature_set_id, source.manifest_sha256)
                    read_feature_set(own, source.feature_set_id, committed.sha256)
        except (DataLoss, DigestMismatch, NotFound) as unread:
            error = unread
        if error is not None:
            status = to_status(error, "id")
            context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
            context.abort(get_status_code(error), status.message)
        digits = request.y.feature_set_id or hashlib.sha256(request.y.SerializeToString()).hexdigest()
        value = int(digits[:4], 16) / 131072 + 0.01  # far from 1, where a shift is out of reach

        def shift(scale):
            return mmd_pb2.ShiftResult(
                mmd2=common_pb2.Estimate(value=scale * value),
                p_value=common_pb2.Estimate(value=0.001) if request.test.permutations else common_pb2.Estimate(),
                sigma=1.0,
            )

        return mmd_pb2.ComputeResponse(
            layers=[
                mmd_pb2.LayerResult(
                    layer=layer, channels=4, raw=shift(1), standardised=shift(2),
                    measures=[
                        mmd_pb2.MeasureResult(measure=one, value=common_pb2.Estimate(value=one / 4))
                        for one in request.measures
                    ],
                )
                for layer in request.layers
            ],
            primary_layer=request.primary_layer, estimator=mmd_pb2.ESTIMATOR_UNBIASED_PAIRED, rows_x=12, rows_y=12,
            groups=12, precision="float64", cost=common_pb2.Cost(device="cpu"),
        )  # fmt: skip


class Peers:
    """Both servicers on one port, which stays the same when they are stopped and started."""

    def __init__(self, store):
        self.features, self.mmd, self.port = Features(store), Mmd(store), 0
        self.start()

    def start(self):
        self.server = grpc.server(ThreadPoolExecutor(8))
        features_pb2_grpc.add_FeatureServiceServicer_to_server(self.features, self.server)
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(self.mmd, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.server.start()

    def stop(self):
        self.server.stop(0).wait()


def store_inputs(store):
    """Stores a model card and datasets; volumes are never read here."""

    def case(name, group=None):
        digest = uuid.uuid5(uuid.NAMESPACE_OID, name).hex * 2
        volumes = {kind: StoredObject(key=f"volumes/{name}", sha256=digest) for kind in ("t2w", "gland", "lesions")}
        return Case(id=name, group=group or name, volumes=volumes)

    card = {
        "id": "vfm", "architecture": "profound_conv_micro", "objective": "masked_reconstruction",
        "checkpoint": {"key": "models/vfm/w", "sha256": "c" * 64},
        "preprocessing": {"modalities": ("t2w", "dwi", "adc"), "spacing_mm": None, "shape_dhw": (16, 64, 64)},
        "layers": [{"name": name, "channels": 4} for name in LAYERS], "primary_layer": "stages.1",
    }  # fmt: skip
    store.write(model_card_key("vfm"), ModelCard.model_validate(card))
    store.put("models/vfm/w", b"weights")

    def dataset(name, **fields):
        splits = {
            split: tuple(case(f"{split}-{i}") for i in range(n))
            for split, n in (("train", 4), ("val", 2), ("test", 12))
        }
        return DatasetManifest(id=name, **(splits | fields))

    save_dataset(store, dataset("demo"))
    save_dataset(store, dataset("twin"))  # equal to `demo`, but no check of one shares baselines with one of the other
    save_dataset(store, dataset("slow"))
    leaky = dataset("leaky", test=(case("test-0"), case("train-1")))
    store.put(dataset_key("leaky"), canonical_json(to_datalist(leaky)))
