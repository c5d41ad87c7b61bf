"""Client of `FeatureService`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypedDict

import grpc

from vfmalign.client.dicom import pack_files, read_archive, read_files
from vfmalign.client.messages.common import Cost, Deletion, FileContent, FileUpload, ObjectRef
from vfmalign.client.messages.features import (
    CreateStudyUploadRequest,
    CreateStudyUploadResponse,
    Dataset,
    DeliveredObservation,
    ExtractDatasetRequest,
    ExtractDatasetResponse,
    ExtractedStudy,
    FeatureSet,
    ListDatasetsResponse,
    ListFeatureSetsRequest,
    ListFeatureSetsResponse,
    ListModelsResponse,
    Model,
    PacsReference,
    Pooling,
    StudyObservation,
)
from vfmalign.client.responses import OnProgress, fetch_pages, read_last_event
from vfmalign.client.samples import Array
from vfmalign.client.uploader import Uploader
from vfmalign.core.domain.datasets import TakenSeries
from vfmalign.core.domain.declarations import Unit
from vfmalign.core.domain.errors import BadOption, Internal
from vfmalign.core.rpc.tensors import to_array
from vfmalign.core.rpc.transport import MESSAGE_BYTES
from vfmalign.v1 import common_pb2, features_pb2, features_pb2_grpc

Volume = bytes | Path | ObjectRef
"""A NIfTI file (`.nii` or `.nii.gz`): its bytes, its path on this machine, or an object in the deployment's storage."""

Dicom = Path | str | ObjectRef | PacsReference
"""A study as DICOM: a folder or zip on this machine, the result of `upload_study`, or a study at a PACS."""

_MAX_INLINE_BYTES = MESSAGE_BYTES - 2**20
"""Maximum bytes of files in one message, which leaves room for its other fields."""
_POOLINGS: dict[Pooling, features_pb2.Pooling] = {
    "mean": features_pb2.POOLING_MEAN,
    "none": features_pb2.POOLING_NONE,
}


@dataclass(frozen=True)
class StudyFeatures:
    """Features of one study.

    Attributes:
        layers: maps each layer to a float32 array: (C) if pooled, otherwise (C, D, H, W); empty if the features were
            stored.
        stored: maps each layer to its safetensors file; empty if the features were returned.
        checkpoint_sha256: digest of the weights that computed the features.
        cost: cost of the call.
        preprocessing_sha256: digest of the preprocessing, for `FeatureOrigin`.
        observation: outcome of the requested observation; None if none was requested.
        series: DICOM series used for each modality; empty if the study was not passed as `dicom`.
    """

    layers: dict[str, Array]
    stored: dict[str, ObjectRef]
    checkpoint_sha256: str
    cost: Cost
    preprocessing_sha256: str = ""
    observation: DeliveredObservation | None = None
    series: tuple[TakenSeries, ...] = ()


@dataclass(frozen=True)
class ExtractedFeatureSet:
    """A committed feature set, and the numbers of cases and parts that the call computed.

    Attributes:
        computed_cases: number of cases that the call computed.
        recomputed_parts: number of committed parts that were lost or damaged, and that the call computed again.
    """

    feature_set: FeatureSet
    cost: Cost
    computed_cases: int
    recomputed_parts: int = 0


class AsyncFeaturesClient:
    """Extracts features and lists the stored models and datasets.

    Args:
        open_channel: returns the channel to the service.
    """

    def __init__(self, open_channel: Callable[[], grpc.aio.Channel]) -> None:
        self._open_channel = open_channel
        self._uploader = Uploader()

    async def extract(
        self,
        model_id: str,
        volumes: Mapping[str, Volume] | None = None,
        *,
        units: Mapping[str, Unit] | None = None,
        gland_mask: Volume | None = None,
        dicom: Dicom | None = None,
        rules_dataset_id: str = "",
        layers: Sequence[str] = (),
        pooling: Pooling = "mean",
        input_transform: str = "",
        checkpoint_sha256: str = "",
        store_as: str = "",
        store_group: str = "",
        observation: StudyObservation | None = None,
    ) -> StudyFeatures:
        """Extracts the features of one study.

        Args:
            model_id: a published model.
            volumes: one volume for each modality that the model requires, such as `t2w`. Omit `volumes` if you pass
                `dicom`.
            units: unit of each modality. If the model normalises by a window, the unit must be `HU`. Omitted modalities
                have an arbitrary unit.
            gland_mask: label map, for models that normalise inside the gland.
            dicom: the study as DICOM, in place of volumes. If the files do not fit into a message, this process loads
                them into memory and uploads them.
            rules_dataset_id: dataset whose rules choose the series of each modality. If empty, the rules of the model's
                card choose the series.
            layers: layers to return; if empty, the model's primary layer.
            pooling: `mean` over space, or `none` for whole feature maps.
            input_transform: a task's input transform; if empty, the study is not transformed.
            checkpoint_sha256: expected digest of the weights; if empty, any weights are accepted.
            store_as: id under which the features are stored; if empty, the features are returned instead.
            store_group: group of the patient; required with `store_as`. An erasure finds the stored features by this
                group.
            observation: names the monitor that observes the features, and describes the study. Only pooled features can
                be observed. The answer states the outcome. If the observation fails, the call still succeeds.

        Raises:
            BadOption: a file cannot be read, or two options cannot be combined.
            BadVolume: a volume is missing or cannot be used.
            NotFound: the model, a stored volume or the study at the PACS does not exist.
            Exhausted: the features do not fit into a message, or the service is busy.
            PacsUnavailable, PacsRefused, BadPacsAnswer: the PACS did not answer, refused the request, or returned
                something other than the study.
            VfmalignError: the call failed otherwise.
        """
        if rules_dataset_id and dicom is None:
            raise BadOption(
                "the rules of a dataset only apply to DICOM", field="rules_dataset_id", remedy="give `dicom` as well"
            )
        request = features_pb2.ExtractRequest(
            model_id=model_id,
            checkpoint_sha256=checkpoint_sha256,
            study=features_pb2.Study(
                volumes=[
                    features_pb2.StudyVolume(
                        modality=modality, unit=(units or {}).get(modality, ""), **_to_source(volume)
                    )
                    for modality, volume in (volumes or {}).items()
                ],
                gland_mask=None if gland_mask is None else features_pb2.GlandMask(**_to_source(gland_mask)),
                dicom=None if dicom is None else await self._to_dicom(dicom, rules_dataset_id),
            ),
            layers=layers,
            pooling=_POOLINGS[pooling],
            input_transform=input_transform,
            store_as=store_as,
            store_group=store_group,
            observation=None if observation is None else observation.to_proto(),
        )
        response = await self._stub().Extract(request)
        arrays, stored = {}, {}
        for layer in response.layers:
            if layer.WhichOneof("features") == "stored":
                stored[layer.layer] = ObjectRef.from_response(layer.stored)
            else:
                arrays[layer.layer] = to_array(layer.tensor, layer.layer)
        answer = ExtractedStudy.from_response(response)
        return StudyFeatures(
            arrays,
            stored,
            answer.checkpoint_sha256,
            answer.cost,
            answer.preprocessing_sha256,
            answer.observation,
            answer.series,
        )

    async def upload_study(self, archive: bytes) -> ObjectRef:
        """Uploads a zip of a study's DICOM files. For about an hour, you can pass the result to `extract` as `dicom`.

        Raises:
            Exhausted: the zip exceeds the service's size limit or the remaining quota.
            StoreUnavailable: the object storage cannot be reached, or refuses the upload.
            VfmalignError: the call failed otherwise.
        """
        answers: list[CreateStudyUploadResponse] = []

        async def sign(files: Sequence[FileContent]) -> Sequence[FileUpload]:
            response = await self._stub().CreateStudyUpload(CreateStudyUploadRequest(file=files[0]).to_proto())
            answers.append(CreateStudyUploadResponse.from_response(response))
            return [answers[-1].upload]

        await self._uploader.upload([archive], sign)
        return answers[-1].object

    async def _to_dicom(self, dicom: Dicom, rules_dataset_id: str) -> features_pb2.DicomStudy:
        """Describes a study; its files are uploaded if they do not fit into the message."""
        if isinstance(dicom, PacsReference):
            return features_pb2.DicomStudy(reference=dicom.to_proto(), rules_dataset_id=rules_dataset_id)
        if isinstance(dicom, Path | str):
            path = Path(dicom)
            if await asyncio.to_thread(path.is_dir):
                contents = await asyncio.to_thread(read_files, path)
                # Beside its bytes, each file has up to six bytes of tag and length.
                if sum(len(content) + 6 for content in contents) <= _MAX_INLINE_BYTES:
                    instances = features_pb2.InlineInstances(instances=contents)
                    return features_pb2.DicomStudy(instances=instances, rules_dataset_id=rules_dataset_id)
                archive = await asyncio.to_thread(pack_files, contents)
            else:
                archive = await asyncio.to_thread(read_archive, path)
            dicom = await self.upload_study(archive)
        return features_pb2.DicomStudy(uploaded=dicom.to_proto(), rules_dataset_id=rules_dataset_id)

    async def extract_dataset(
        self, request: ExtractDatasetRequest, on_progress: OnProgress | None = None
    ) -> ExtractedFeatureSet:
        """Extracts the features of one split of a dataset into a feature set. Stored cases are not computed again.

        Args:
            request: names the model, the dataset and the split.
            on_progress: function or coroutine function that is called with the number of finished cases.

        Raises:
            NotFound: the model, the dataset or a volume does not exist.
            PreconditionFailed: a digest differs from the expected digest.
            Unavailable: the service stopped. Send the same request again to continue the extraction.
            VfmalignError: the call failed otherwise.
        """
        call = self._stub().ExtractDataset(request.to_proto())
        event = await read_last_event(call, ExtractDatasetResponse, on_progress)
        if event is None or event.feature_set is None:
            raise Internal("the feature service ended its answer without a feature set", subject="FeatureService")
        return ExtractedFeatureSet(
            event.feature_set, event.cost or Cost(), event.computed_cases, event.recomputed_parts
        )

    async def get_model(self, model_id: str) -> Model:
        """Returns a model's card.

        Raises:
            NotFound: no model has this id.
            PreconditionFailed: its card is damaged.
        """
        response = await self._stub().GetModel(features_pb2.GetModelRequest(model_id=model_id))
        return Model.from_response(response.model)

    async def list_models(self) -> ListModelsResponse:
        """Lists all models in one response."""

        async def fetch(page_token: str) -> ListModelsResponse:
            request = features_pb2.ListModelsRequest(page_token=page_token)
            return ListModelsResponse.from_response(await self._stub().ListModels(request))

        pages = await fetch_pages(fetch)
        return ListModelsResponse(
            models=tuple(model for page in pages for model in page.models),
            unreadable=tuple(item for page in pages for item in page.unreadable),
            architectures=pages[-1].architectures,
        )

    async def get_dataset(self, dataset_id: str) -> Dataset:
        """Describes a dataset.

        Raises:
            NotFound: no dataset has this id.
            PreconditionFailed: its description is damaged.
        """
        response = await self._stub().GetDataset(features_pb2.GetDatasetRequest(dataset_id=dataset_id))
        return Dataset.from_response(response.dataset)

    async def list_datasets(self) -> ListDatasetsResponse:
        """Lists all datasets in one response."""

        async def fetch(page_token: str) -> ListDatasetsResponse:
            request = features_pb2.ListDatasetsRequest(page_token=page_token)
            return ListDatasetsResponse.from_response(await self._stub().ListDatasets(request))

        pages = await fetch_pages(fetch)
        return ListDatasetsResponse(
            datasets=tuple(dataset for page in pages for dataset in page.datasets),
            unreadable=tuple(item for page in pages for item in page.unreadable),
        )

    async def delete_dataset(self, dataset_id: str, *, dry_run: bool = False) -> Deletion:
        """Deletes a dataset and its volumes, or only returns how much a deletion would free.

        Raises:
            NotFound: no dataset has this id.
            PreconditionFailed: an unfinished job, check or experiment uses the dataset.
        """
        request = features_pb2.DeleteDatasetRequest(dataset_id=dataset_id, dry_run=dry_run)
        return Deletion.from_response((await self._stub().DeleteDataset(request)).deletion)

    async def delete_model(self, model_id: str, *, dry_run: bool = False) -> Deletion:
        """Deletes a model, or only returns how much a deletion would free.

        Raises the same errors as `delete_dataset`.
        """
        request = features_pb2.DeleteModelRequest(model_id=model_id, dry_run=dry_run)
        return Deletion.from_response((await self._stub().DeleteModel(request)).deletion)

    async def delete_feature_set(self, feature_set_id: str, *, dry_run: bool = False) -> Deletion:
        """Deletes a feature set or a stored study's features, or only returns how much a deletion would free.

        Raises:
            NotFound: nothing is stored under this id.
        """
        request = features_pb2.DeleteFeatureSetRequest(feature_set_id=feature_set_id, dry_run=dry_run)
        return Deletion.from_response((await self._stub().DeleteFeatureSet(request)).deletion)

    async def get_feature_set(self, feature_set_id: str) -> FeatureSet:
        """Describes a feature set.

        Raises:
            NotFound: no feature set has this id.
            DataLoss: its manifest is damaged.
        """
        request = features_pb2.GetFeatureSetRequest(feature_set_id=feature_set_id)
        return FeatureSet.from_response((await self._stub().GetFeatureSet(request)).feature_set)

    async def list_feature_sets(
        self,
        *,
        model_id: str = "",
        dataset_id: str = "",
        created_after: datetime | None = None,
        created_before: datetime | None = None,
    ) -> ListFeatureSetsResponse:
        """Lists the feature sets of a model and a dataset in one response.

        Args:
            model_id: model that computed the sets; empty for all models.
            dataset_id: dataset of the sets; empty for all datasets.
            created_after: earliest creation time; None for no limit.
            created_before: latest creation time (exclusive); None for no limit.
        """
        filters = ListFeatureSetsRequest.from_fields(
            model_id=model_id, dataset_id=dataset_id, created_after=created_after, created_before=created_before
        )

        async def fetch(page_token: str) -> ListFeatureSetsResponse:
            request = filters.model_copy(update={"page_token": page_token}).to_proto()
            return ListFeatureSetsResponse.from_response(await self._stub().ListFeatureSets(request))

        pages = await fetch_pages(fetch)
        return ListFeatureSetsResponse(
            feature_sets=tuple(feature_set for page in pages for feature_set in page.feature_sets),
            unreadable=tuple(item for page in pages for item in page.unreadable),
        )

    def _stub(self) -> features_pb2_grpc.FeatureServiceAsyncStub:
        return features_pb2_grpc.FeatureServiceStub(self._open_channel())


class _Source(TypedDict, total=False):
    nifti: bytes
    stored: common_pb2.ObjectRef


def _to_source(volume: Volume) -> _Source:
    if isinstance(volume, ObjectRef):
        return {"stored": volume.to_proto()}
    return {"nifti": volume.read_bytes() if isinstance(volume, Path) else volume}
