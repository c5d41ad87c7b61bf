"""`python -m vfmalign.mmd.comparison X Y --pairing …`: compares samples without a server, also under torchrun."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from google.protobuf.json_format import ParseDict, ParseError

from vfmalign.core.domain.errors import BadOption, Exhausted, InvalidInput, NotFound, PreconditionFailed, VfmalignError
from vfmalign.core.runtime.settings import parser
from vfmalign.mmd.engine.distributed import join_process_group
from vfmalign.mmd.local import ComparisonSettings, prepare
from vfmalign.mmd.service import converters
from vfmalign.v1 import mmd_pb2

SUMMARY = """\
Compare two samples of features in this process and print a ComputeResponse as JSON. X and Y are both stored feature
sets, given by id or by the URI of their manifest (s3://BUCKET/TENANT/features/ID/manifest.json), or both .npy files of
shape (rows, channels), which are never unpickled. Append @SHA256 to an id or URI to verify the digest of the manifest.

Set all other fields of a ComputeRequest (mmd.proto) as JSON; fields that you leave out have the request's defaults:
    --options '{"test": {"permutations": 1000}, "layers": ["stages.3"], "precision": "PRECISION_EXACT"}'

VFMALIGN_MMD__MEMORY_MIB limits the memory of a comparison (default: all memory of the machine). If the layers of stored
sets do not fit into it together, they are read one after another. The estimator `random_fourier` reads sets and files
of any length. Processes started by torchrun share the work, each on the CUDA device of its local rank if there is one.
On several machines, set VFMALIGN_MMD__MEMORY_MIB to the same value on all of them. The first process prints the result:
    torchrun --nproc-per-node 2 -m vfmalign.mmd.comparison x.npy y.npy --pairing independent --sigma 10

Exit codes: 0 success, 1 failure (retry later), 2 invalid sample or option, 3 not enough memory, 130 interrupted."""
OK, FAILED, BAD_INPUT, NO_MEMORY, INTERRUPTED = 0, 1, 2, 3, 130
_PAIRINGS = {"paired": mmd_pb2.PAIRING_PAIRED, "independent": mmd_pb2.PAIRING_INDEPENDENT}


def main(argv: Sequence[str] | None = None) -> int:
    """Compares the samples and prints the result or one error message. Returns the exit code."""
    arguments = parse(argv)
    try:
        _run(arguments)
    except VfmalignError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        if isinstance(error, InvalidInput | NotFound | PreconditionFailed):
            return BAD_INPUT
        return NO_MEMORY if isinstance(error, Exhausted) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        SystemExit: the user asked for `--help`, or an argument is missing or unknown.
    """
    arguments_parser = parser("mmd.comparison", ComparisonSettings, SUMMARY)
    arguments_parser.add_argument("x", metavar="X", help="first sample (before)")
    arguments_parser.add_argument("y", metavar="Y", help="second sample (after)")
    arguments_parser.add_argument(
        "--pairing", choices=_PAIRINGS, required=True, help="paired: row i of X and of Y is the same case"
    )
    arguments_parser.add_argument(
        "--reference", metavar="SAMPLE", help="sample of other cases that determines scale and bandwidth"
    )
    arguments_parser.add_argument("--sigma", type=float, help="fixed bandwidth, in units of the features")
    arguments_parser.add_argument("--options", default="{}", metavar="JSON", help="further fields of a ComputeRequest")
    return arguments_parser.parse_args(argv)


def build_request(arguments: argparse.Namespace) -> mmd_pb2.ComputeRequest:
    """Converts the command-line options to a request that does not yet contain samples.

    Raises:
        BadOption: `--options` is not a ComputeRequest as JSON, or it repeats an option of the command line.
    """
    try:
        fields = json.loads(arguments.options)
        request = ParseDict(fields, mmd_pb2.ComputeRequest())
    except (ValueError, ParseError, TypeError, AttributeError, RecursionError) as error:
        raise BadOption(
            f"is not the JSON of a ComputeRequest ({error})",
            field="--options",
            remedy="use the fields of ComputeRequest in mmd.proto",
        ) from None
    if repeated := {"x", "y", "reference", "pairing"} & fields.keys():
        raise BadOption(f"`{min(repeated)}` has its own argument", field="--options", remedy="remove it from the JSON")
    request.pairing = _PAIRINGS[arguments.pairing]
    if arguments.sigma is not None:
        request.kernel.fixed_sigma = arguments.sigma
    if arguments.reference is not None:
        request.reference.SetInParent()
    return request


def _run(arguments: argparse.Namespace) -> None:
    samples = {"x": arguments.x, "y": arguments.y, "reference": arguments.reference}
    places = {name: place for name, place in samples.items() if place is not None}
    comparison = prepare(places, converters.to_options(build_request(arguments)))
    with join_process_group() as processes:
        response = comparison.run(processes)
    if processes.is_main_process:
        print(json.dumps(response.to_json_dict(), indent=2, allow_nan=False))  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main())
