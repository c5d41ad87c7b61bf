"""Sources of `vfmalign dataset import`: a folder or file, or the studies of a PACS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.cli.pacs_servers import find_server, parse_query
from vfmalign.core.domain.errors import BadOption
from vfmalign.imaging.datasets.assignments import read_studies
from vfmalign.imaging.datasets.discovery import DiscoveredDataset, ImportOptions, discover, name_cases
from vfmalign.imaging.datasets.layouts.sources import ProgressCallback
from vfmalign.imaging.datasets.layouts.staging import StagingFolder

_PACS_OPTIONS = "--query and --studies"


@dataclass(frozen=True)
class PacsChoice:
    """The options that choose studies of a PACS.

    Attributes:
        server: name of the server; None for an import of files.
        query: texts of the form KEY=VALUE.
        studies: the user's list of studies.
        max_staging_bytes: see `StagingFolder`.
        is_dry_run: whether the import only shows its result. The data are then deleted.
    """

    server: str | None
    query: tuple[str, ...]
    studies: Path | None
    max_staging_bytes: int
    is_dry_run: bool


@dataclass(frozen=True)
class ImportSource:
    """Source of an import.

    Attributes:
        discover: finds the cases and assigns ids to them; see `preparation.discover`.
        staging: data downloaded from a PACS; None for files.
    """

    discover: Callable[[str, bytes, ImportOptions, ProgressCallback], DiscoveredDataset]
    staging: StagingFolder | None = None

    def remove(self) -> None:
        """Deletes the staged data after the dataset has been published."""
        if self.staging is not None:
            self.staging.remove()

    def forget(self, names: Sequence[str]) -> None:
        """Deletes the staged data of cases with problems, because users may correct these cases before an import."""
        if self.staging is not None:
            self.staging.forget(names)


@contextmanager
def open_import_source(
    path: Path | None, pacs: PacsChoice, options: ImportOptions, state_directory: StateDirectory
) -> Iterator[ImportSource]:
    """Opens the source of an import.

    Raises:
        BadOption: the options contradict each other, or the server is not configured.
        BadDataset: the list of studies cannot be read.
        Conflict: another import reads from the same server with the same rules.
    """
    if pacs.server is None:
        yield ImportSource(partial(discover, _check_path(path, pacs)))
        return
    from vfmalign.imaging.datasets.layouts import dicomweb  # takes long to import
    from vfmalign.imaging.dicom.pacs.client import PacsClient

    query = _parse_query(path, pacs, options)
    server = find_server(pacs.server)
    uids = read_studies(pacs.studies) if pacs.studies is not None else ()
    name = dicomweb.make_staging_name(server, options.declaration, options.dicom)
    folder = state_directory.private / "staging" / name
    staging = StagingFolder(folder, pacs.max_staging_bytes, is_temporary=pacs.is_dry_run)
    with closing(PacsClient(server)) as client, staging.open():
        studies = dicomweb.PacsStudies(client, query, uids)

        def discover_studies(
            dataset_id: str, salt: bytes, chosen: ImportOptions, report: ProgressCallback
        ) -> DiscoveredDataset:
            reported = replace(chosen.dicom, progress=report)
            source = dicomweb.read(studies, chosen.declaration, reported, staging)
            return name_cases("dicom", source, dataset_id, salt, chosen)

        yield ImportSource(discover_studies, staging)


def _check_path(path: Path | None, pacs: PacsChoice) -> Path:
    if pacs.query or pacs.studies is not None:
        raise BadOption(f"required by {_PACS_OPTIONS}", field="--dicomweb", remedy="name a server, or remove these")
    if path is None:
        raise BadOption("there is nothing to import", field="DIR", remedy="give a folder or file, or --dicomweb")
    return path


def _parse_query(path: Path | None, pacs: PacsChoice, options: ImportOptions) -> dict[str, str]:
    if path is not None or options.layout not in {None, "dicom"}:
        raise BadOption("it replaces DIR and --layout", field="--dicomweb", remedy="leave them out")
    if pacs.query and pacs.studies is not None:
        raise BadOption(f"{_PACS_OPTIONS} exclude each other", field="--dicomweb", remedy="give one of them")
    if not pacs.query and pacs.studies is None:
        raise BadOption(f"it needs one of {_PACS_OPTIONS}", field="--dicomweb", remedy="say which studies to import")
    return parse_query(pacs.query)
