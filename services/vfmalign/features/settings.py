"""Settings of the feature service."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from vfmalign.core.runtime.settings import ServiceClientSettings, ServiceSettings
from vfmalign.imaging.dicom.pacs.servers import PacsServer, PacsServers


class FeaturesOptions(BaseModel, frozen=True):
    """`VFMALIGN_FEATURES__*`: device, batches and queues."""

    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="device: auto (CUDA if available, else cpu), cpu, cuda or cuda:<index>",
    )
    model_cache_bytes: int = Field(
        default=4 * 2**30,
        ge=2**20,
        description="maximum bytes of model weights on the device; the least recently used models are evicted",
    )
    batch_size: int = Field(default=4, ge=1, le=256, description="studies per forward pass on an accelerator")
    part_cases: int = Field(
        default=16,
        ge=1,
        le=65_536,
        description="cases per stored part of a feature set; a killed process loses at most one part",
    )
    readers: int = Field(default=2, ge=1, le=64, description="threads that read and prepare studies")
    queue_size: int = Field(default=32, ge=1, le=65_536, description="maximum Extract calls that run or wait")
    bulk_queue_size: int = Field(default=16, ge=1, le=65_536, description="maximum waiting ExtractDataset calls")
    import_queue_size: int = Field(
        default=16, ge=1, le=65_536, description="maximum waiting PublishDataset and PublishModel calls"
    )
    max_weights_bytes: int = Field(
        default=4 * 2**30,
        ge=2**20,
        le=5 * 2**30,
        description="maximum bytes of weights that PublishModel accepts; checking them takes 3 times the memory",
    )
    max_stored_bytes: int = Field(
        default=2**40,
        ge=0,
        le=2**60,
        description="maximum bytes of one tenant's objects; further uploads are rejected; 0 for no limit",
    )
    dicom_readers: int = Field(
        default=4, ge=1, le=64, description="maximum DICOM studies that are downloaded and read at once"
    )
    dicom_queue_size: int = Field(
        default=32, ge=1, le=65_536, description="maximum Extract calls on DICOM that run or wait, beside queue_size"
    )
    dicom_study_bytes: int = Field(
        default=2 * 2**30,
        ge=2**20,
        le=64 * 2**30,
        description="maximum size of a DICOM study that Extract reads, in bytes of its unpacked files",
    )
    dicom_timeout_s: float = Field(
        default=300.0,
        gt=0.0,
        le=3600.0,
        description="maximum seconds to download and read a DICOM study, even if the deadline of the call is later",
    )
    dicom_folder: Path | None = Field(
        default=None,
        description="temporary folder for the files of DICOM studies; it needs space for dicom_readers studies; by "
        "default vfmalign-dicom-UID in the system's temporary folder",
    )
    study_upload_age_s: int = Field(
        default=3600,
        ge=600,
        le=7 * 86_400,
        description="age at which uploaded DICOM studies are deleted, in seconds; checked every hour",
    )
    upload_url_s: int = Field(default=3600, ge=1, le=7 * 86_400, description="seconds for which an upload URL is valid")
    upload_age_s: int = Field(
        default=7 * 86_400,
        ge=3600,
        le=366 * 86_400,
        description="age at which unpublished uploads are deleted, in seconds",
    )


class OutboxOptions(BaseModel, frozen=True):
    """`VFMALIGN_OUTBOX__*`: queue of observations from Extract to monitors, in the object storage."""

    max_observations: int = Field(
        default=10_000, ge=1, le=1_000_000, description="maximum waiting observations of one tenant; others are dropped"
    )
    max_bytes: int = Field(
        default=256 * 2**20,
        ge=2**16,
        le=2**40,
        description="maximum bytes of waiting observations of one tenant; others are dropped",
    )
    write_timeout_s: float = Field(
        default=5.0,
        gt=0.0,
        le=60.0,
        description="seconds to wait for the object storage to store an observation; past it, it is dropped",
    )
    call_timeout_s: float = Field(
        default=10.0, gt=0.0, le=600.0, description="seconds to wait for an answer of the monitoring service"
    )
    poll_s: float = Field(
        default=15.0,
        gt=0.0,
        le=3600.0,
        description="seconds between two searches for observations of other replicas or of an earlier process",
    )


class RetentionSettings(BaseModel, frozen=True):
    """`VFMALIGN_RETENTION__*` of the feature service."""

    features_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="age in days at which feature sets and stored studies are deleted; if not set, they are kept",
    )


class FeaturesSettings(ServiceSettings, ServiceClientSettings):
    """All settings of the feature service."""

    features: FeaturesOptions = FeaturesOptions()
    monitoring_address: str = Field(
        default="",
        description="host:port of the monitoring service; if not set, the observations of Extract requests are dropped",
    )
    outbox: OutboxOptions = OutboxOptions()
    retention: RetentionSettings = RetentionSettings()
    dicomweb: PacsServers = Field(default_factory=dict)

    @field_validator("dicomweb")
    @classmethod
    def _states_tenants(cls, servers: dict[str, PacsServer], info: ValidationInfo) -> dict[str, PacsServer]:
        tenants = info.data["auth"].tenants if "auth" in info.data else ()
        for name, server in servers.items():
            if unknown := set(server.tenants) - set(tenants):
                raise ValueError(f"{name} names the tenant {min(unknown)}, which this deployment does not serve")
            if len(tenants) > 1 and not server.tenants:
                raise ValueError(
                    f"set VFMALIGN_DICOMWEB__{name.upper()}__TENANTS: the deployment serves several tenants"
                )
        return servers

    def get_servers(self, tenant: str) -> dict[str, PacsServer]:
        """Returns the PACS servers that a tenant may read from, by name."""
        return {
            name: server for name, server in self.dicomweb.items() if not server.tenants or tenant in server.tenants
        }
