"""A deployment in this process: real gRPC servers with servicers that record what they are asked."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from tests.monitoring_service import Monitoring, abort

from vfmalign.client import AsyncClient
from vfmalign.core.domain.errors import BadOption, Conflict, NotFound, PreconditionFailed
from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.v1 import (
    alignment_pb2,
    alignment_pb2_grpc,
    common_pb2,
    experiment_pb2,
    experiment_pb2_grpc,
    features_pb2,
    features_pb2_grpc,
    finetuning_pb2,
    finetuning_pb2_grpc,
    mmd_pb2,
    mmd_pb2_grpc,
    monitoring_pb2_grpc,
)

BRAIN = {"name": "brain", "modalities": ["t1w"]}


class Mmd(mmd_pb2_grpc.MmdServiceServicer):
    """Answers with one layer; fails as often as `unavailable` says, and with `error` where it is set."""

    def __init__(self):
        self.requests, self.error, self.unavailable, self.delay_s = [], None, 0, 0.0

    def Compute(self, request, context):
        self.requests.append(request)
        time.sleep(self.delay_s)
        if self.unavailable:
            self.unavailable -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        if self.error is not None:
            abort(context, self.error)
        return mmd_pb2.ComputeResponse(
            layers=[mmd_pb2.LayerResult(layer="stages.3", channels=4, raw={"mmd2": {"value": -0.25}, "sigma": 2.0})],
            primary_layer="stages.3",
            estimator=mmd_pb2.ESTIMATOR_UNBIASED_PAIRED,
            rows_x=3,
            rows_y=3,
            groups=3,
            precision="float64",
            cost=common_pb2.Cost(device="cpu"),
        )


class Features(features_pb2_grpc.FeatureServiceServicer):
    """Lists two models and datasets page by page; `lost` ends extractions without a feature set."""

    def __init__(self):
        self.requests, self.lost = [], False

    def Extract(self, request, context):
        self.requests.append(request)
        if request.store_as:
            ref = common_pb2.ObjectRef(uri=f"s3://b/features/{request.store_as}/a.safetensors", sha256="a" * 64)
            layers = [features_pb2.LayerFeatures(layer=layer, stored=ref) for layer in request.layers]
        else:
            array = np.arange(6, dtype="f4")
            layers = [features_pb2.LayerFeatures(layer=layer, tensor=to_tensor(array)) for layer in request.layers]
        return features_pb2.ExtractResponse(layers=layers, checkpoint_sha256="c" * 64, cost={"device": "cpu"})

    def ExtractDataset(self, request, context):
        self.requests.append(request)
        for done in (0, 2):
            yield features_pb2.ExtractDatasetResponse(progress={"phase": "extract", "done": done, "total": 2})
        if not self.lost:
            yield features_pb2.ExtractDatasetResponse(
                feature_set={
                    "feature_set_id": "f" * 32,
                    "manifest": {"uri": "s3://b/m", "sha256": "a" * 64},
                    "rows": 2,
                    "groups": 1,
                },
                cost={"device": "cpu"},
                computed_cases=2,
            )

    def GetModel(self, request, context):
        return features_pb2.GetModelResponse(model=self._model(request.model_id))

    def ListModels(self, request, context):
        if not request.page_token:
            return features_pb2.ListModelsResponse(
                models=[self._model("a")],
                unreadable=[{"id": "broken", "message": "damaged"}],
                next_page_token="a",
                architectures=["x"],
            )
        assert request.page_token == "a"
        return features_pb2.ListModelsResponse(models=[self._model("b")], architectures=["x"])

    def GetDataset(self, request, context):
        if request.dataset_id == "absent":
            abort(context, NotFound("there is no such dataset", subject="dataset absent", remedy="import it"))
        dataset = {"dataset_id": request.dataset_id, "dataset_digest": "d" * 64, "declaration": BRAIN}
        return features_pb2.GetDatasetResponse(dataset=dataset)

    def ListDatasets(self, request, context):
        if not request.page_token:
            return features_pb2.ListDatasetsResponse(
                datasets=[{"dataset_id": "a", "declaration": BRAIN}], next_page_token="a"
            )
        return features_pb2.ListDatasetsResponse(
            datasets=[
                {
                    "dataset_id": "b",
                    "splits": [{"split": "SPLIT_TEST", "cases": 3, "patients": 2}],
                    "declaration": BRAIN,
                }
            ],
            unreadable=[{"id": "broken", "message": "damaged"}],
        )

    @staticmethod
    def _model(model_id):
        return features_pb2.Model(
            model_id=model_id,
            objective=features_pb2.OBJECTIVE_CONTRASTIVE,
            checkpoint={"uri": "s3://b/models/m.safetensors", "sha256": "c" * 64},
            preprocessing={"modalities": ["t2w"], "shape_dhw": [8, 8, 8], "normalisation": "zscore_nonzero"},
            layers=[{"name": "stages.3", "channels": 4}],
            primary_layer="stages.3",
        )


class FineTuning(finetuning_pb2_grpc.FineTuningServiceServicer):
    """Holds jobs; a watched one ends at the third message in all, whatever streams they came through."""

    def __init__(self):
        self.jobs, self.watches, self.hold, self.left = {}, 0, False, threading.Event()

    def CreateJob(self, request, context):
        new = finetuning_pb2.Job(
            job_id=request.job_id,
            spec=request.spec,
            state=finetuning_pb2.JOB_STATE_QUEUED,
            create_time={"seconds": 1_700_000_000},
        )
        job = self.jobs.setdefault(request.job_id, new)
        if job.spec != request.spec:
            abort(context, Conflict("another job has this id", subject=request.job_id, remedy="choose another id"))
        return finetuning_pb2.CreateJobResponse(job=job)

    def GetJob(self, request, context):
        if request.job_id not in self.jobs:
            abort(context, NotFound("there is no such job", subject=request.job_id, remedy="list the jobs"))
        return finetuning_pb2.GetJobResponse(job=self.jobs[request.job_id])

    def ListJobs(self, request, context):
        jobs = [job for job in self.jobs.values() if not request.states or job.state in request.states]
        at = int(request.page_token or 0)
        token = str(at + 1) if at + 1 < len(jobs) else ""
        return finetuning_pb2.ListJobsResponse(jobs=jobs[at : at + 1], next_page_token=token)

    def CancelJob(self, request, context):
        self.jobs[request.job_id].state = finetuning_pb2.JOB_STATE_CANCELLED
        return finetuning_pb2.CancelJobResponse(job=self.jobs[request.job_id])

    def RetryJob(self, request, context):
        job = self.jobs[request.job_id]
        if job.state != finetuning_pb2.JOB_STATE_CANCELLED:
            abort(context, PreconditionFailed("the job has succeeded", subject=request.job_id))
        job.state = finetuning_pb2.JOB_STATE_QUEUED
        return finetuning_pb2.RetryJobResponse(job=job)

    def WatchJob(self, request, context):
        self.watches += 1
        job = self.jobs[request.job_id]
        context.add_callback(self.left.set)
        while True:
            job.attempts += 1
            job.state = finetuning_pb2.JOB_STATE_SUCCEEDED if job.attempts == 3 else finetuning_pb2.JOB_STATE_RUNNING
            yield finetuning_pb2.WatchJobResponse(job=job)
            if job.attempts == 3:
                return
            while self.hold and context.is_active():
                time.sleep(0.01)
            if not context.is_active():
                return


class Alignment(alignment_pb2_grpc.AlignmentServiceServicer):
    """Answers every call about the one check that it holds."""

    def __init__(self):
        self.check = alignment_pb2.Check(
            check_id="c1", state=alignment_pb2.CHECK_STATE_RUNNING, create_time={"seconds": 1_700_000_000}
        )

    def CreateCheck(self, request, context):
        self.check.spec.CopyFrom(request.spec)
        plans = [{"seeds": 3, "trainings": 11, "reused": 4}, {"seeds": 1, "trainings": 5}]
        return alignment_pb2.CreateCheckResponse(check=self.check, plans=plans)

    def GetCheck(self, request, context):
        return alignment_pb2.GetCheckResponse(check=self.check)

    def ListChecks(self, request, context):
        return alignment_pb2.ListChecksResponse(checks=[self.check])

    def CancelCheck(self, request, context):
        self.check.state = alignment_pb2.CHECK_STATE_CANCELLED
        return alignment_pb2.CancelCheckResponse(check=self.check)

    def WatchCheck(self, request, context):
        yield alignment_pb2.WatchCheckResponse(check=self.check)


class Experiments(experiment_pb2_grpc.ExperimentServiceServicer):
    """Answers every call about the one experiment that it holds."""

    def __init__(self):
        self.experiment = experiment_pb2.Experiment(
            experiment_id="e1", state=experiment_pb2.EXPERIMENT_STATE_RUNNING, create_time={"seconds": 1_700_000_000}
        )

    def CreateExperiment(self, request, context):
        self.experiment.spec.CopyFrom(request.spec)
        return experiment_pb2.CreateExperimentResponse(experiment=self.experiment)

    def GetExperiment(self, request, context):
        return experiment_pb2.GetExperimentResponse(experiment=self.experiment)

    def ListExperiments(self, request, context):
        return experiment_pb2.ListExperimentsResponse(experiments=[self.experiment])

    def CancelExperiment(self, request, context):
        self.experiment.state = experiment_pb2.EXPERIMENT_STATE_CANCELLED
        return experiment_pb2.CancelExperimentResponse(experiment=self.experiment)

    def WatchExperiment(self, request, context):
        yield experiment_pb2.WatchExperimentResponse(experiment=self.experiment)


class NoteAuthorization(grpc.ServerInterceptor):
    """Notes the header `authorization` of every call."""

    def __init__(self):
        self.seen = []

    def intercept_service(self, continuation, details):
        self.seen.append(dict(details.invocation_metadata).get("authorization"))
        return continuation(details)


class Deployment:
    """All services on one port, which stays the same when they are stopped and started."""

    def __init__(self):
        self._note = NoteAuthorization()
        self.authorizations = self._note.seen
        self.mmd, self.features, self.finetuning, self.port = Mmd(), Features(), FineTuning(), 0
        self.alignment, self.experiments, self.monitoring = Alignment(), Experiments(), Monitoring()
        self.start()

    def start(self):
        self.server = grpc.server(ThreadPoolExecutor(8), interceptors=[self._note])
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(self.mmd, self.server)
        features_pb2_grpc.add_FeatureServiceServicer_to_server(self.features, self.server)
        finetuning_pb2_grpc.add_FineTuningServiceServicer_to_server(self.finetuning, self.server)
        alignment_pb2_grpc.add_AlignmentServiceServicer_to_server(self.alignment, self.server)
        experiment_pb2_grpc.add_ExperimentServiceServicer_to_server(self.experiments, self.server)
        monitoring_pb2_grpc.add_MonitoringServiceServicer_to_server(self.monitoring, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.server.start()

    def stop(self):
        self.server.stop(0).wait()

    @property
    def addresses(self):
        address = f"127.0.0.1:{self.port}"
        return {f"{name}_address": address for name in ("features", "mmd", "finetuning", "monitoring")}


@pytest.fixture
def deployment():
    result = Deployment()
    yield result
    result.stop()


@pytest.fixture
async def client(deployment):
    async with AsyncClient(**deployment.addresses) as result:
        yield result


@pytest.fixture
def bad_option():
    return BadOption("must be below 1", field="interval_level", remedy="choose 0.95")
