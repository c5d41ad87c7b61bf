"""The PACS servers of this user: their configuration, queries to them, and a few studies of one.

`dicomweb.toml` in the folder of the configuration describes them.
"""

from __future__ import annotations

import signal
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from vfmalign.cli.private_files import get_configuration_folder, read_private
from vfmalign.core.domain.errors import BadOption

if TYPE_CHECKING:
    from vfmalign.imaging.dicom.pacs.servers import PacsServer

FILE = "dicomweb.toml"


def find_server(name: str) -> PacsServer:
    """Returns a server by name.

    Raises:
        BadOption: there is none of this name, or the file is wrong.
        PreconditionFailed: others can read or change the file.
    """
    from vfmalign.imaging.dicom.pacs.servers import PacsServers

    path = get_configuration_folder() / FILE
    remedy = f"describe the server in {path}, as docs/dicom.md shows"
    try:
        # Who can change it can send queries, with patients' numbers, and credentials to another host.
        content = tomllib.loads(read_private(path, "the addresses of servers", "").decode())
        servers: dict[str, PacsServer] = TypeAdapter(PacsServers).validate_python(content)
    except OSError:
        raise BadOption("no server is configured", field="--dicomweb", remedy=remedy) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part != "[key]")
        cause = first["msg"].removeprefix("Value error, ")
        raise BadOption(f"{FILE}: {place}: {cause}", field="--dicomweb", remedy=f"correct {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise BadOption(f"{FILE} is not TOML: {error}", field="--dicomweb", remedy=f"correct {path}") from None
    except UnicodeError:
        raise BadOption(f"{FILE} is not text in UTF-8", field="--dicomweb", remedy=f"correct {path}") from None
    if name not in servers:
        listed = f", or choose one of {', '.join(servers)}" if servers else ""
        raise BadOption("there is no server of this name", field="--dicomweb", remedy=f"{remedy}{listed}")
    return servers[name]


def parse_query(texts: Sequence[str]) -> dict[str, str]:
    """Parses the values of `--query`.

    Raises:
        BadOption: one is not KEY=VALUE, is no attribute of DICOM, or is given twice.
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
    """Downloads studies that match a query into a temporary folder, which the end of the command deletes.

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
    """Lets the end of a terminal, or SIGTERM, run what cleans up: by default they end the process at once."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:  # as `nohup` wants it
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
