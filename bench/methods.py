"""Who is measured, by case: a list of methods each, ours first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.environments import OURS
from bench.measure import Method, Settings

PRECISIONS = ("fast", "high", "exact")
GEMM_OF = {"fast": "bfloat16", "high": "float32", "exact": "float64"}


def ours(precision: str, sigma: float, **options: Any) -> Method:
    """One MMD² by vfmalign."""
    arguments = {"sigma": sigma, "precision": precision, "estimator": "unbiased_independent"}
    arguments |= {"pairing": "independent", **options}
    return Method(f"vfmalign {precision}", OURS, "ours", "value", arguments=arguments, statistic=arguments["estimator"])


def ours_tested(precision: str, sigma: float, permutations: int, **options: Any) -> Method:
    """The same with its p-value."""
    return Method(
        f"vfmalign {precision}, {permutations} permutations",
        OURS,
        "ours",
        "tested",
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
    """The bare matrix product of a precision."""
    return Method(
        f"bare GEMM, {GEMM_OF[precision]}",
        OURS,
        "limit",
        "gemm",
        arguments={"dtype": GEMM_OF[precision]},
        statistic="none",
    )


def values(sigma: float) -> list[Method]:
    """Peers for one MMD²."""
    at = {"sigma": sigma}

    def peer(name: str, environment: str, module: str, package: str, note: str = "", **more: Any) -> Method:
        return Method(name, environment, module, "value", package, note=note, **({"arguments": at} | more))

    biased, other = {"statistic": "biased"}, {"statistic": "other"}
    tensorized, online = {"arguments": at | {"backend": "tensorized"}}, {"arguments": at | {"backend": "online"}}
    return [
        Method("torch_plain", OURS, "plain", "torch_formula", arguments=at, note="keeps n×m"),
        Method("torch_cdist", OURS, "plain", "torch_cdist", arguments=at, note="keeps n×m"),
        Method("numpy_plain", OURS, "plain", "numpy_formula", arguments=at, note="keeps n×m"),
        peer("alibi-detect", "torch", "alibi_detect", "alibi-detect", "keeps n×m"),
        peer("geomloss", "torch", "geomloss_mmd", "geomloss", "keeps n×m", **tensorized, **biased),
        peer("torchdrift", "torch", "torchdrift_mmd", "torchdrift", "keeps diagonals", **other),
        peer("pytorch-ignite", "torch", "ignite_mmd", "pytorch-ignite", "negatives become 0"),
        peer("torchmetrics", "torch", "torchmetrics_kid", "torchmetrics", "KID: polynomial", arguments={}, **other),
        peer("torch-fidelity", "torch", "fidelity_kid", "torch-fidelity", "one subset: all rows"),
        peer("scikit-learn", "arrays", "sklearn_rbf", "scikit-learn", "`rbf_kernel`"),
        peer("evidently", "drift", "evidently_mmd", "evidently", "its own bandwidth", arguments={}, **other),
        peer("hyppo", "torch", "hyppo_mmd", "hyppo", "a scaled HSIC", **other),
        peer("pykeops", "torch", "keops", "pykeops", "LazyTensor: never keeps n×m", slow=True),
        peer(
            "geomloss online", "torch", "geomloss_mmd", "pykeops", "pykeops underneath", slow=True, **online, **biased
        ),
        peer("frouros", "drift", "frouros_mmd", "frouros", arguments=at | {"chunk_size": None}, slow=True),
        peer("frouros chunked", "drift", "frouros_mmd", "frouros", arguments=at | {"chunk_size": 1_000}, slow=True),
        Method("torch-two-sample", "torch", "absent", "absent", "torch-two-sample"),
    ]


def tests(sigma: float, permutations: int) -> list[Method]:
    """Peers for a p-value."""
    plain = {"permutations": permutations, "seed": 0}
    at = plain | {"sigma": sigma}

    def peer(name: str, environment: str, module: str, package: str, note: str = "", **more: Any) -> Method:
        return Method(name, environment, module, "tested", package, note=note, **({"arguments": at} | more))

    biased, other = {"statistic": "biased"}, {"statistic": "other"}
    permuted, saddle = {"arguments": at | {"method": "permutation"}}, {"arguments": at | {"method": "saddlepoint"}}
    fuse, agg = {"arguments": plain | {"kernels": ["gaussian"]}}, {"arguments": plain | {"kernel": "gaussian"}}
    return [
        Method("torch_matrix", OURS, "plain", "torch_permuted", arguments=at, note="keeps (n+m)²; K @ W"),
        peer("alibi-detect", "torch", "alibi_detect", "alibi-detect"),
        peer("torchdrift", "torch", "torchdrift_mmd", "torchdrift", **other),
        peer("ummd", "arrays", "ummd_mmd", "ummd", **permuted, **biased),
        peer("ummd saddle point", "arrays", "ummd_mmd", "ummd", "no permutations", **saddle, **biased),
        peer("goodpoints", "arrays", "goodpoints_ctt", "goodpoints", "of coresets", arguments=at | {"g": 4}, **other),
        peer("hyppo χ²", "torch", "hyppo_mmd", "hyppo", "no permutations", arguments=at | {"permutations": 0}, **other),
        peer("MMD-FUSE", "jax", "mmdfuse_test", "mmdfuse", "10 bandwidths", **fuse, **other),
        peer("MMDAgg", "jax", "mmdagg_test", "mmdagg", "10 bandwidths", **agg, **other),
        peer("hyppo permutation", "torch", "hyppo_mmd", "hyppo", slow=True, **other),
        peer("frouros", "drift", "frouros_mmd", "frouros", slow=True),
        Method("torch-two-sample", "torch", "absent", "absent", "torch-two-sample"),
    ]


def taken(methods: Sequence[Method], settings: Settings) -> list[Method]:
    """Those that were asked for by name; all where none was named."""
    return [method for method in methods if not settings.peers or method.name in settings.peers]
