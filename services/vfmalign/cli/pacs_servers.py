"""Finds the PACS servers of this user, parses queries, and downloads a few studies."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.runtime.settings import parse

if TYPE_CHECKING:
    from vfmalign.imaging.dicom.pacs.servers import PacsServer


def find_server(name: str) -> PacsServer:
    """Returns the server with this name, which the variables `VFMALIGN_DICOMWEB__NAME__*` configure.

    Raises:
        BadOption: no server has this name, or a variable is wrong.
    """
    from vfmalign.imaging.dicom.pacs.servers import NAME_PATTERN, PacsSettings

    servers = parse(PacsSettings).dicomweb
    if name not in servers:
        choose = f"choose one of {', '.join(sorted(servers))}, or " if servers else ""
        shown = name.upper() if re.fullmatch(NAME_PATTERN, name) else "NAME"
        raise BadOption(
            "no server of this name is configured",
            field="--dicomweb",
            remedy=f"{choose}set VFMALIGN_DICOMWEB__{shown}__URL, and beside it TOKEN_FILE, or USERNAME and "
            "PASSWORD_FILE (docs/datasets.md)",
        )
    return servers[name]


def parse_query(texts: Sequence[str]) -> dict[str, str]:
    """Parses the values of `--query`.

    Raises:
        BadOption: a value is not KEY=VALUE, its key is not a DICOM attribute, or its key occurs twice.
    """
    from vfmalign.imaging.dicom.pacs.client import check_query

    pairs = [text.partition("=") for text in texts]
    query = {key: value for key, _, value in pairs}
    if len(query) != len(pairs):
        raise BadOption("a key is given twice", field="--query", remedy="give each key once")
    check_query(query)
    return query


@contextmanager
def download_few(server: str, query: Sequence[str], limit: int) -> Iterator[Path]:
    """Downloads studies that match a query into a temporary folder. The folder is deleted when the command ends.

    Raises:
        BadOption: see `parse_query` and `find_server`.
        BadDataset: no study matches.
        BadPacsAnswer: more studies match than `limit`.
    """
    from vfmalign.imaging.datasets.layouts.dicomweb import PacsStudies
    from vfmalign.imaging.dicom.pacs.client import PacsClient, PacsLimits

    parsed = parse_query(query)
    configured = find_server(server)
    with (
        _ended_as_by_ctrl_c(),
        TemporaryDirectory() as name,
        closing(PacsClient(configured, PacsLimits(studies=limit))) as client,
    ):
        for number, study in enumerate(PacsStudies(client, parsed).list_studies()):
            instances = client.list_instances(study.study_uid)
            client.download(study.study_uid, instances, Path(name, str(number)))
        yield Path(name)


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """Makes a closed terminal and SIGTERM run the cleanup: by default they end the process at once."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:  # as `nohup` wants it
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
