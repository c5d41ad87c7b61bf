"""`vfmalign mmd A B`: compares two feature sets, stored ones or arrays of this machine.

Knows the comparison's options. Computes nothing.
"""

from __future__ import annotations

from typing import Annotated

import grpc
import typer

from vfmalign.cli.arrays import named, sources
from vfmalign.cli.local.state_directory import DEFAULT_HOME, Home
from vfmalign.cli.options import HomeOption, JsonOption, SeedOption
from vfmalign.cli.target import Target
from vfmalign.cli.views.check_tables import comparison
from vfmalign.cli.views.enum_labels import (
    BANDWIDTHS,
    ESTIMATORS,
    KERNELS,
    MEASURES,
    PRECISIONS,
    WITHOUT_BANDWIDTH,
    parse,
)
from vfmalign.cli.views.output import Output
from vfmalign.core.domain.documents import to_json_dict
from vfmalign.core.domain.errors import BadOption
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc

TIMEOUT_S = 3600.0
Source = Annotated[str, typer.Argument(help="Id of a feature set, or a .npy file of shape (rows, channels).")]


def mmd(
    x: Source,
    y: Source,
    *,
    reference: Annotated[
        str | None, typer.Option(help="Sample that fixes scale and bandwidth; X by default. Like X: an id or a file.")
    ] = None,
    sigma: Annotated[float | None, typer.Option(help="Fixed bandwidth instead of the reference's median.")] = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(
            help=f"Where the bandwidth comes from: {', '.join(BANDWIDTHS)}. A pooled median grows with the shift."
        ),
    ] = None,
    kernel: Annotated[str, typer.Option(help=f"Kernel: {', '.join(KERNELS)}.")] = "gaussian",
    estimator: Annotated[
        str | None, typer.Option(help=f"Estimator: {', '.join(ESTIMATORS)}. The unbiased one that fits by default.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Least precision: fast (bfloat16 on CUDA), high (float32) or exact (float64).")
    ] = None,
    block_rows: Annotated[int, typer.Option(min=0, help="Rows of a block; 0 takes the square root of the rows.")] = 0,
    frequencies: Annotated[int, typer.Option(min=0, help="Frequencies of `random_fourier`; 0 takes 1,024.")] = 0,
    independent: Annotated[
        bool, typer.Option("--independent", help="Rows are other patients, not the same cases before and after.")
    ] = False,
    layer: Annotated[list[str] | None, typer.Option("--layer", help="Only these layers. Repeatable.")] = None,
    measure: Annotated[
        str, typer.Option(help=f"Measures beside MMD², with commas between them: {', '.join(MEASURES)}.")
    ] = "",
    permutations: Annotated[int, typer.Option(min=0, max=100_000, help="Of the test; 0 makes none.")] = 1000,
    wild_bootstrap: Annotated[
        bool, typer.Option("--wild-bootstrap", help="Random signs of pairs of rows instead of permutations.")
    ] = False,
    aggregated: Annotated[
        bool, typer.Option("--aggregated", help="Test over a grid of bandwidths as well, which needs no choice of one.")
    ] = False,
    level: Annotated[float, typer.Option(min=0.01, max=0.999, help="Coverage of intervals.")] = 0.95,
    seed: SeedOption = 0,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait for the answer.")] = TIMEOUT_S,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Compare two samples of features, layer by layer.

    Arrays that are too large for one message are uploaded to the deployment's bucket and stay there.
    """
    output = Output.to_terminal(as_json=as_json)
    request = mmd_pb2.ComputeRequest(
        pairing=mmd_pb2.PAIRING_INDEPENDENT if independent else mmd_pb2.PAIRING_PAIRED,
        layers=layer or (),
        interval_level=level,
        block_rows=block_rows,
        frequencies=frequencies,
        kernel=_kernel(kernel, bandwidth, sigma),
        measures=[parse(MEASURES, name, "--measure") for name in measure.split(",") if measure],
    )
    if estimator is not None:
        request.estimator = parse(ESTIMATORS, estimator, "--estimator")
    if precision is not None:
        request.precision = parse(PRECISIONS, precision, "--precision")
    if permutations:
        request.test.permutations, request.test.seed, request.test.aggregated = permutations, seed, aggregated
        request.test.method = mmd_pb2.TEST_METHOD_WILD_BOOTSTRAP if wild_bootstrap else mmd_pb2.TEST_METHOD_PERMUTATION
    elif aggregated or wild_bootstrap:
        raise BadOption("is a test, and --permutations 0 makes none", field="--aggregated or --wild-bootstrap")
    given = [named(x, "X"), named(y, "Y")]
    needs_reference = request.kernel.bandwidth_rule == mmd_pb2.BANDWIDTH_RULE_REFERENCE_MEDIAN
    if reference is not None:
        given.append(named(reference, "--reference"))
    elif needs_reference:
        given.append(given[0])
        output.say("scale and bandwidth are X's own; name another sample with --reference", "dim")

    target = Target.find(Home(home))
    messages = sources(given, target, lambda text: output.say(text, "dim"))
    request.x.CopyFrom(messages[0])
    request.y.CopyFrom(messages[1])
    if len(messages) > 2:
        request.reference.CopyFrom(messages[2])

    async def ask(channel: grpc.aio.Channel) -> mmd_pb2.ComputeResponse:
        return await mmd_pb2_grpc.MmdServiceStub(channel).Compute(request, timeout=timeout)

    response = target.call("mmd", ask)
    output.emit(to_json_dict(response), *comparison(response))


def _kernel(kernel: str, bandwidth: str | None, sigma: float | None) -> mmd_pb2.Kernel:
    """Family and bandwidth.

    Raises:
        BadOption: words that are none of the API's, or a rule and a σ that do not fit.
    """
    message = mmd_pb2.Kernel(family=parse(KERNELS, kernel, "--kernel"))
    if kernel in WITHOUT_BANDWIDTH:
        if bandwidth is not None or sigma is not None:
            raise BadOption(f"the {kernel} kernel has no bandwidth", field="--kernel", remedy="leave --sigma out")
        return message
    rule = bandwidth or ("reference_median" if sigma is None else "fixed")
    message.bandwidth_rule = parse(BANDWIDTHS, rule, "--bandwidth")
    if (rule == "fixed") != (sigma is not None):
        raise BadOption(
            "fixed needs --sigma, and a median takes none", field="--bandwidth", remedy="leave one of the two out"
        )
    if sigma is not None:
        message.fixed_sigma = sigma
    return message
