"""The methods of each case: vfmalign first, then the limit and the competitors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.environments import VFMALIGN
from bench.measure import MeasurementSettings, Method

PRECISIONS = ("fast", "high", "exact")
GEMM_DTYPES = {"fast": "bfloat16", "high": "float32", "exact": "float64"}
"""Data type of the matrix product that bounds each precision's speed."""


def vfmalign_mmd2(precision: str, sigma: float, **options: Any) -> Method:
    """Returns vfmalign's MMD² without a test."""
    arguments = {"sigma": sigma, "precision": precision, "estimator": "unbiased_independent"}
    arguments |= {"pairing": "independent", **options}
    return Method(
        f"vfmalign {precision}",
        VFMALIGN,
        "workloads.vfmalign_mmd",
        "value",
        arguments=arguments,
        statistic=arguments["estimator"],
    )


def vfmalign_test(precision: str, sigma: float, permutations: int, **options: Any) -> Method:
    """Returns vfmalign's MMD² with its p-value."""
    return Method(
        f"vfmalign {precision}, {permutations} permutations",
        VFMALIGN,
        "workloads.vfmalign_mmd",
        "test",
        arguments={
            "pairing": "independent",
            "sigma": sigma,
            "precision": precision,
            "permutations": permutations,
            "seed": 0,
            **options,
        },
    )


def gemm(precision: str) -> Method:
    """Returns the bare matrix product that bounds a precision's speed."""
    return Method(
        f"bare GEMM, {GEMM_DTYPES[precision]}",
        VFMALIGN,
        "workloads.gemm_limit",
        "gemm",
        arguments={"dtype": GEMM_DTYPES[precision]},
        statistic="none",
    )


def competitors_for_mmd2(sigma: float) -> list[Method]:
    """Returns the competitors for one MMD²."""
    options = {"sigma": sigma}

    def competitor(name: str, environment: str, module: str, package: str, note: str = "", **fields: Any) -> Method:
        path = f"competitors.{module}"
        return Method(name, environment, path, "value", package, note=note, **({"arguments": options} | fields))

    def formula(name: str, function: str) -> Method:
        return Method(name, VFMALIGN, "workloads.formulas", function, arguments=options, note="stores n×m")

    biased, other = {"statistic": "biased"}, {"statistic": "other"}
    tensorized, online = ({"arguments": options | {"backend": backend}} for backend in ("tensorized", "online"))
    whole, chunked = ({"arguments": options | {"chunk_size": size}} for size in (None, 1_000))
    return [
        formula("torch_plain", "torch_formula"),
        formula("torch_cdist", "torch_cdist"),
        formula("numpy_plain", "numpy_formula"),
        competitor("alibi-detect", "torch", "alibi_detect", "alibi-detect", "stores n×m"),
        competitor("geomloss", "torch", "geomloss_mmd", "geomloss", "stores n×m", **tensorized, **biased),
        competitor("torchdrift", "torch", "torchdrift_mmd", "torchdrift", "includes diagonals", **other),
        competitor("pytorch-ignite", "torch", "ignite_mmd", "pytorch-ignite", "clips negatives to 0"),
        competitor(
            "torchmetrics", "torch", "torchmetrics_kid", "torchmetrics", "KID: polynomial", arguments={}, **other
        ),
        competitor("torch-fidelity", "torch", "fidelity_kid", "torch-fidelity", "one subset: all rows"),
        competitor("scikit-learn", "arrays", "sklearn_rbf", "scikit-learn", "`rbf_kernel`"),
        competitor("evidently", "drift", "evidently_mmd", "evidently", "its own bandwidth", arguments={}, **other),
        competitor("hyppo", "torch", "hyppo_mmd", "hyppo", "a scaled HSIC", **other),
        competitor("pykeops", "torch", "keops", "pykeops", "LazyTensor: never stores n×m", slow=True),
        competitor(
            "geomloss online", "torch", "geomloss_mmd", "pykeops", "based on pykeops", slow=True, **online, **biased
        ),
        competitor("frouros", "drift", "frouros_mmd", "frouros", slow=True, **whole),
        competitor("frouros chunked", "drift", "frouros_mmd", "frouros", slow=True, **chunked),
        Method("torch-two-sample", "torch", "absent", "absent", "torch-two-sample"),
    ]


def competitors_for_test(sigma: float, permutations: int) -> list[Method]:
    """Returns the competitors for a p-value."""
    own_bandwidths: dict[str, Any] = {"permutations": permutations, "seed": 0}
    options = own_bandwidths | {"sigma": sigma}

    def competitor(name: str, environment: str, module: str, package: str, note: str = "", **fields: Any) -> Method:
        path = f"competitors.{module}"
        return Method(name, environment, path, "test", package, note=note, **({"arguments": options} | fields))

    biased, other = {"statistic": "biased"}, {"statistic": "other"}
    permuted, saddle = ({"arguments": options | {"method": method}} for method in ("permutation", "saddlepoint"))
    asymptotic, coresets = {"arguments": options | {"permutations": 0}}, {"arguments": options | {"g": 4}}
    fuse, agg = (
        {"arguments": own_bandwidths | kernel} for kernel in ({"kernels": ["gaussian"]}, {"kernel": "gaussian"})
    )
    return [
        Method(
            "torch_matrix",
            VFMALIGN,
            "workloads.formulas",
            "torch_permuted",
            arguments=options,
            note="stores (n+m)²; K @ W",
        ),
        competitor("alibi-detect", "torch", "alibi_detect", "alibi-detect"),
        competitor("torchdrift", "torch", "torchdrift_mmd", "torchdrift", **other),
        competitor("ummd", "arrays", "ummd_mmd", "ummd", **permuted, **biased),
        competitor("ummd saddle point", "arrays", "ummd_mmd", "ummd", "no permutations", **saddle, **biased),
        competitor("goodpoints", "arrays", "goodpoints_ctt", "goodpoints", "of coresets", **coresets, **other),
        competitor("hyppo χ²", "torch", "hyppo_mmd", "hyppo", "no permutations", **asymptotic, **other),
        competitor("MMD-FUSE", "jax", "mmdfuse_test", "mmdfuse", "10 bandwidths", **fuse, **other),
        competitor("MMDAgg", "jax", "mmdagg_test", "mmdagg", "10 bandwidths", **agg, **other),
        competitor("hyppo permutation", "torch", "hyppo_mmd", "hyppo", slow=True, **other),
        competitor("frouros", "drift", "frouros_mmd", "frouros", slow=True),
        Method("torch-two-sample", "torch", "absent", "absent", "torch-two-sample"),
    ]


def select(methods: Sequence[Method], settings: MeasurementSettings) -> list[Method]:
    """Returns the competitors that the settings name; all where they name none."""
    return [method for method in methods if not settings.competitors or method.name in settings.competitors]
