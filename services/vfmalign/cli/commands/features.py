"""`vfmalign extract`: extract the features of a dataset's split into a feature set."""

from __future__ import annotations

from typing import Annotated

import grpc
import typer

from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import DatasetArgument, HomeOption, JsonOption, LayerOption, SeedOption
from vfmalign.cli.target import Target
from vfmalign.cli.views.enum_labels import get_labels, parse
from vfmalign.cli.views.follow import View
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import list_fields
from vfmalign.core.domain.documents import pluralise, to_json_dict
from vfmalign.core.domain.errors import Internal
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.v1 import common_pb2, features_pb2, features_pb2_grpc

SplitOption = Annotated[str, typer.Option("--split", help=f"Split: {', '.join(get_labels(common_pb2.Split))}.")]
InputTaskOption = Annotated[str, typer.Option("--task", help="Use the input transform of this task; none by default.")]
RandomOption = Annotated[bool, typer.Option("--random", help="Use random weights of the model's architecture.")]


def extract(
    dataset: DatasetArgument,
    *,
    model: Annotated[str, typer.Option("--model", help="Id of the model.")],
    split: SplitOption = "test",
    layer: LayerOption = None,
    task: InputTaskOption = "",
    random: RandomOption = False,
    seed: SeedOption = 0,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Extract the features of a dataset's split. Cases whose features are stored already are not computed again."""
    output = Output.to_terminal(as_json=as_json)
    request = features_pb2.ExtractDatasetRequest(
        model_id=model,
        dataset_id=dataset,
        split=parse(common_pb2.Split, split, "--split"),
        layers=layer or (),
        input_transform=get_task_spec(task).input_transform if task else "",
        initialisation=features_pb2.INITIALISATION_RANDOM if random else features_pb2.INITIALISATION_CHECKPOINT,
        initialisation_seed=seed if random else 0,
    )

    async def call(channel: grpc.aio.Channel) -> features_pb2.ExtractDatasetResponse:
        with View(output) as view:
            async for event in features_pb2_grpc.FeatureServiceStub(channel).ExtractDataset(request):
                if event.WhichOneof("event") == "feature_set":
                    return event
                view.show_bar("extraction", f"extracting {split}", event.progress)
        raise Internal("the feature service ended its stream without a feature set", subject="FeatureService")

    response = Target.find(StateDirectory(home)).call("features", call)
    feature_set, cost = response.feature_set, response.cost
    output.emit(
        to_json_dict(response),
        list_fields(
            f"Feature set {feature_set.feature_set_id}",
            {
                "rows": f"{pluralise(feature_set.rows, 'case')} of {pluralise(feature_set.groups, 'patient')}",
                "layers": ", ".join(f"{item.name} ({item.channels})" for item in feature_set.layers),
                "manifest": feature_set.manifest.uri,
                "weights": feature_set.checkpoint_sha256,
                "computed now": f"{pluralise(response.computed_cases, 'case')} on {cost.device}",
                "stages": ", ".join(f"{timing.stage} {timing.seconds:.2f} s" for timing in cost.stages) or "none",
            },
        ),
    )
