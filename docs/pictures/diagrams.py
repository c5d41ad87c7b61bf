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
from vfmalign.v1 import alignment_pb2, features_pb2, mmd_pb2

S3_PORT, DATABASE_PORT = 443, 5432
"""Usual ports of what a deployment brings along; the network policies allow these."""


def draw_architecture() -> Canvas:
    """The services with their ports, what they share, and the borders that calls cross."""
    ports = ServerSettings()
    canvas = Canvas(
        1000,
        590,
        "Architecture of vfmalign",
        "Callers reach finetuning, features and mmd by gRPC with a token. finetuning calls features and mmd, keeps its "
        "lists in a database, and starts training jobs. All of them read and write one bucket of object storage, and "
        "training jobs call nothing else. Prometheus reads the metrics.",
    )
    grpc = f"gRPC {ports.grpc_port}"
    canvas.border((228, 60), (758, 440), "the deployment: one network; its policies allow these arrows")
    canvas.border((720, 82), (250, 404), "credentials of each service")

    canvas.box((10, 150), (140, 84), "callers", "CLI, Python,", "any gRPC client", kind="outside")
    canvas.box((10, 300), (140, 66), "OpenID provider", "signs the tokens", kind="outside")
    canvas.box((10, 420), (140, 66), "Prometheus", "alerts, dashboards", kind="outside")

    canvas.box((250, 150), (170, 84), "finetuning", "jobs, checks,", "experiments, reports")
    canvas.box((510, 100), (170, 84), "features", "features of studies", "and datasets", kind="gpu")
    canvas.box((510, 220), (170, 84), "mmd", "MMD², tests,", "intervals", kind="gpu")
    canvas.box((510, 370), (170, 84), "training jobs", "pretrain, fine-tune,", "publish encoders", kind="gpu")

    canvas.box(
        (745, 110),
        (200, 200),
        "object storage (S3)",
        "volumes, datasets,",
        "models, features,",
        "jobs, reports",
        kind="state",
    )
    canvas.box((745, 380), (200, 84), "PostgreSQL", "lists and states of jobs,", "checks, experiments", kind="state")

    canvas.arrow((150, 192), (250, 192), label=grpc, at=(189, 166))
    canvas.text((189, 184), "with a token", "small", anchor="middle")
    canvas.text((189, 210), "to all three", "small", anchor="middle")
    canvas.arrow((150, 333), (290, 333), (290, 234), label="public keys", at=(189, 325))
    canvas.arrow((420, 170), (465, 170), (465, 142), (510, 142), label=grpc, at=(468, 128))
    canvas.arrow((420, 214), (465, 214), (465, 262), (510, 262), label=grpc, at=(450, 282))
    canvas.arrow((335, 234), (335, 412), (510, 412), label="starts Jobs or processes", at=(420, 404))
    canvas.arrow((680, 142), (745, 142))
    canvas.arrow((680, 262), (745, 262))
    canvas.arrow((680, 400), (712, 400), (712, 290), (745, 290))
    canvas.arrow(
        (380, 150), (380, 84), (705, 84), (705, 125), (745, 125), label="every service signs its requests", at=(560, 78)
    )
    canvas.arrow((310, 234), (310, 478), (845, 478), (845, 464), label=f"SQL {DATABASE_PORT}", at=(600, 472))
    canvas.arrow((150, 453), (250, 453), label=f"metrics {ports.metrics_port}", at=(188, 445))
    canvas.text((258, 457), "each", "small")

    canvas.box((250, 528), (16, 16), "", kind="gpu")
    canvas.text((274, 541), "runs on a GPU node, or on a CPU", "small")
    canvas.box((500, 528), (16, 16), "", kind="state")
    canvas.text((524, 541), "holds the state; everything else can be killed at any time", "small")
    canvas.text(
        (250, 566),
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
