"""The experiments on phantoms and on the hippocampus: datasets, models, tasks and recipes.

Equal files give the same ids, splits and digests on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from bench.evidence.dataset import add_volume_class, digest_files, select_cases, split_group_counts
from vfmalign.cli.demo.steps import REHEARSAL, PretrainingRun, generate_phantoms
from vfmalign.cli.imports import import_dataset, import_model
from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.client.messages.jobs import Recipe
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.datasets import SPLITS, DatasetManifest, Split
from vfmalign.core.domain.declarations import get_declaration
from vfmalign.core.domain.errors import BadCheckpoint, BadOption, NotFound
from vfmalign.core.domain.modality_map import ModalityMap
from vfmalign.core.domain.models import Objective
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.keys import model_card_key
from vfmalign.imaging.datasets.discovery import ImportOptions, discover
from vfmalign.imaging.datasets.importer import prepare_discovered
from vfmalign.imaging.datasets.layouts.registry import read_source
from vfmalign.models.formats.stack_checkpoint import FAMILIES
from vfmalign.models.importer import InputDescription
from vfmalign.models.importer import import_model as convert_model

SEED = 2025
"""Chosen before any of its numbers were seen."""
MAX_CHECKS = 3
"""Concurrent checks: while one extracts features or compares, the jobs of the others keep every core busy."""
SHAPE_DHW = (32, 48, 32)
"""Size in voxels of 1 mm of the one input that every model of the hippocampus has."""
SUFFIXES = (".pth", ".safetensors")
DECLARATION = get_declaration("hippocampus")


@dataclass(frozen=True)
class Size:
    """The size of an experiment.

    Attributes:
        models: architecture and objective of each model that is pretrained on the dataset.
        counts: number of phantoms or patients by split.
        seeds: number of seeds, counted from the plan's seed.
        pretraining: recipe of every model: the same budget for all, learning rates by objective.
        finetuning: recipe of every check.
        tasks: tasks of the experiment.
    """

    models: tuple[tuple[str, Objective], ...]
    counts: Mapping[Split, int]
    seeds: int
    pretraining: Recipe
    finetuning: Recipe
    tasks: tuple[str, ...]


SMALL = Size(
    # One architecture with both objectives separates the effect of the objective from that of the architecture.
    models=(
        ("profound_conv_micro", "masked_reconstruction"),
        ("profound_conv_micro", "contrastive"),
        ("provicnet_fusion_micro", "contrastive"),
    ),
    counts={"pretrain": 24, "train": 20, "val": 8, "test": 20},
    seeds=1,
    pretraining=Recipe(preset="demo", epochs=8, steps_per_epoch=16, batch_size=8),
    finetuning=Recipe(preset="demo", epochs=16),
    tasks=("segmentation", "super_resolution", "distortion", "translation", "classification"),
)
EVIDENCE = Size(
    models=(
        ("profound_conv_micro_single", "masked_reconstruction"),
        ("profound_conv_micro_single", "contrastive"),
        ("profound_vit_micro_single", "masked_reconstruction"),
    ),
    counts={"pretrain": 80, "train": 100, "val": 16, "test": 64},
    seeds=3,
    pretraining=Recipe(preset="demo", epochs=10, steps_per_epoch=20, batch_size=8),
    # One whole volume per step: the dilations of a stack see only padding beside a patch of the preset's size.
    # Eight epochs, because the level and power of the convergence test are known for nine validations
    # (`bench.statistics`).
    finetuning=Recipe(preset="demo", epochs=8, steps_per_epoch=12, batch_size=1, patch_shape_dhw=SHAPE_DHW),
    tasks=(
        "segmentation:label=hippocampus,structure=anterior",
        "classification:class=derived_hippocampus_volume_high",
        "super_resolution:modality=t1w",
        "denoising:modality=t1w",
        "segmentation:label=hippocampus,structure=posterior",
    ),
)


@dataclass(frozen=True)
class Plan:
    """An experiment on phantoms: its parameters, from which its ids follow."""

    note: ClassVar[str] = REHEARSAL
    modality_map: ClassVar[ModalityMap] = {}
    name: str = "small"
    size: Size = SMALL
    seed: int = SEED

    @property
    def experiment(self) -> str:
        """Id of the experiment."""
        return f"{self.name}-{self.seed}"

    @property
    def dataset(self) -> str:
        """Id of the dataset."""
        return f"phantoms-{self.name}-{self.seed}"

    def create_inputs(self, target: Target, directory: StateDirectory, output: Output) -> None:
        """Generates the phantoms, unless they exist."""
        generate_phantoms(target, self.dataset, self.seed, self.size.counts, output)

    def pretrainings(self) -> list[PretrainingRun]:
        """Returns how the models are pretrained."""
        return [
            PretrainingRun(
                self.dataset,
                # Short, so that the ids of checks, which contain it, are not replaced by a digest.
                f"{architecture.split('_')[1]}-{objective.partition('_')[0]}-{self.name}-{self.seed}",
                architecture,
                objective,
                self.size.pretraining,
                self.seed,
                self.modality_map,
            )
            for architecture, objective in self.size.models
        ]

    def spec(self) -> ExperimentSpec:
        """Returns the specification of the experiment."""
        return ExperimentSpec(
            model_ids=tuple(pretraining.model for pretraining in self.pretrainings()),
            dataset_id=self.dataset,
            tasks=tuple(map(Task.parse, self.size.tasks)),
            seeds=tuple(self.seed + number for number in range(self.size.seeds)),
            recipe=self.size.finetuning,
            max_running=MAX_CHECKS,
            title=self.note,
            modality_map=self.modality_map,
        )


@dataclass(frozen=True)
class RealPlan(Plan):
    """The experiment of docs/evidence.md, with encoders that others have pretrained, and controls on shuffled labels.

    Attributes:
        data: folder of the dataset, in a layout of `vfmalign dataset import`.
        encoders: folder of checkpoints, each a stack of convolutions of a known family.
    """

    note: ClassVar[str] = "real volumes (hippocampus), not prostates; the class derives from their masks"
    modality_map: ClassVar[ModalityMap] = {"t1w": "input"}
    name: str = "evidence"
    size: Size = EVIDENCE
    data: Path = Path()
    encoders: Path = Path()

    @property
    def experiment(self) -> str:
        """Id of the experiment."""
        return f"real-{self.name}-{self.seed}-controls"

    @property
    def dataset(self) -> str:
        """Id of the dataset."""
        return f"hippocampus-{self.name}-{self.seed}"

    def list_checkpoints(self) -> dict[str, Path]:
        """Returns the checkpoints by id of their model.

        Raises:
            BadOption: there is none.
        """
        files = self.encoders.iterdir() if self.encoders.is_dir() else ()
        by_id = {file.stem.lower().replace("_", "-"): file for file in files if file.suffix in SUFFIXES}
        if not by_id:
            raise BadOption(
                f"the folder has no file that ends with {' or '.join(SUFFIXES)}",
                field="--encoders",
                remedy="choose a folder of checkpoints",
            )
        return dict(sorted(by_id.items()))

    def create_inputs(self, target: Target, directory: StateDirectory, output: Output) -> None:
        """Imports the dataset and the encoders, unless they exist.

        Raises:
            BadDataset: the dataset cannot be imported.
            BadCheckpoint: a checkpoint is of no known family.
        """
        try:
            dataset = load_dataset(target.store, self.dataset)
        except NotFound:
            with output.err.status("importing the dataset"):
                dataset = self._import_dataset(target, directory)
        sizes = ", ".join(f"{split} {len(dataset.split(split))}" for split in SPLITS)
        output.note(f"dataset {dataset.id}: {sizes} (digest {dataset.digest()[:12]})")
        for model, file in self.list_checkpoints().items():
            if not target.store.exists(model_card_key(model)):
                _import_encoder(target, model, file)
            output.note(f"model {model} is published")

    def spec(self) -> ExperimentSpec:
        """Returns the specification of the experiment."""
        spec = super().spec()
        return spec.model_copy(
            update={"model_ids": (*self.list_checkpoints(), *spec.model_ids), "shuffled_labels": True}
        )

    def _import_dataset(self, target: Target, directory: StateDirectory) -> DatasetManifest:
        # Ids derive from the files, in place of the machine's secret: they are the same on every machine that has the
        # files, and nobody else can derive them from names.
        options = ImportOptions(declaration=DECLARATION)
        _, source = read_source(self.data, None, DECLARATION)
        discovered = discover(self.data, self.dataset, digest_files(source), options)
        assigned = split_group_counts({case.group for case in discovered.cases}, self.size.counts, self.seed)
        discovered = select_cases(discovered, assigned)
        splits = {case.source.name: assigned[case.group] for case in discovered.cases}
        discovered = add_volume_class(discovered, DECLARATION.labels[0], splits)
        mapping = directory.private / "mapping.csv"
        checked = prepare_discovered(discovered, self.dataset, ImportOptions(splits=splits), mapping_path=mapping)
        import_dataset(target, checked)
        return checked.dataset


LABELS = replace(
    EVIDENCE,
    # The tasks with the shortest trainings.
    tasks=("segmentation:label=hippocampus,structure=anterior", "classification:class=derived_hippocampus_volume_high"),
)
TRAIN_CASES = (8, 16, 32, 0)
"""Numbers of training cases; 0 for all."""


@dataclass(frozen=True)
class LabelPlan(RealPlan):
    """The experiment on label efficiency in docs/evidence.md, with the models that `RealPlan` pretrains."""

    size: Size = LABELS

    @property
    def experiment(self) -> str:
        """Id of the experiment."""
        return f"labels-{self.name}-{self.seed}"

    def list_checkpoints(self) -> dict[str, Path]:
        """Returns nothing: the encoders of others take longer than a minute to train."""
        return {}

    def spec(self) -> ExperimentSpec:
        """Returns the specification of the experiment."""
        return super().spec().model_copy(update={"train_cases": TRAIN_CASES, "frozen": True, "shuffled_labels": False})


def _import_encoder(target: Target, model: str, file: Path) -> None:
    for family in FAMILIES:
        try:
            imported = convert_model([file], family, [], InputDescription((), None, SHAPE_DHW), model)
        except BadCheckpoint:
            continue
        import_model(target, model, imported, objective="supervised", source=f"file {file.name}")
        return
    raise BadCheckpoint(
        f"the file is of none of the families {', '.join(FAMILIES)}",
        subject=model,
        remedy="take it out of the folder, and import it with `vfmalign models import`",
    )
