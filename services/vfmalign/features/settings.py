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
        description="bytes of weights kept on the device; least recently used models are evicted",
    )
    batch_size: int = Field(default=4, ge=1, le=256, description="studies per forward pass on an accelerator")
    part_cases: int = Field(
        default=16,
        ge=1,
        le=65_536,
        description="cases per stored part of a feature set: the most that a killed process loses",
    )
    readers: int = Field(default=2, ge=1, le=64, description="threads that read and prepare studies")
    queue_size: int = Field(default=32, ge=1, le=65_536, description="Extract calls that may run or wait")
    bulk_queue_size: int = Field(default=16, ge=1, le=65_536, description="ExtractDataset calls that may wait")
    import_queue_size: int = Field(
        default=16, ge=1, le=65_536, description="PublishDataset and PublishModel calls that may wait"
    )
    max_weights_bytes: int = Field(
        default=2**30,
        ge=2**20,
        le=5 * 2**30,
        description="largest weights that PublishModel accepts; checking them takes three times the memory",
    )
    max_stored_bytes: int = Field(
        default=2**40,
        ge=0,
        le=2**60,
        description="bytes of one tenant's objects beyond which uploads are refused; 0 for no limit",
    )
    dicom_readers: int = Field(
        default=4, ge=1, le=64, description="DICOM studies that are downloaded and read at the same time"
    )
    dicom_queue_size: int = Field(
        default=32, ge=1, le=65_536, description="Extract calls on DICOM that may run or wait, beside queue_size"
    )
    dicom_study_bytes: int = Field(
        default=2 * 2**30,
        ge=2**20,
        le=64 * 2**30,
        description="largest DICOM study that Extract reads: bytes of its files, unpacked",
    )
    dicom_timeout_s: float = Field(
        default=300.0,
        gt=0.0,
        le=3600.0,
        description="seconds within which a DICOM study must be downloaded and read, whatever the call's deadline",
    )
    dicom_folder: Path | None = Field(
        default=None,
        description="folder for the files of studies while they are read, which needs room for dicom_readers studies; "
        "vfmalign-dicom-UID in the folder for temporary files by default",
    )
    study_upload_age_s: int = Field(
        default=3600,
        ge=600,
        le=7 * 86_400,
        description="age at which uploaded DICOM studies are deleted, in seconds; they are looked for every hour",
    )
    upload_url_s: int = Field(
        default=3600, ge=1, le=7 * 86_400, description="seconds for which the URL of an upload is valid"
    )
    upload_age_s: int = Field(
        default=7 * 86_400,
        ge=3600,
        le=366 * 86_400,
        description="age at which uploads that nobody published are deleted, in seconds",
    )


class OutboxOptions(BaseModel, frozen=True):
    """`VFMALIGN_OUTBOX__*`: observations of Extract that wait for their monitors, in the object storage."""

    max_observations: int = Field(
        default=10_000, ge=1, le=1_000_000, description="observations of one tenant that may wait; more are dropped"
    )
    max_bytes: int = Field(
        default=256 * 2**20,
        ge=2**16,
        le=2**40,
        description="bytes of one tenant's observations that may wait; more are dropped",
    )
    hedge_s: float = Field(
        default=0.1,
        ge=0.0,
        le=10.0,
        description="seconds after which Extract stores an observation while the monitoring service has not answered",
    )
    write_timeout_s: float = Field(
        default=5.0,
        gt=0.0,
        le=60.0,
        description="seconds after which Extract drops an observation that the object storage has not taken",
    )
    call_timeout_s: float = Field(
        default=10.0, gt=0.0, le=600.0, description="seconds within which the monitoring service must answer"
    )
    poll_s: float = Field(
        default=15.0,
        gt=0.0,
        le=3600.0,
        description="seconds between two looks for observations that other replicas, or an earlier process, have left",
    )


class FeaturesSettings(ServiceSettings, ServiceClientSettings):
    """All settings of the feature service."""

    features: FeaturesOptions = FeaturesOptions()
    monitoring_address: str = Field(
        default="",
        description="host:port of the monitoring service; without it, observations that Extract is asked for are "
        "dropped",
    )
    outbox: OutboxOptions = OutboxOptions()
    dicomweb: PacsServers = Field(default_factory=dict)

    @field_validator("dicomweb")
    @classmethod
    def _states_tenants(cls, servers: dict[str, PacsServer], info: ValidationInfo) -> dict[str, PacsServer]:
        tenants = info.data["auth"].tenants if "auth" in info.data else ()
        for name, server in servers.items():
            if unknown := set(server.tenants) - set(tenants):
                raise ValueError(f"{name} is for the tenant {min(unknown)}, which this deployment does not serve")
            if len(tenants) > 1 and not server.tenants:
                raise ValueError(
                    f"set VFMALIGN_DICOMWEB__{name.upper()}__TENANTS: the deployment serves several tenants"
                )
        return servers

    def get_servers(self, tenant: str) -> dict[str, PacsServer]:
        """Returns the PACS that a tenant's callers may read from, by name."""
        return {
            name: server for name, server in self.dicomweb.items() if not server.tenants or tenant in server.tenants
        }
