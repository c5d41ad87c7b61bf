"""`vfmalign extract`: a dataset's split through a model's encoder into a feature set."""

from __future__ import annotations

from typing import Annotated

import grpc
import typer

from vfmalign.cli.local.state_directory import DEFAULT_HOME, Home
from vfmalign.cli.options import HomeOption, JsonOption, SeedOption
from vfmalign.cli.target import Target
from vfmalign.cli.views.enum_labels import SPLITS, parse
from vfmalign.cli.views.follow import View
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import fields
from vfmalign.core.domain.documents import pluralise, to_json_dict
from vfmalign.core.domain.errors import Internal
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.v1 import features_pb2, features_pb2_grpc


def extract(
    dataset: Annotated[str, typer.Argument(help="Id of the dataset.")],
    *,
    model: Annotated[str, typer.Option(help="Id of the model.")],
    split: Annotated[str, typer.Option(help=f"One of {', '.join(SPLITS)}.")] = "test",
    layer: Annotated[list[str] | None, typer.Option("--layer", help="Only these layers. Repeatable.")] = None,
    task: Annotated[str, typer.Option(help="Take this task's inputs; the plain ones by default.")] = "",
    random: Annotated[bool, typer.Option("--random", help="The same architecture with random weights.")] = False,
    seed: SeedOption = 0,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Extract the features of a dataset's split. Cases whose features are stored already are not computed again."""
    output = Output.to_terminal(as_json=as_json)
    request = features_pb2.ExtractDatasetRequest(
        model_id=model,
        dataset_id=dataset,
        split=parse(SPLITS, split, "--split"),
        layers=layer or (),
        input_transform=get_task_spec(task).input_transform if task else "",
        initialisation=features_pb2.INITIALISATION_RANDOM if random else features_pb2.INITIALISATION_CHECKPOINT,
        initialisation_seed=seed if random else 0,
    )

    async def ask(channel: grpc.aio.Channel) -> features_pb2.ExtractDatasetResponse:
        with View(output) as view:
            async for event in features_pb2_grpc.FeatureServiceStub(channel).ExtractDataset(request):
                if event.WhichOneof("event") == "feature_set":
                    return event
                view.show_progress(f"extracting {split}", event.progress)
        raise Internal("the feature service ended its answer without a feature set", subject="FeatureService")

    found = Target.find(Home(home)).call("features", ask)
    features, cost = found.feature_set, found.cost
    output.emit(
        to_json_dict(found),
        fields(
            f"Feature set {features.feature_set_id}",
            {
                "rows": f"{pluralise(features.rows, 'case')} of {pluralise(features.groups, 'patient')}",
                "layers": ", ".join(f"{item.name} ({item.channels})" for item in features.layers),
                "manifest": features.manifest.uri,
                "weights": features.checkpoint_sha256,
                "computed now": f"{found.computed_cases} cases on {cost.device}",
                "stages": ", ".join(f"{timing.stage} {timing.seconds:.2f} s" for timing in cost.stages) or "none",
            },
        ),
    )
