"""`vfmalign mmd A B`: compares two feature sets, stored ones or arrays of this machine.

Knows .npy files and the comparison's options. Computes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import grpc
import typer

from vfmalign.cli.check_tables import comparison
from vfmalign.cli.home import Home
from vfmalign.cli.options import HomeOption, JsonOption, SeedOption
from vfmalign.cli.output import Output
from vfmalign.cli.settings import DEFAULT_HOME
from vfmalign.cli.target import Target
from vfmalign.core.arrays import NPY, read_npy
from vfmalign.core.artifacts import is_id
from vfmalign.core.client import MESSAGE_BYTES
from vfmalign.core.documents import document
from vfmalign.core.errors import BadOption, BadTensor
from vfmalign.core.tensors import to_tensor
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc

Source = Annotated[str, typer.Argument(help="Id of a feature set, or a .npy file of shape (rows, channels).")]


def mmd(
    x: Source,
    y: Source,
    *,
    reference: Annotated[
        str | None, typer.Option(help="Sample that fixes scale and bandwidth; X by default. Like X: an id or a file.")
    ] = None,
    sigma: Annotated[float | None, typer.Option(help="Fixed bandwidth instead of the reference's median.")] = None,
    independent: Annotated[
        bool, typer.Option("--independent", help="Rows are other patients, not the same cases before and after.")
    ] = False,
    layer: Annotated[list[str] | None, typer.Option("--layer", help="Only these layers. Repeatable.")] = None,
    relabellings: Annotated[int, typer.Option(min=0, max=100_000, help="Of the test; 0 makes none.")] = 1000,
    level: Annotated[float, typer.Option(min=0.01, max=0.999, help="Coverage of intervals.")] = 0.95,
    seed: SeedOption = 0,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Compare two samples of features, layer by layer."""
    output = Output.to_terminal(as_json=as_json)
    request = mmd_pb2.ComputeRequest(
        x=source(x, "X"),
        y=source(y, "Y"),
        pairing=mmd_pb2.PAIRING_INDEPENDENT if independent else mmd_pb2.PAIRING_PAIRED,
        layers=layer or (),
        interval_level=level,
    )
    if sigma is not None:
        request.kernel.bandwidth_rule = mmd_pb2.BANDWIDTH_RULE_FIXED
        request.kernel.fixed_sigma = sigma
    if reference is not None or sigma is None:
        request.reference.CopyFrom(source(reference or x, "--reference" if reference else "X"))
        request.kernel.bandwidth_rule = (
            mmd_pb2.BANDWIDTH_RULE_REFERENCE_MEDIAN if sigma is None else mmd_pb2.BANDWIDTH_RULE_FIXED
        )
    if relabellings:
        request.test.relabellings, request.test.seed = relabellings, seed
    if request.ByteSize() > MESSAGE_BYTES:
        raise BadTensor(
            f"the arrays make a message of {request.ByteSize() / 2**20:.1f} MiB; at most {MESSAGE_BYTES >> 20} go",
            subject="X and Y",
            remedy="give fewer rows, float16 or float32, or compare stored feature sets",
        )

    async def ask(channel: grpc.aio.Channel) -> mmd_pb2.ComputeResponse:
        return await mmd_pb2_grpc.MmdServiceStub(channel).Compute(request)

    if reference is None and sigma is None:
        output.say("scale and bandwidth are X's own; name another sample with --reference", "dim")
    response = Target.find(Home(home)).call("mmd", ask)
    output.emit(document(response), *comparison(response))


def source(text: str, field: str) -> mmd_pb2.FeatureSource:
    """What the argument names: a feature set's id, or the array in a file.

    Raises:
        BadTensor: the file is no array of numbers with two axes; it is never unpickled.
        BadOption: neither a file's name nor an id.
    """
    if text.endswith(NPY):
        layer = mmd_pb2.InlineLayer(features=to_tensor(read_npy(Path(text), field), field))
        return mmd_pb2.FeatureSource(inline=mmd_pb2.InlineFeatures(layers=[layer]))
    if not is_id(text):
        raise BadOption(
            "is neither the id of a feature set nor a .npy file", field=field, remedy="see `vfmalign extract`"
        )
    return mmd_pb2.FeatureSource(feature_set_id=text)
