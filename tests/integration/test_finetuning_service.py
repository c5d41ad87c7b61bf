"""The finetuning service as a process of its own: checks end to end, kills, waits, cancels and refusals.

The object store, the database, the network and the training processes are real. `FeatureService` and `MmdService` are
small servicers of this test behind real gRPC: what they would compute is not what is tested here.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import sqlalchemy as sa

from vfmalign.core.artifacts import (
    Case,
    Dataset,
    ModelCard,
    VolumeRef,
    canonical_json,
    check_key,
    dataset_key,
    job_key,
    model_card_key,
)
from vfmalign.core.client import connect
from vfmalign.core.datasets import save_dataset, to_datalist
from vfmalign.core.errors import BadOption, CaseOrderMismatch, Conflict, Exhausted, NotFound, Unavailable
from vfmalign.core.recipes import recipe_for
from vfmalign.core.statuses import DETAILS_KEY, code_of, to_status
from vfmalign.finetuning.database import Database
from vfmalign.finetuning.results import CheckReport
from vfmalign.v1 import (
    alignment_pb2,
    alignment_pb2_grpc,
    common_pb2,
    features_pb2,
    features_pb2_grpc,
    finetuning_pb2,
    finetuning_pb2_grpc,
    mmd_pb2,
    mmd_pb2_grpc,
)

STAGES = (
    "validate", "features_reference", "features_before", "features_random", "job_pretrained", "job_scratch",
    "job_specialised", "features_after", "mmd", "measures", "probes", "report",
)  # fmt: skip
LAYERS = ("stages.0", "stages.1")

# Trains nothing: writes what a training process writes. Seed 5 waits for a file, seed 3 finds the data bad. With seed 6
# a network that is probed stays at step 20 for as long as there is no file.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from vfmalign.core.artifacts import *
from vfmalign.core.datasets import load_dataset
from vfmalign.core.settings import StoreSettings
from vfmalign.core.store import ObjectStore
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
store = ObjectStore(StoreSettings())
spec = store.read(store.key(sys.argv[1]), JobSpec)
root = Path(os.environ["TEST_FOLDER"])
with (root / "starts").open("a") as file:
    file.write(f"{spec.id}\\n")
if spec.seed == 3:
    store.write(job_key(spec.id, "failure.json"), JobFailure(exit_code=3, reason="BAD_VOLUME", message="not a volume"))
    sys.exit(3)
if spec.seed == 5:
    while not (root / "go").exists():
        time.sleep(0.05)
level = {"pretrained": 0.6, "scratch": 0.4, "specialised": 0.5}[spec.network]
curve = tuple(JobProgress(epoch=e, epochs=6, step=10 * e, steps=60, train_loss=None, elapsed_s=float(e),
    val_score=level * (1 - 2.0 ** -e)) for e in range(7))
probes = []
for point in curve:
    while spec.seed == 6 and spec.recipe.probe_steps and point.step > 20 and not (root / "go").exists():
        time.sleep(0.05)
    if point.step in spec.recipe.probe_steps:
        card = store.read(model_card_key(spec.model), ModelCard)
        name, digest = probe_id(spec.publish_as, point.step), f"{point.step:064x}"
        card = card.model_copy(update={"id": name, "checkpoint": VolumeRef(key="w", sha256=digest)})
        store.write(model_card_key(name), card)
        probes.append(ProbeModel(step=point.step, model=name, sha256=digest, val_score=point.val_score))
    store.write(job_key(spec.id, f"progress/{point.epoch:04d}.json"), point)
metric = MetricSpec(name="lesion_dice", unit="", higher_is_better=True, floor=0.05)
cases = load_dataset(store, spec.dataset, spec.dataset_digest).test
wobble = len(spec.network) / 1000
scores = tuple(CaseScore(case=c.id, group=c.group, values={"lesion_dice": level + wobble * (i % 3)})
    for i, c in enumerate(cases))
store.write(job_key(spec.id, "result.json"), JobResult(job=spec.id, metrics=(metric,), primary_metric="lesion_dice",
    curve=curve, selected_epoch=6, selected_step=60, test_scores=scores,
    weight_change=None if spec.network == "specialised" else 0.1, encoder=spec.publish_as,
    encoder_sha256="e" * 64 if spec.publish_as else "", probes=tuple(probes), parameters=1000, device="cpu",
    stage_seconds={"fit": 1.0},
    software={"torch": "0"}))
"""


class Features(features_pb2_grpc.FeatureServiceServicer):
    """Names feature sets by what was asked; a dataset called `slow…` keeps a call open until it is cancelled."""

    def __init__(self):
        self.calls, self.commits, self.cancelled = [], [], threading.Event()

    def ExtractDataset(self, request, context):
        name = f"{request.model_id}/{request.dataset_id}/{request.split}/{request.initialisation}"
        self.calls.append(name)
        yield features_pb2.ExtractDatasetResponse(
            progress=common_pb2.Progress(stage="forward", done=1, total=12, unit="case", elapsed_seconds=0.1)
        )
        while request.dataset_id.startswith("slow"):
            if not context.is_active():
                self.cancelled.set()
                return
            time.sleep(0.02)
        self.commits.append(name)
        yield features_pb2.ExtractDatasetResponse(
            feature_set=features_pb2.FeatureSet(
                feature_set_id=uuid.uuid5(uuid.NAMESPACE_OID, name).hex, rows=12, groups=12,
                checkpoint_sha256=request.checkpoint_sha256, dataset_digest=request.dataset_digest,
            ),
            cost=common_pb2.Cost(device="cpu"),
        )  # fmt: skip


class Mmd(mmd_pb2_grpc.MmdServiceServicer):
    """Answers with numbers made from the feature sets' ids; refuses `frechet`, and everything where `error` is set."""

    def __init__(self):
        self.calls, self.error, self.delay_s = [], None, 0.0

    def Compute(self, request, context):
        self.calls.append(request)
        time.sleep(self.delay_s)
        refused = BadOption("takes at most 8192 rows", field="measures")
        error = refused if mmd_pb2.MEASURE_FRECHET in request.measures else self.error
        if error is not None:
            status = to_status(error, "id")
            context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
            context.abort(code_of(error), status.message)
        value = int(request.y.feature_set_id[:4], 16) / 131072 + 0.01  # far from 1, where a shift is out of reach

        def shift(scale):
            return mmd_pb2.ShiftResult(
                mmd2=common_pb2.Estimate(value=scale * value),
                p_value=common_pb2.Estimate(value=0.001) if request.HasField("test") else common_pb2.Estimate(),
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

    def __init__(self):
        self.features, self.mmd, self.port = Features(), Mmd(), 0
        self.start()

    def start(self):
        self.server = grpc.server(ThreadPoolExecutor(8))
        features_pb2_grpc.add_FeatureServiceServicer_to_server(self.features, self.server)
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(self.mmd, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.server.start()

    def stop(self):
        self.server.stop(0).wait()


@pytest.fixture
def peers():
    peers = Peers()
    yield peers
    peers.stop()


@pytest.fixture(params=["sqlite"])
def database_url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'state' / 'finetuning.db'}"
        return
    pgserver = pytest.importorskip("pgserver", reason="pgserver is not installed (no wheel for this Python)")
    folder = tmp_path / "pg"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    server = pgserver.get_server(folder, cleanup_mode="delete")
    yield server.get_uri()
    os.kill(server.get_pid(), signal.SIGQUIT)  # PostgreSQL's immediate shutdown; nobody needs its last checkpoint
    server.cleanup()


@pytest.fixture
async def service(tmp_path, store, store_environment, peers, database_url):
    """The service's process, its stubs, and means to kill and start it again."""
    for parent in tmp_path.parents:  # PostgreSQL's own user must reach its folder
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)

    class Service:
        prefix = uuid.uuid4().hex[:8]  # the bucket is shared: artifacts of another test's check would be found
        process = None
        database = Database(database_url)
        folder = tmp_path

        async def start(self):
            ports = tmp_path / "ports.json"
            ports.unlink(missing_ok=True)
            environment = store_environment | {
                "VFMALIGN_FEATURES_ADDRESS": f"127.0.0.1:{peers.port}",
                "VFMALIGN_MMD_ADDRESS": f"127.0.0.1:{peers.port}",
                "VFMALIGN_STATE_DIR": str(tmp_path / "state"),
                "VFMALIGN_DATABASE__URL": database_url,
                "VFMALIGN_LAUNCHER__COMMAND": json.dumps([sys.executable, "-c", PROGRAM]),
                "VFMALIGN_LAUNCHER__MAX_RUNNING": "3",
                "VFMALIGN_RECONCILER__POLL_S": "0.05",
                "VFMALIGN_SERVER__GRPC_PORT": "0",
                "VFMALIGN_SERVER__METRICS_PORT": "0",
                "VFMALIGN_SERVER__HEALTH_PORT": "0",
                "VFMALIGN_SERVER__PORTS_FILE": str(ports),
                "TEST_FOLDER": str(tmp_path),
            }
            with (tmp_path / "service.log").open("ab") as log:
                self.process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                    [sys.executable, "-m", "vfmalign.finetuning"], env=environment, stderr=log, stdout=log
                )
            while not ports.exists():
                assert self.process.poll() is None, (tmp_path / "service.log").read_text()
                await asyncio.sleep(0.02)
            self.channel = connect(f"127.0.0.1:{json.loads(ports.read_text())['grpc']}")
            self.checks = alignment_pb2_grpc.AlignmentServiceStub(self.channel)
            self.jobs = finetuning_pb2_grpc.FineTuningServiceStub(self.channel)

        async def kill(self):
            self.process.kill()
            self.process.wait()
            await self.channel.close()

        async def create(self, name, dataset="demo", seed=1, probe_steps=(), **fields):
            check_id = f"{self.prefix}-{name}"
            recipe = finetuning_pb2.Recipe(preset="demo", epochs=6, steps_per_epoch=10, probe_steps=probe_steps)
            spec = alignment_pb2.CheckSpec(
                model_id="vfm", dataset_id=dataset, task="segmentation", seed=seed, recipe=recipe, **fields
            )
            request = alignment_pb2.CreateCheckRequest(check_id=check_id, spec=spec)
            return (await self.checks.CreateCheck(request)).check.check_id

        async def get(self, check_id):
            return (await self.checks.GetCheck(alignment_pb2.GetCheckRequest(check_id=check_id))).check

        async def until(self, check_id, condition, seconds=60.0):
            end = time.monotonic() + seconds
            while not condition(check := await self.get(check_id)):
                assert time.monotonic() < end, f"{check.status}\n{(tmp_path / 'service.log').read_text()[-4000:]}"
                await asyncio.sleep(0.05)
            return check

        async def finish(self, check_id):
            return await self.until(check_id, lambda check: check.HasField("end_time"))

        def runs(self, check_id):
            query = sa.text("SELECT stage, outcome FROM stage_runs WHERE check_id = :id")
            with self.database.engine.connect() as connection:
                return [tuple(row) for row in connection.execute(query, {"id": check_id})]

        def starts(self):
            path = tmp_path / "starts"
            return path.read_text().split() if path.exists() else []

    service = Service()
    await service.start()
    yield service
    (tmp_path / "go").touch()
    if service.process.poll() is None:
        service.process.terminate()
        service.process.wait(90)
    await service.channel.close()
    service.database.close()


@pytest.fixture(autouse=True)
def stored(store):
    """A model card and datasets; volumes are never read here."""

    def case(name, group=None):
        digest = uuid.uuid5(uuid.NAMESPACE_OID, name).hex * 2
        return Case(id=name, group=group or name, volumes={"t2w": VolumeRef(key=f"volumes/{name}", sha256=digest)})

    card = {
        "id": "vfm", "architecture": "profound_conv_micro", "objective": "masked_reconstruction",
        "checkpoint": {"key": "models/vfm/w", "sha256": "c" * 64},
        "preprocessing": {"spacing_mm": None, "shape_DHW": (16, 64, 64)},
        "layers": [{"name": name, "channels": 4} for name in (*LAYERS, "pooled")], "primary_layer": "stages.1",
    }  # fmt: skip
    store.write(model_card_key("vfm"), ModelCard.model_validate(card))

    def dataset(name, **fields):
        splits = {
            split: tuple(case(f"{split}-{i}") for i in range(n))
            for split, n in (("train", 4), ("val", 2), ("test", 12))
        }
        return Dataset(id=name, **(splits | fields))

    save_dataset(store, dataset("demo"))
    save_dataset(store, dataset("slow"))
    leaky = dataset("leaky", test=(case("test-0"), case("train-1")))
    store.put(dataset_key("leaky"), canonical_json(to_datalist(leaky)))


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
async def test_a_check_runs_through_every_stage_to_its_report(service, store, peers):
    name = await service.create("whole")
    events = service.checks.WatchCheck(alignment_pb2.WatchCheckRequest(check_id=name))
    watched = [event.check async for event in events]
    check = watched[-1]
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.status
    assert len(watched) > 3
    assert len({event.status for event in watched}) > 2
    assert [stage.name for stage in check.stages] == list(STAGES)
    assert all(stage.attempts == 1 and stage.HasField("end_time") for stage in check.stages)
    assert sorted(service.runs(name)) == sorted((stage, "succeeded") for stage in STAGES)
    assert list(check.job_ids) == [f"{name}-{network}" for network in ("pretrained", "scratch", "specialised")]

    result = check.result
    assert result.verdict == alignment_pb2.VERDICT_GAIN
    assert result.rpg_specialised.relative_percent.value == pytest.approx(20, rel=0.1)
    assert result.rpg_scratch.relative_percent.HasField("interval")
    assert [shift.mmd.layer for shift in result.shifts] == ["stages.1", "stages.0"], "the primary layer comes first"
    assert result.shifts[0].shift_ratio.HasField("value")
    # With the peer's U = V = m, twice m standardised: 1 − (12V − 11U)/2.
    assert result.shifts[0].reach.value == pytest.approx(1 - result.shifts[0].mmd.standardised.mmd2.value / 2)
    assert not result.shifts[0].out_of_reach
    assert result.convergence.steps_to_95.value == 40
    assert result.held_out
    assert any("Pretraining set unknown" in caution for caution in result.cautions)
    assert [curve.selected_step for curve in result.curves] == [60, 60, 60]
    report = CheckReport.model_validate_json(store.get(store.key(result.report_json.uri)))
    assert report.result_digest == report.result.digest()
    html = store.get(store.key(result.report_html.uri), sha256=result.report_html.sha256).decode()
    assert f"Alignment check {name}" in html

    measured = {one.name: one for one in result.measures}
    assert list(measured) == ["cka", "frechet", "energy", "logme"]
    assert measured["cka"].value.value == mmd_pb2.MEASURE_CKA / 4
    assert measured["cka"].meaning.startswith("similarity")
    assert measured["frechet"].value.absent_reason == "takes at most 8192 rows"
    assert "no class" in measured["logme"].value.absent_reason
    assert list(result.probes) == []

    asked = [call for call in peers.mmd.calls if call.measures]
    assert [list(call.measures) for call in asked] == [[1], [2], [3]]
    assert all(list(call.layers) == ["stages.1"] and not call.HasField("test") for call in asked)
    test, biased, random = [call for call in peers.mmd.calls if not call.measures]
    assert test.pairing == mmd_pb2.PAIRING_PAIRED
    assert test.estimator == mmd_pb2.ESTIMATOR_UNBIASED_PAIRED
    assert (test.test.relabellings, test.test.seed, test.projection) == (1000, 1, True)
    assert test.reference.feature_set_id == random.reference.feature_set_id
    assert not random.HasField("test")
    assert (biased.x, biased.y, biased.kernel) == (test.x, test.y, test.kernel)
    assert biased.estimator == mmd_pb2.ESTIMATOR_BIASED
    assert not biased.HasField("test")
    assert len(set(peers.features.calls)) == 4
    assert any(call.startswith(f"{name}-encoder/") for call in peers.features.calls)

    job = (await service.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id=f"{name}-scratch"))).job
    assert job.state == finetuning_pb2.JOB_STATE_SUCCEEDED
    assert job.encoder_model_id == f"{name}-scratch-encoder"
    assert [point.epoch for point in job.curve] == list(range(7))
    assert job.spec.recipe.epochs == 6
    assert job.spec.recipe.batch_size == recipe_for("scratch", "segmentation", "demo").batch_size


@pytest.mark.parametrize("moment", ["features", "training", "mmd"])
async def test_kill_9_at_any_moment_changes_no_result_and_repeats_no_finished_stage(service, store, peers, moment):
    (service.folder / "go").touch()
    undisturbed = await service.finish(await service.create("steady", seed=5))
    first = len(peers.features.commits)
    calls = len(peers.mmd.calls)
    (service.folder / "go").unlink()

    if moment == "features":
        peers.stop()
        name = await service.create("steady2", seed=5)
        await service.until(name, lambda check: "waiting at features" in check.status)
        await service.kill()
        peers.start()
    else:
        peers.mmd.delay_s = 1.0 if moment == "mmd" else 0.0
        (service.folder / "go").touch() if moment == "mmd" else None
        name = await service.create("steady2", seed=5)
        await service.until(
            name, lambda _: len(peers.mmd.calls) > calls if moment == "mmd" else len(service.starts()) == 6
        )
        await service.kill()
    (service.folder / "go").touch()
    await service.start()
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.status

    reports = [
        CheckReport.model_validate_json(store.get(store.key(done.result.report_json.uri))).result
        for done in (undisturbed, check)
    ]
    assert reports[0].rpg_specialised == reports[1].rpg_specialised
    assert reports[0].verdict == reports[1].verdict
    assert reports[0].networks[0].curve == reports[1].networks[0].curve
    succeeded = [stage for stage, outcome in service.runs(name) if outcome == "succeeded"]
    assert sorted(succeeded) == sorted(STAGES)
    assert sorted(service.starts()[3:]) == [f"{name}-{network}" for network in ("pretrained", "scratch", "specialised")]
    again = peers.features.commits[first:]
    assert len(again) == len(set(again)), "a finished extraction was asked for again"


async def test_probes_are_taken_while_the_network_trains_and_none_twice(service, store, peers):
    name = await service.create("probed", seed=6, probe_steps=[10, 20, 60])
    check = await service.until(name, lambda check: "probe after step 20" in check.status)
    assert store.exists(check_key(name, "stages/probe_10.json"))
    assert store.exists(check_key(name, "stages/probe_20.json"))
    assert not store.exists(job_key(f"{name}-pretrained", "result.json"))
    await service.kill()
    (service.folder / "go").touch()
    await service.start()
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.status

    result = check.result
    assert [probe.step for probe in result.probes] == [10, 20, 60]
    curve = {point.step: point.validation_score for point in result.curves[0].points}
    assert all(probe.validation_score == curve[probe.step] for probe in result.probes)
    assert len({probe.shift.value for probe in result.probes}) == 3
    models = [f"{name}-encoder-step-{step}" for step in (10, 20, 60)]
    extracted = [call.split("/")[0] for call in peers.features.commits]
    assert [extracted.count(model) for model in models] == [1, 1, 1]
    looks = [call for call in peers.mmd.calls if list(call.layers) == ["stages.1"] and not call.measures]
    assert len(looks) == 3
    main = next(call for call in peers.mmd.calls if call.projection)
    for look in looks:
        assert (look.x, look.reference, look.kernel, look.test) == (main.x, main.reference, main.kernel, main.test)
        assert look.estimator == mmd_pb2.ESTIMATOR_UNBIASED_PAIRED
    recipes = {
        network: (await service.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id=f"{name}-{network}"))).job.spec.recipe
        for network in ("pretrained", "scratch")
    }
    assert list(recipes["pretrained"].probe_steps) == [10, 20, 60]
    assert list(recipes["scratch"].probe_steps) == []
    report = CheckReport.model_validate_json(store.get(store.key(result.report_json.uri))).result
    assert report.settings["encoder_after_step_20"] == f"{name}-encoder-step-20, SHA-256 {20:064x}"
    html = store.get(store.key(result.report_html.uri), sha256=result.report_html.sha256).decode()
    assert "<h2>Early probes</h2>" in html


async def test_probes_of_a_job_that_fails_end_with_its_reason(service):
    check = await service.finish(await service.create("bad-and-probed", seed=3, probe_steps=[10]))
    assert check.state == alignment_pb2.CHECK_STATE_FAILED
    assert check.failure.reason == "BAD_VOLUME"


async def test_probes_without_a_validation_are_refused(service):
    with pytest.raises(BadOption, match="no validation after step 15") as caught:
        await service.create("between", probe_steps=[15])
    assert caught.value.field == "recipe.probe_steps"
    assert "multiples of 10" in caught.value.remedy


async def test_waits_for_a_service_that_is_away_and_says_so(service, peers):
    peers.stop()
    name = await service.create("patient")
    check = await service.until(name, lambda check: "waiting at" in check.status)
    assert "trying again in" in check.status
    assert check.state == alignment_pb2.CHECK_STATE_RUNNING
    peers.start()
    assert (await service.finish(name)).state == alignment_pb2.CHECK_STATE_SUCCEEDED


async def test_a_test_case_that_is_also_in_train_stops_the_check(service, peers):
    name = await service.create("leaky", dataset="leaky")
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_FAILED
    assert check.failure.reason == "LEAKAGE"
    assert "train-1" in check.failure.message
    assert peers.features.calls == []


async def test_an_error_of_a_peer_keeps_its_reason_and_sentence(service, peers):
    peers.mmd.error = CaseOrderMismatch("row 3 is another case after than before", remedy="extract them again")
    name = await service.create("swapped")
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_FAILED
    assert check.failure.reason == "CASE_ORDER_MISMATCH"
    assert "row 3 is another case" in check.failure.message


async def test_what_will_never_fit_fails_the_check_instead_of_waiting(service, peers):
    peers.mmd.error = Exhausted("too large for the device", remedy="compare fewer rows")
    peers.mmd.error.retry_after_s = None
    check = await service.finish(await service.create("too-large"))
    assert check.state == alignment_pb2.CHECK_STATE_FAILED
    assert check.failure.reason == "RESOURCE_EXHAUSTED"


async def test_a_failed_job_fails_the_check_with_its_sentence_and_stops_the_other_jobs(service):
    name = await service.create("bad-data", seed=3)
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_FAILED
    assert check.failure.reason == "BAD_VOLUME"
    assert "not a volume" in check.failure.message


async def test_cancel_during_features_cancels_the_call(service, peers):
    name = await service.create("stop-features", dataset="slow")
    await service.until(name, lambda check: check.progress.done == 1)
    await service.checks.CancelCheck(alignment_pb2.CancelCheckRequest(check_id=name))
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_CANCELLED
    assert await asyncio.to_thread(peers.features.cancelled.wait, 10)


async def test_cancel_during_training_stops_the_jobs(service):
    name = await service.create("stop-training", seed=5)
    await service.until(name, lambda check: len(service.starts()) == 3)
    await service.checks.CancelCheck(alignment_pb2.CancelCheckRequest(check_id=name))
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_CANCELLED
    jobs = (await service.jobs.ListJobs(finetuning_pb2.ListJobsRequest())).jobs
    assert {job.state for job in jobs} == {finetuning_pb2.JOB_STATE_CANCELLED}
    again = await service.checks.CancelCheck(alignment_pb2.CancelCheckRequest(check_id=name))
    assert again.check.state == alignment_pb2.CHECK_STATE_CANCELLED


async def test_artifacts_of_another_body_under_the_same_id_are_never_used(service, store):
    """As after the loss of a database: the bucket remembers a check that the orchestrator does not."""
    store.put(f"checks/{service.prefix}-claimed/spec.json", b"{}")
    check = await service.finish(await service.create("claimed"))
    assert check.state == alignment_pb2.CHECK_STATE_FAILED
    assert check.failure.reason == "ALREADY_EXISTS"


async def test_create_is_idempotent_and_another_body_conflicts(service):
    name = await service.create("same", dataset="slow")
    created = (await service.get(name)).create_time
    assert await service.create("same", dataset="slow") == name
    assert (await service.get(name)).create_time == created
    with pytest.raises(Conflict, match="another body"):
        await service.create("same", dataset="slow", seed=2)
    await service.checks.CancelCheck(alignment_pb2.CancelCheckRequest(check_id=name))


async def test_bad_requests_name_their_field(service):
    wrong = [
        ({"task": "nothing"}, "task"),
        ({"model_id": "Not An Id"}, "spec.model_id"),
        ({"seed": -1}, "spec.seed"),
        ({"relabellings": 200_000}, "spec.relabellings"),
        ({"interval_level": 1.5}, "spec.interval_level"),
        ({"recipe": finetuning_pb2.Recipe(preset="nope")}, "recipe.preset"),
        ({"recipe": finetuning_pb2.Recipe(epochs=0)}, "spec.recipe.epochs"),
        ({"layers": ["a", "a"]}, "layers"),
    ]
    for change, field in wrong:
        fields = {"model_id": "vfm", "dataset_id": "demo", "task": "segmentation"} | change
        request = alignment_pb2.CreateCheckRequest(check_id="bad", spec=alignment_pb2.CheckSpec(**fields))
        with pytest.raises(BadOption) as caught:
            await service.checks.CreateCheck(request)
        assert caught.value.field == field
    with pytest.raises(BadOption, match="states"):
        await service.checks.ListChecks(alignment_pb2.ListChecksRequest(states=[0]))
    assert not (await service.checks.ListChecks(alignment_pb2.ListChecksRequest())).checks


async def test_jobs_through_the_api(service):
    spec = finetuning_pb2.JobSpec(
        kind=finetuning_pb2.JOB_KIND_FINETUNE, dataset_id="demo", model_id="vfm", task="segmentation", seed=5
    )
    await service.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id="solo", spec=spec))
    await service.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id="solo", spec=spec))
    states = []
    async for event in service.jobs.WatchJob(finetuning_pb2.WatchJobRequest(job_id="solo")):
        states.append(event.job.state)
        (service.folder / "go").touch()
    assert states[-1] == finetuning_pb2.JOB_STATE_SUCCEEDED
    assert service.starts() == ["solo"]

    spec.seed = 6
    with pytest.raises(Conflict):
        await service.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id="solo", spec=spec))
    spec.model_id = "unknown"
    with pytest.raises(NotFound, match="no such model"):
        await service.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id="other", spec=spec))
    with pytest.raises(NotFound):
        await service.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id="other"))
    with pytest.raises(BadOption):
        await service.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id="../etc", spec=spec))


async def test_ends_on_sigterm_with_a_watcher_and_a_job_and_goes_on_after(service):
    name = await service.create("resumed", seed=5)
    await service.until(name, lambda check: len(service.starts()) == 3)

    async def watch():
        async for _ in service.checks.WatchCheck(alignment_pb2.WatchCheckRequest(check_id=name)):
            pass

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0.3)
    service.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(service.process.wait, 20) == 0
    with pytest.raises(Unavailable):
        await watcher
    await service.channel.close()
    (service.folder / "go").touch()
    await service.start()
    assert (await service.finish(name)).state == alignment_pb2.CHECK_STATE_SUCCEEDED


async def test_a_second_orchestrator_on_the_same_state_is_refused(service, store_environment):
    environment = store_environment | {
        "VFMALIGN_FEATURES_ADDRESS": "127.0.0.1:1", "VFMALIGN_MMD_ADDRESS": "127.0.0.1:1",
        "VFMALIGN_STATE_DIR": str(service.folder / "state"),
    }  # fmt: skip
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "vfmalign.finetuning"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "another finetuning service uses this state directory" in done.stderr
