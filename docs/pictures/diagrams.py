"""Draw the diagrams of the documentation: `make diagrams`.

Usage: python docs/pictures/diagrams.py FOLDER

Ports and names of calls are read from the code, so that a diagram cannot show another version's.
"""

from __future__ import annotations

import sys
from pathlib import Path

from canvas import Canvas
from google.protobuf.descriptor import FileDescriptor
from matrix import draw_experiment

from vfmalign.core.runtime.settings import ServerSettings
from vfmalign.v1 import alignment_pb2, features_pb2, mmd_pb2, monitoring_pb2

S3_PORT, DATABASE_PORT = 443, 5432
"""Usual ports of what a deployment brings along; the network policies allow these."""


def draw_architecture() -> Canvas:
    """The services with their ports, what they share, and the borders that calls cross."""
    ports = ServerSettings()
    observe, compute = get_call(monitoring_pb2.DESCRIPTOR, "Observe"), get_call(mmd_pb2.DESCRIPTOR, "Compute")
    canvas = Canvas(
        1000,
        710,
        "Architecture of vfmalign",
        "Callers reach finetuning, features, monitoring and mmd by gRPC with a token. finetuning calls features and "
        "mmd, keeps its lists in a database, and starts training jobs. features tells monitoring what it has seen; "
        "monitoring keeps it in a database of its own, and asks mmd for the shift of its windows. All of them read and "
        "write one bucket of object storage, and training jobs call nothing else. Prometheus reads the metrics.",
    )
    grpc = f"gRPC {ports.grpc_port}"
    canvas.border((228, 60), (758, 560), "the deployment: one network; its policies allow these arrows")
    canvas.border((720, 82), (250, 524), "credentials of each service")

    canvas.box((10, 190), (140, 84), "callers", "CLI, Python,", "any gRPC client", kind="outside")
    canvas.box((10, 360), (140, 66), "OpenID provider", "signs the tokens", kind="outside")
    canvas.box((10, 530), (140, 66), "Prometheus", "alerts, dashboards", kind="outside")

    canvas.box((250, 190), (170, 84), "finetuning", "jobs, checks,", "experiments, reports")
    canvas.box((510, 100), (170, 84), "features", "features of studies", "and datasets", kind="gpu")
    canvas.box((510, 230), (170, 84), "monitoring", "drift of models", "in use")
    canvas.box((510, 360), (170, 84), "mmd", "MMD², tests,", "intervals", kind="gpu")
    canvas.box((510, 490), (170, 84), "training jobs", "pretrain, fine-tune,", "publish encoders", kind="gpu")

    canvas.box(
        (745, 110),
        (200, 330),
        "object storage (S3)",
        "volumes, datasets,",
        "models, features,",
        "jobs, reports,",
        "states of monitors",
        kind="state",
    )
    canvas.box(
        (745, 490), (200, 84), "PostgreSQL", "jobs, checks, experiments;", "observations of monitors", kind="state"
    )

    canvas.arrow((150, 232), (250, 232), label=grpc, at=(189, 206))
    canvas.text((189, 224), "with a token", "small", anchor="middle")
    canvas.text((189, 250), "to all four", "small", anchor="middle")
    canvas.arrow((150, 393), (290, 393), (290, 274), label="public keys", at=(189, 385))
    canvas.arrow((420, 210), (465, 210), (465, 142), (510, 142), label=grpc, at=(468, 128))
    canvas.arrow((420, 254), (465, 254), (465, 402), (510, 402), label=grpc, at=(450, 422))
    canvas.arrow((595, 184), (595, 230), label=f"{observe} {ports.grpc_port}", at=(642, 211))
    canvas.arrow((595, 314), (595, 360), label=f"{compute} {ports.grpc_port}", at=(646, 341))
    canvas.arrow((680, 142), (745, 142))
    canvas.arrow((680, 258), (745, 258))
    canvas.arrow((680, 402), (745, 402))
    canvas.arrow((680, 520), (692, 520), (692, 424), (745, 424))
    canvas.arrow((680, 290), (710, 290), (710, 540), (745, 540))
    canvas.arrow(
        (380, 190), (380, 84), (705, 84), (705, 125), (745, 125), label="every service signs its requests", at=(560, 78)
    )
    canvas.arrow((335, 274), (335, 532), (510, 532), label="starts Jobs or processes", at=(420, 524))
    canvas.arrow((310, 274), (310, 598), (845, 598), (845, 574), label=f"SQL {DATABASE_PORT}", at=(600, 592))
    canvas.arrow((150, 563), (250, 563), label=f"metrics {ports.metrics_port}", at=(188, 555))
    canvas.text((258, 567), "each", "small")

    canvas.box((250, 648), (16, 16), "", kind="gpu")
    canvas.text((274, 661), "runs on a GPU node, or on a CPU", "small")
    canvas.box((500, 648), (16, 16), "", kind="state")
    canvas.text((524, 661), "holds the state; everything else can be killed at any time", "small")
    canvas.text(
        (250, 686),
        f"Each service listens on {ports.grpc_port} (gRPC, tokens, TLS), {ports.metrics_port} (metrics) and "
        f"{ports.health_port} (health).",
        "small",
    )
    return canvas


def draw_check() -> Canvas:
    """One alignment check, from the request to the report."""
    names = ("caller", "finetuning", "features", "training jobs", "mmd", "object storage")
    columns = {name: 90 + 164 * number for number, name in enumerate(names)}
    extract, compute = get_call(features_pb2.DESCRIPTOR, "ExtractDataset"), get_call(mmd_pb2.DESCRIPTOR, "Compute")
    steps = (
        ("caller", "finetuning", get_call(alignment_pb2.DESCRIPTOR, "CreateCheck"), ""),
        ("finetuning", "features", f"{extract}: before", ""),
        ("features", "object storage", "features of the test cases", ""),
        ("finetuning", "training jobs", "pretrained, from scratch, specialised", ""),
        ("training jobs", "object storage", "scores, curves, encoder", ""),
        ("finetuning", "features", f"{extract}: after", ""),
        ("features", "object storage", "the same cases, in the same order", ""),
        ("finetuning", "mmd", f"{compute}, layer by layer", ""),
        ("object storage", "mmd", "features before and after", ""),
        ("mmd", "finetuning", "MMD², tests, intervals", "answer"),
        ("finetuning", "object storage", "gain, verdict, report", ""),
        ("finetuning", "caller", get_call(alignment_pb2.DESCRIPTOR, "WatchCheck"), "answer"),
    )
    top, step_height = 70, 42
    bottom = top + step_height * len(steps) + 24
    canvas = Canvas(
        1000,
        bottom + 46,
        "One alignment check",
        "; ".join(f"{source} to {target}: {label}" for source, target, label, _ in steps),
    )
    for name, x in columns.items():
        canvas.line((x, 50), (x, bottom), "lifeline")
        kind = {"caller": "outside", "finetuning": "box", "object storage": "state"}.get(name, "gpu")
        canvas.box((x - 70, 14), (140, 36), name, kind=kind)
    for number, (source, target, label, kind) in enumerate(steps):
        y = top + step_height * (number + 1) - 12
        canvas.arrow((columns[source], y), (columns[target], y), kind=kind)
        middle = (columns[source] + columns[target]) // 2
        width = 7 * len(label) + 8
        canvas.parts.append(
            f'<rect class="ground" x="{middle - width // 2}" y="{y - 21}" width="{width}" height="16"/>'
        )
        canvas.text((middle, y - 8), label, "small", anchor="middle")
    canvas.text(
        (20, bottom + 24),
        "Each step leaves an artifact at a fixed address. A step whose artifact exists is done, so that a check "
        "continues wherever it was interrupted.",
        "small",
    )
    return canvas


def get_call(file: FileDescriptor, name: str) -> str:
    """Returns the name of a call that a file of the API has.

    Raises:
        LookupError: there is none of this name.
    """
    for service in file.services_by_name.values():
        if name in service.methods_by_name:
            return name
    raise LookupError(f"{file.name} has no call {name}")


DIAGRAMS = {"architecture.svg": draw_architecture, "check.svg": draw_check, "experiment.svg": draw_experiment}


def main() -> None:
    """Writes every diagram into the folder that is named on the command line."""
    for name, draw in DIAGRAMS.items():
        (Path(sys.argv[1]) / name).write_text(draw().to_svg())


if __name__ == "__main__":
    main()
