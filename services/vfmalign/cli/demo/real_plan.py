"""The plan of `vfmalign rehearse --data`: an experiment on real volumes, with encoders that others have pretrained.

Equal files, size and seed give the same ids, splits and digests on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vfmalign.cli.demo.steps import PretrainingRun
from vfmalign.cli.extras import needs_extra
from vfmalign.cli.imports import import_dataset, import_model
from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.client.messages.jobs import Recipe
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.datasets import SPLITS, DatasetManifest, Split
from vfmalign.core.domain.declarations import DatasetDeclaration
from vfmalign.core.domain.errors import BadCheckpoint, BadOption, NotFound
from vfmalign.core.domain.modality_map import ModalityMap
from vfmalign.core.domain.models import Objective
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.keys import model_card_key

if TYPE_CHECKING:
    from vfmalign.imaging.dicom.rules import Selection

DECLARATION = "hippocampus"
INPUT = "input"
"""Name of the input that every model has, because it takes one volume of any modality."""
SHAPE_DHW = (32, 48, 32)
"""Size of that input in voxels of 1 mm."""
SUFFIXES = (".pth", ".safetensors")


@dataclass(frozen=True)
class RealSize:
    """The size of a rehearsal on real volumes.

    Attributes:
        models: architecture and objective of each model that is pretrained on the dataset.
        counts: number of patients by split.
        seeds: number of seeds, counted from the rehearsal's seed.
        pretraining: recipe of every model.
        finetuning: recipe of every check.
        processor_hours: processor time in all, measured with one thread; 0 if unknown.
        tasks: number of tasks, in the order of `RealPlan.tasks`.
    """

    models: tuple[tuple[str, Objective], ...]
    counts: Mapping[Split, int]
    seeds: int
    pretraining: Recipe
    finetuning: Recipe
    processor_hours: float = 0.0
    tasks: int = 5


REAL_SIZES: dict[str, RealSize] = {
    "evidence": RealSize(
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
        finetuning=Recipe(
            preset="demo",
            epochs=8,
            steps_per_epoch=12,
            batch_size=1,
            patch_shape_dhw=SHAPE_DHW,
            probe_steps=(12, 48),
        ),
        processor_hours=13.0,
    ),
}


@dataclass(frozen=True)
class RealPlan:
    """The parameters of a rehearsal on real volumes.

    Attributes:
        data: folder of the dataset, in a layout of `vfmalign dataset import`.
        encoders: folder of checkpoints, each a stack of convolutions of a known family.
        declaration: what the dataset holds: one modality, and a label map of at least two structures.
        selections: which series of DICOM files its modality and label map take; none for other layouts.
        controls: whether every model and task has a control on shuffled labels.
    """

    name: str
    size: RealSize
    seed: int
    data: Path
    encoders: Path
    declaration: DatasetDeclaration
    selections: tuple[Selection, ...] = ()
    controls: bool = False

    @property
    def note(self) -> str:
        """What the result is evidence of."""
        return f"real volumes ({self.declaration.name}), not prostates; the class derives from their masks"

    @property
    def experiment(self) -> str:
        """Id of the experiment."""
        return f"real-{self.name}-{self.seed}" + ("-controls" if self.controls else "")

    @property
    def superseded(self) -> str:
        """Id of the experiment whose cells this one has as well; empty for none."""
        return f"real-{self.name}-{self.seed}" if self.controls else ""

    @property
    def dataset(self) -> str:
        """Id of the dataset."""
        return f"{self.declaration.name}-{self.name}-{self.seed}".replace("_", "-")

    @property
    def modality_map(self) -> ModalityMap:
        """The map from the dataset's modality to the models' input."""
        return {self.declaration.modalities[0]: INPUT}

    @property
    def structures(self) -> tuple[str, ...]:
        """The two structures that are segmented."""
        return self.declaration.labels[0].structures[:2]

    def check(self) -> None:
        """Checks what can be checked before a stack starts.

        Raises:
            BadOption: the declaration does not suit the tasks, or there is no checkpoint.
        """
        if len(self.declaration.modalities) != 1 or not self.declaration.labels or len(self.structures) < 2:
            raise BadOption(
                f"{self.declaration.name} does not declare one modality and a label map of two structures",
                field="--declaration",
                remedy="choose another declaration, or run `vfmalign experiment` on the dataset",
            )
        if not self.list_checkpoints():
            raise BadOption(
                f"the folder has no file that ends with {' or '.join(SUFFIXES)}",
                field="--encoders",
                remedy="choose a folder of checkpoints",
            )

    def list_checkpoints(self) -> dict[str, Path]:
        """Returns the checkpoints by id of their model."""
        files = self.encoders.iterdir() if self.encoders.is_dir() else ()
        by_id = {file.stem.lower().replace("_", "-"): file for file in files if file.suffix in SUFFIXES}
        return dict(sorted(by_id.items()))

    def create_inputs(self, target: Target, directory: StateDirectory, output: Output) -> None:
        """Imports the dataset and the encoders, unless they exist.

        Raises:
            BadDataset: the dataset cannot be imported.
            BadCheckpoint: a checkpoint is of no known family.
        """
        if self.size.processor_hours:
            output.note(f"all of it takes about {self.size.processor_hours:g} hours of processor time", "dim")
        try:
            dataset = load_dataset(target.store, self.dataset)
        except NotFound:
            with output.err.status("importing the dataset"):
                dataset = self._import_dataset(target, directory)
        sizes = ", ".join(f"{split} {len(dataset.split(split))}" for split in SPLITS)
        output.note(f"dataset {dataset.id}: {sizes} (digest {dataset.digest()[:12]})")
        for model, file in self.list_checkpoints().items():
            if not target.store.exists(model_card_key(model)):
                self._import_encoder(target, model, file)
            output.note(f"model {model} is published")

    def pretrainings(self) -> list[PretrainingRun]:
        """Returns how the models are pretrained."""
        return [
            PretrainingRun(
                self.dataset,
                f"{architecture.split('_')[1]}-{objective.partition('_')[0]}-{self.name}-{self.seed}",
                architecture,
                objective,
                self.size.pretraining,
                self.seed,
                self.modality_map,
            )
            for architecture, objective in self.size.models
        ]

    def tasks(self) -> tuple[str, ...]:
        """Returns the tasks in their short form."""
        with needs_extra("local", "an experiment on real volumes"):
            from vfmalign.imaging.datasets.derived_class import name_volume_class

        modality, labels = self.declaration.modalities[0], self.declaration.labels[0]
        first, second = (f"segmentation:label={labels.name},structure={structure}" for structure in self.structures)
        return (
            first,
            f"classification:class={name_volume_class(labels)}",
            f"super_resolution:modality={modality}",
            f"denoising:modality={modality}",
            second,
        )[: self.size.tasks]

    def spec(self) -> ExperimentSpec:
        """Returns the specification of the experiment."""
        return ExperimentSpec(
            model_ids=(*self.list_checkpoints(), *(pretraining.model for pretraining in self.pretrainings())),
            dataset_id=self.dataset,
            tasks=tuple(map(Task.parse, self.tasks())),
            seeds=tuple(self.seed + number for number in range(self.size.seeds)),
            recipe=self.size.finetuning,
            max_running=3,
            title=self.note,
            modality_map=self.modality_map,
            shuffled_labels=self.controls,
        )

    def _import_dataset(self, target: Target, directory: StateDirectory) -> DatasetManifest:
        with needs_extra("local", "importing a dataset"):
            from vfmalign.imaging.datasets.derived_class import add_volume_class, digest_files
            from vfmalign.imaging.datasets.importer import prepare_discovered
            from vfmalign.imaging.datasets.layouts.registry import read_source
            from vfmalign.imaging.datasets.layouts.sources import DicomOptions
            from vfmalign.imaging.datasets.preparation import ImportOptions, discover, select_cases
            from vfmalign.imaging.datasets.splits import split_group_counts

        # Ids derive from the files, in place of the machine's secret: they are the same on every machine that has the
        # files, and nobody else can derive them from names.
        chosen = ImportOptions(declaration=self.declaration, dicom=DicomOptions(self.selections))
        _, source = read_source(self.data, None, self.declaration, chosen.dicom)
        discovered = discover(self.data, self.dataset, digest_files(source), chosen)
        assigned = split_group_counts({case.group for case in discovered.cases}, self.size.counts, self.seed)
        discovered = select_cases(discovered, assigned)
        splits = {case.source.name: assigned[case.group] for case in discovered.cases}
        discovered = add_volume_class(discovered, self.declaration.labels[0], splits)
        options = ImportOptions(splits=splits)
        mapping = directory.private / "mapping.csv"
        checked = prepare_discovered(discovered, self.dataset, options, mapping_path=mapping)
        import_dataset(target, checked)
        return checked.dataset

    def _import_encoder(self, target: Target, model: str, file: Path) -> None:
        with needs_extra("local", "importing a model"):
            from vfmalign.models.formats.stack_checkpoint import FAMILIES
            from vfmalign.models.importer import InputDescription
            from vfmalign.models.importer import import_model as convert_model

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
