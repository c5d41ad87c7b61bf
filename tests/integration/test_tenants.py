"""Two tenants of one feature and one MMD service, with tokens: what each stores, the other neither sees nor uses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from grpc_health.v1 import health
from safetensors.numpy import save
from tests.token_issuer import TokenIssuer

from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.errors import Forbidden, InvalidInput, NotFound, VfmalignError
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.rpc.access.credentials import BearerToken
from vfmalign.core.rpc.access.tenants import by_tenant
from vfmalign.core.rpc.channels import connect
from vfmalign.core.rpc.interceptors import Gate
from vfmalign.core.rpc.server import AddServices, serve_api
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.auth_settings import AuthSettings
from vfmalign.core.runtime.settings import LogSettings, ServerSettings, ServiceSettings, StoreSettings
from vfmalign.core.runtime.work_queue import WorkQueue
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.core.storage.feature_set_writer import FeatureSetWriter
from vfmalign.core.storage.feature_sets import FeatureRequest
from vfmalign.core.storage.keys import features_prefix, provenance_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.store.presigning import Presigner
from vfmalign.features.dicom.folders import PrivateFolders
from vfmalign.features.dicom.reader import DicomReader
from vfmalign.features.dicom.uploads import StudyUploads
from vfmalign.features.extraction.cache import ModelCache
from vfmalign.features.imports.servicer import Imports, add_import_services
from vfmalign.features.servicer import FeatureServicer
from vfmalign.features.settings import FeaturesOptions
from vfmalign.features.workers import Workers
from vfmalign.imaging.volumes import Volume, encode
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.service.pipelines import Pipelines
from vfmalign.mmd.service.servicer import MmdServicer
from vfmalign.mmd.service.uploads import Uploads
from vfmalign.mmd.settings import MmdOptions
from vfmalign.models.cards import publish
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state
from vfmalign.v1 import common_pb2, features_pb2_grpc, imports_pb2, imports_pb2_grpc, mmd_pb2, mmd_pb2_grpc
from vfmalign.v1 import features_pb2 as pb

TENANTS = ("default", "ward-7")
MODALITIES = ("t2w", "dwi", "adc")
INPUT = Preprocessing(modalities=MODALITIES, spacing_mm=(3.75, 1.75, 1.75), shape_dhw=(16, 64, 64))
KERNEL = mmd_pb2.Kernel(
    family=mmd_pb2.KERNEL_FAMILY_GAUSSIAN, bandwidth_rule=mmd_pb2.BANDWIDTH_RULE_FIXED, fixed_sigma=1.0
)
ISSUER = TokenIssuer("https://idp.example")


@pytest.fixture(scope="module")
def stores(store: ObjectStore) -> dict[str, ObjectStore]:
    """The objects of each tenant: a model `shared` with its own weights; `default` has a model and a dataset `only`."""
    found = {tenant: store.of_tenant(tenant) for tenant in TENANTS}

    def publish_model(tenant: str, name: str, seed: int) -> None:
        state = random_state(ARCHITECTURES["profound_conv_micro"], seed)
        publish(
            found[tenant], name, state, architecture="profound_conv_micro", objective="contrastive", preprocessing=INPUT
        )

    for seed, tenant in enumerate(TENANTS):
        publish_model(tenant, "shared", seed)
    publish_model("default", "only", 2)
    array_XYZ = np.random.default_rng(0).integers(1, 900, (24, 24, 6)).astype(np.float32)
    ref = store.put("volumes/only/c/t2w.nii.gz", encode(Volume(array_XYZ, np.diag([2.0, 2.0, 3.0, 1.0]))))
    save_dataset(
        store, DatasetManifest(id="only", test=(Case(id="c", group="p", volumes=dict.fromkeys(MODALITIES, ref)),))
    )
    return found


@pytest.fixture
async def open_api(
    stores: dict[str, ObjectStore], store_settings: StoreSettings, tmp_path: Path
) -> AsyncIterator[Callable[..., Any]]:
    """Returns stubs of a caller with these roles and claims, who names a tenant or none."""
    options, settings = FeaturesOptions(), store_settings
    workers, imports, comparisons = Workers(options), WorkQueue(4, "imports"), Pipelines(4)
    models = ModelCache(stores["default"], torch.device("cpu"), 2**30)

    folders = PrivateFolders(tmp_path / "dicom")
    of_imports = {tenant: Imports(own, Presigner(settings), imports, options) for tenant, own in stores.items()}

    def add_features(server: grpc.aio.Server) -> Any:
        servicers = {
            tenant: FeatureServicer(
                own,
                models.of_store(own),
                dicom=DicomReader(own, {}, folders, options),
                uploads=StudyUploads(own, Presigner(settings), of_imports[tenant].quota, options),
                workers=workers,
                outbox=None,
                options=options,
                max_message_bytes=2**24,
            )
            for tenant, own in stores.items()
        }
        features_pb2_grpc.add_FeatureServiceServicer_to_server(by_tenant(servicers), server)
        return [pb.DESCRIPTOR.services_by_name["FeatureService"], *add_import_services(of_imports, server)]

    def add_mmd(server: grpc.aio.Server) -> Any:
        servicers = {
            tenant: MmdServicer(
                own, Uploads(own, Presigner(settings), MmdOptions()), ComputeConfig(), comparisons, cache_bytes=2**20
            )
            for tenant, own in stores.items()
        }
        mmd_pb2_grpc.add_MmdServiceServicer_to_server(by_tenant(servicers), server)
        return [mmd_pb2.DESCRIPTOR.services_by_name["MmdService"]]

    auth = AuthSettings(
        mode="oidc", issuers=(ISSUER.issuer,), jwks_file=ISSUER.write_jwks(tmp_path / "jwks.json"), tenants=TENANTS
    )
    async with AsyncExitStack() as resources:

        async def start(add: AddServices) -> str:
            configured = ServiceSettings(store=settings, server=ServerSettings(grpc_port=0), auth=auth)
            _, _, port = await serve_api(configured, add, Gate("open"), health.aio.HealthServicer(), resources)
            return f"127.0.0.1:{port}"

        addresses = [await start(add_features), await start(add_mmd)]

        async def open_stubs(*roles: str, claim: Any = None, tenant: str = "", subject: str = "ada") -> SimpleNamespace:
            token = BearerToken(value=ISSUER.sign(*roles, tenant=claim, sub=subject))
            features, mmd = [
                await resources.enter_async_context(connect(address, token=token, tenant=tenant))
                for address in addresses
            ]
            return SimpleNamespace(
                features=features_pb2_grpc.FeatureServiceStub(features),
                models=imports_pb2_grpc.ModelServiceStub(features),
                mmd=mmd_pb2_grpc.MmdServiceStub(mmd),
            )

        yield open_stubs
    folders.close()
    for queue in (imports, comparisons):
        queue.close()
    workers.close()


async def refuse(kind: type[VfmalignError], call: Any) -> VfmalignError:
    with pytest.raises(kind) as caught:
        await (call if hasattr(call, "__await__") else anext(aiter(call)))
    return caught.value


async def test_models_and_datasets_are_those_of_the_callers_tenant(open_api: Any) -> None:
    ours, theirs = [await open_api("researcher", claim=tenant) for tenant in TENANTS]
    listed = [await one.features.ListModels(pb.ListModelsRequest()) for one in (ours, theirs)]
    assert [[model.model_id for model in one.models] for one in listed] == [["only", "shared"], ["shared"]]
    shared = [(await one.features.GetModel(pb.GetModelRequest(model_id="shared"))).model for one in (ours, theirs)]
    assert shared[0].checkpoint.sha256 != shared[1].checkpoint.sha256
    assert "/ward-7/models/shared/" in shared[1].checkpoint.uri
    assert len((await ours.features.ListDatasets(pb.ListDatasetsRequest())).datasets) == 1
    assert len((await theirs.features.ListDatasets(pb.ListDatasetsRequest())).datasets) == 0
    await refuse(NotFound, theirs.features.GetModel(pb.GetModelRequest(model_id="only")))
    await refuse(NotFound, theirs.features.GetDataset(pb.GetDatasetRequest(dataset_id="only")))
    for model in ("shared", "only"):
        request = pb.ExtractDatasetRequest(model_id=model, dataset_id="only", split=common_pb2.SPLIT_TEST)
        await refuse(NotFound, theirs.features.ExtractDataset(request))


async def test_feature_sets_are_those_of_the_callers_tenant(open_api: Any) -> None:
    ours, theirs = [await open_api("researcher", claim=tenant) for tenant in TENANTS]
    request = pb.ExtractDatasetRequest(model_id="only", dataset_id="only", split=common_pb2.SPLIT_TEST)
    made = [event async for event in ours.features.ExtractDataset(request)][-1].feature_set.feature_set_id
    listed = [(await one.features.ListFeatureSets(pb.ListFeatureSetsRequest())).feature_sets for one in (ours, theirs)]
    assert [[one.feature_set_id for one in sets] for sets in listed] == [[made], []]
    named = pb.GetFeatureSetRequest(feature_set_id=made)
    assert (await ours.features.GetFeatureSet(named)).feature_set == listed[0][0]
    await refuse(NotFound, theirs.features.GetFeatureSet(named))
    viewer, router = await open_api("viewer", claim="default"), await open_api("router", claim="default")
    assert (await viewer.features.GetFeatureSet(named)).feature_set == listed[0][0]
    await refuse(Forbidden, router.features.ListFeatureSets(pb.ListFeatureSetsRequest()))


async def test_a_feature_set_names_who_first_had_it_extracted(open_api: Any, stores: dict[str, ObjectStore]) -> None:
    ada, bob, theirs = [
        await open_api("researcher", claim=claim, subject=subject)
        for claim, subject in (("default", "ada"), ("default", "bob"), ("ward-7", "ada"))
    ]
    check = await open_api("finetuning", tenant="default", subject="system:serviceaccount:finetuning")
    fields = {"model_id": "only", "dataset_id": "only", "split": common_pb2.SPLIT_TEST}

    async def extract(caller: Any, seed: int, created_by: str = "") -> pb.FeatureSet:
        request = pb.ExtractDatasetRequest(
            **fields, initialisation=pb.INITIALISATION_RANDOM, initialisation_seed=seed, created_by=created_by
        )
        return [event async for event in caller.features.ExtractDataset(request)][-1].feature_set

    async def list_creators(caller: Any) -> dict[str, str]:
        sets = (await caller.features.ListFeatureSets(pb.ListFeatureSetsRequest())).feature_sets
        return {one.feature_set_id: one.created_by for one in sets}

    first = await extract(ada, 1)
    for caller in (bob, check, ada):
        assert (await extract(caller, 1)).created_by == "https://idp.example#ada", "a repetition changes nothing"
    of_check, unknown = await extract(check, 2, "https://idp.example#bob"), await extract(check, 3)
    expected = {
        first.feature_set_id: "https://idp.example#ada",
        of_check.feature_set_id: "https://idp.example#bob",
        unknown.feature_set_id: "",
    }
    assert expected.items() <= (await list_creators(ada)).items()
    assert not expected.keys() & (await list_creators(theirs)).keys()
    named = pb.GetFeatureSetRequest(feature_set_id=of_check.feature_set_id)
    assert (await bob.features.GetFeatureSet(named)).feature_set.created_by == "https://idp.example#bob"
    await refuse(NotFound, theirs.features.GetFeatureSet(named))

    request = pb.ExtractDatasetRequest(**fields, created_by="https://idp.example#bob")
    error = await refuse(Forbidden, ada.features.ExtractDataset(request))
    assert (error.subject, error.reason) == ("created_by", "MISSING_ROLE")

    store, set_id = stores["default"], first.feature_set_id  # a set of an earlier version stays as it is
    store.delete(provenance_key(features_prefix(set_id), set_id))
    repeated = await extract(bob, 1)
    assert (repeated.created_by, repeated.manifest) == ("", first.manifest)
    assert (await list_creators(ada))[set_id] == ""
    (part,) = store.list(f"{features_prefix(set_id)}part-")
    store.delete(part)
    assert (await extract(bob, 1)).created_by == "", "a repair changes nothing"
    assert store.exists(part)


async def test_a_tenant_deletes_its_own_objects_and_only_a_curator_or_an_admin_may(
    open_api: Any, stores: dict[str, ObjectStore]
) -> None:
    before = {key: stores["default"].get(key) for key in stores["default"].list("")}
    theirs = await open_api("curator", "admin", claim="ward-7")
    await refuse(NotFound, theirs.features.DeleteDataset(pb.DeleteDatasetRequest(dataset_id="only")))
    await refuse(NotFound, theirs.features.DeleteModel(pb.DeleteModelRequest(model_id="only")))
    await refuse(NotFound, theirs.features.DeleteFeatureSet(pb.DeleteFeatureSetRequest(feature_set_id="kept")))
    dry = pb.DeleteModelRequest(model_id="shared", dry_run=True)
    for role in ("viewer", "researcher", "router", "finetuning"):
        features = (await open_api(role, claim="ward-7")).features
        await refuse(Forbidden, features.DeleteModel(dry))
        await refuse(Forbidden, features.DeleteDataset(pb.DeleteDatasetRequest(dataset_id="only", dry_run=True)))
        await refuse(Forbidden, features.DeleteFeatureSet(pb.DeleteFeatureSetRequest(feature_set_id="kept")))
    for role in ("curator", "admin"):
        assert (await (await open_api(role, claim="ward-7")).features.DeleteModel(dry)).deletion.objects == 2
    assert {key: stores["default"].get(key) for key in stores["default"].list("")} == before


async def test_each_tenant_extracts_with_its_own_weights_into_its_own_objects(
    open_api: Any, stores: dict[str, ObjectStore]
) -> None:
    data = stores["default"].get("volumes/only/c/t2w.nii.gz")
    answers = []
    for tenant in TENANTS:
        study = pb.Study(volumes=[pb.StudyVolume(modality=kind, nifti=data) for kind in MODALITIES])
        request = pb.ExtractRequest(model_id="shared", study=study, store_as="kept", store_group="g")
        answers.append(await (await open_api("researcher", claim=tenant)).features.Extract(request))
    assert answers[0].checkpoint_sha256 != answers[1].checkpoint_sha256
    for tenant, answer in zip(TENANTS, answers, strict=True):
        uri = answer.layers[0].stored.uri
        assert uri.startswith(f"s3://{stores[tenant].bucket}/{tenant}/features/kept/")


async def test_a_uri_of_another_tenant_is_refused_whether_or_not_it_names_an_object(
    open_api: Any, stores: dict[str, ObjectStore]
) -> None:
    store, theirs = stores["default"], await open_api("researcher", claim="ward-7")
    data = save({"a": np.eye(4, dtype=np.float32)})
    digest = hashlib.sha256(data).hexdigest()
    store.put("uploads/there.safetensors", data)
    errors = []
    for key in ("uploads/there.safetensors", "uploads/absent.safetensors"):
        ref = common_pb2.ObjectRef(uri=store.uri(key), sha256=digest)
        study = pb.Study(volumes=[pb.StudyVolume(modality=kind, stored=ref) for kind in MODALITIES])
        sample = mmd_pb2.FeatureSource(uploaded=mmd_pb2.UploadedFeatures(object=ref))
        compute = mmd_pb2.ComputeRequest(x=sample, y=sample, pairing=mmd_pb2.PAIRING_PAIRED, kernel=KERNEL)
        calls = [
            theirs.features.Extract(pb.ExtractRequest(model_id="shared", study=study)),
            theirs.mmd.Compute(compute),
        ]
        errors.append([str(await refuse(InvalidInput, call)) for call in calls])
        (batch,) = [one async for one in theirs.mmd.ComputeBatch(mmd_pb2.ComputeBatchRequest(requests=[compute]))]
        errors[-1].append(f"{batch.error.reason}: {batch.error.message}")
    assert errors[0] == errors[1], "a caller does not learn what others have stored"
    assert all("/ward-7/" in message and "/default/" not in message for message in errors[0])
    ours = await open_api("researcher", claim="default")
    compute.x.uploaded.object.uri = compute.y.uploaded.object.uri = store.uri("uploads/there.safetensors")
    assert (await ours.mmd.Compute(compute)).rows_x == 4


async def test_feature_sets_of_another_tenant_are_not_found(open_api: Any, stores: dict[str, ObjectStore]) -> None:
    request = FeatureRequest(
        model_id="m",
        model_sha256="0" * 64,
        dataset_id="d",
        dataset_digest="0" * 64,
        split="test",
        layers=("stages.3",),
        preprocessing=INPUT,
    )
    cases = [f"case-{row}" for row in range(4)]
    writer = FeatureSetWriter(stores["default"], request, cases, cases)
    writer.write_part(0, {"stages.3": np.eye(4, dtype=np.float32)})
    writer.commit({})
    sample = mmd_pb2.FeatureSource(feature_set_id=request.feature_set_id())
    compute = mmd_pb2.ComputeRequest(x=sample, y=sample, pairing=mmd_pb2.PAIRING_PAIRED, kernel=KERNEL)
    assert (await (await open_api("researcher", claim="default")).mmd.Compute(compute)).rows_x == 4
    await refuse(NotFound, (await open_api("researcher", claim="ward-7")).mmd.Compute(compute))


async def test_uploads_go_to_the_tenant(open_api: Any) -> None:
    for tenant in TENANTS:
        curator = await open_api("curator", claim=tenant)
        content = common_pb2.FileContent(sha256="0" * 64, size_bytes=1)
        request = imports_pb2.CreateModelUploadsRequest(import_id="i", weights=content)
        assert f"/{tenant}/incoming/" in (await curator.models.CreateModelUploads(request)).upload.url
        researcher = await open_api("researcher", claim=tenant)
        answer = await researcher.mmd.CreateUpload(mmd_pb2.CreateUploadRequest(file=content))
        assert f"/{tenant}/uploads/" in answer.upload.url
        assert f"/{tenant}/uploads/" in answer.object.uri


async def test_lines_about_a_call_name_its_tenant(open_api: Any, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("test", LogSettings())
    for tenant in TENANTS:
        await (await open_api("viewer", claim=tenant)).features.ListModels(pb.ListModelsRequest())
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["tenant"] for line in lines if line["event"] == "call"] == list(TENANTS)


async def test_a_service_names_the_tenant_for_which_it_calls(open_api: Any) -> None:
    request = pb.GetModelRequest(model_id="shared")
    digests = [
        (await (await open_api("finetuning", tenant=tenant)).features.GetModel(request)).model.checkpoint.sha256
        for tenant in TENANTS
    ]
    assert digests[0] != digests[1]
    unclear = await refuse(InvalidInput, (await open_api("finetuning")).features.GetModel(request))
    assert unclear.reason == "TENANT_REQUIRED"
    for claim, tenant in ((None, "ward-7"), ("ward-7", "default"), ("ward-9", ""), (["ward-7"], "ward-9")):
        denied = await refuse(
            Forbidden, (await open_api("viewer", claim=claim, tenant=tenant)).features.GetModel(request)
        )
        assert denied.reason == "WRONG_TENANT"
