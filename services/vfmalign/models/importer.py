"""Import of foreign models: checkpoints, public encoders, convolution stacks, MONAI bundles, or exported programs.

The import converts each form to an architecture, a state dict and a preprocessing. `cards` can publish these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, get_args

from pydantic import ValidationError

from vfmalign.client.messages.base import to_bad_option
from vfmalign.core.domain.errors import BadOption, NotFound
from vfmalign.core.domain.models import Normalisation, Preprocessing, TensorCounts
from vfmalign.core.formats.untrusted import describe_failure, open_regular_file
from vfmalign.models.encoder import StateDict
from vfmalign.models.formats import exported_program, stack_checkpoint
from vfmalign.models.formats.checkpoint import ConvertedCheckpoint, import_checkpoint, read_tensors
from vfmalign.models.formats.families import FAMILIES
from vfmalign.models.formats.family_import import import_family
from vfmalign.models.formats.monai_bundle import read_bundle
from vfmalign.models.formats.program_archive import read_program
from vfmalign.models.registry import get_architecture
from vfmalign.models.weights import MAX_WEIGHTS_BYTES

PROGRAM_SUFFIX = ".pt2"
NORMALISATIONS: tuple[str, ...] = get_args(Normalisation)


@dataclass(frozen=True)
class ImportedModel:
    """Foreign model after its conversion.

    Attributes:
        architecture: architecture for the model card; `exported_program.ARCHITECTURE` for a program.
        state: weights of the model.
        preprocessing: input of the model; None to use the default input of the architecture.
        report: text that tells which tensors were read, dropped or initialised, and why.
        tensors: numbers of these tensors; None for a program.
    """

    architecture: str
    state: StateDict
    preprocessing: Preprocessing | None
    report: str
    tensors: TensorCounts | None = None

    @classmethod
    def of(
        cls, architecture: str, imported: ConvertedCheckpoint, preprocessing: Preprocessing | None, reason: str = ""
    ) -> Self:
        """Returns the model of a converted checkpoint. The reason precedes the report."""
        report = f"{reason}; {imported.report()}" if reason else imported.report()
        return cls(architecture, imported.state, preprocessing, report, imported.count_tensors())


@dataclass(frozen=True)
class InputDescription:
    """The user's description of the input, for models that do not contain such a description.

    Attributes:
        normalisation: name of the normalisation; empty for the default of this form of model.
        quantiles: quantiles of the normalisation `quantile_range`; None for the default quantiles.
        window: lower and upper bound of the normalisation `window` in HU; None for other normalisations.
        reference: modality that defines the grid of the input; empty for the default.
        patch_shape_dhw: size of the patches in which the network reads the input; None for the whole input.
    """

    modalities: tuple[str, ...] = ()
    spacing_mm: tuple[float, float, float] | None = None
    shape_dhw: tuple[int, int, int] | None = None
    normalisation: str = ""
    quantiles: tuple[float, float] | None = None
    window: tuple[float, float] | None = None
    reference: str = ""
    patch_shape_dhw: tuple[int, int, int] | None = None

    def preprocessing(self, shape_dhw: tuple[int, int, int] | None = None) -> Preprocessing | None:
        """Builds the preprocessing. If the user sets no size, uses the size that the model declares.

        Returns:
            Returns None if there is no size or no modality.

        Raises:
            BadOption: the description is not a valid preprocessing.
        """
        content = {"shape_dhw": shape_dhw} | self._list_given()
        return _validate_input(content) if content["shape_dhw"] and self.modalities else None

    def adjust(self, default: Preprocessing) -> Preprocessing:
        """Builds the preprocessing from a default and the user's changes. Raises the errors of `preprocessing`."""
        # These defaults follow from the modalities and the normalisation.
        follow = {"reference"} if self.modalities else set()
        follow |= {"quantiles", "window"} if self.normalisation else set()
        kept = default.model_dump(exclude=follow)
        return _validate_input(kept | self._list_given())

    def _list_given(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if value}


def _validate_input(content: Mapping[str, object]) -> Preprocessing:
    try:
        return Preprocessing.model_validate(content)
    except ValidationError as error:
        problem = to_bad_option(error)
        where = f"{problem.field}: " if problem.field else ""
        raise BadOption(
            f"the description of the input is not valid: {where}{problem.message}",
            field="input",
            remedy=problem.remedy
            or f"name each modality once, as a lower-case id such as t1w, and one of {', '.join(NORMALISATIONS)}",
        ) from error


def import_model(
    paths: Sequence[Path],
    architecture: str,
    layers: Sequence[str],
    described: InputDescription,
    subject: str,
    *,
    description: Path | None = None,
) -> ImportedModel:
    """Reads a foreign model.

    Args:
        paths: paths of a checkpoint (several if the architecture joins networks), a bundle's folder or a `.pt2`
            program.
        architecture: for checkpoints only: a name in the registry, a family of public encoders or stacks, or
            `dilated_stack`; empty to recognise a public encoder.
        layers: layers to compare, for a bundle or program.
        described: description of the input, for a bundle, program or stack.
        subject: name of the model in errors: an id, never a local path.
        description: path of a JSON file that describes the layers of a `dilated_stack`.

    Raises:
        BadCheckpoint: the model cannot be read safely, or its weights do not fit.
        BadOption: an option does not apply to this form of model.
        NotFound: a file does not exist.
    """
    first = paths[0]
    if (description is None) == (architecture == stack_checkpoint.FAMILY):
        raise BadOption(
            "a stack of convolutions needs a description of its layers, and no other model may have one",
            field="description",
            remedy=f"give --as {stack_checkpoint.FAMILY} together with --description FILE",
        )
    if architecture == stack_checkpoint.FAMILY or architecture in stack_checkpoint.FAMILIES:
        _check_stack_options(paths, layers)
        return _import_stack(paths[0], architecture, described, subject, description)
    if first.is_dir():
        _check_single(paths, architecture)
        return _import_bundle(first, layers, described, subject)
    if first.suffix == PROGRAM_SUFFIX:
        _check_single(paths, architecture)
        return _import_program(first, layers, described, subject)
    for path in paths:
        _open(path).close()
    if architecture in FAMILIES or not architecture:
        _check_family_options(paths, layers)
        family = import_family(first, architecture, described.adjust, get_architecture, subject)
        reason = f"recognised as {family.name}: {family.reason}" if not architecture else ""
        return ImportedModel.of(family.architecture.name, family.checkpoint, family.input, reason)
    if layers:
        raise BadOption(
            "a checkpoint contains only weights",
            field="layers",
            remedy="leave out --layers, which belongs to MONAI bundles and exported programs",
        )
    imported = import_checkpoint(paths, get_architecture(architecture), subject=subject)
    return ImportedModel.of(architecture, imported, None)


def _check_family_options(paths: Sequence[Path], layers: Sequence[str]) -> None:
    if layers or len(paths) > 1:
        raise BadOption(
            "the layers of a public encoder follow from its family, and its weights are in one file",
            field="layers",
            remedy="leave out --layers and further files, or name an architecture with --as",
        )


def _check_stack_options(paths: Sequence[Path], layers: Sequence[str]) -> None:
    if layers or len(paths) > 1:
        raise BadOption(
            "the layers of a stack follow from its description, and its weights are in one file",
            field="layers",
            remedy="leave out --layers and further files",
        )


def _import_stack(
    path: Path, family: str, described: InputDescription, subject: str, description: Path | None
) -> ImportedModel:
    _open(path).close()
    if description is not None:
        stack = stack_checkpoint.read_description(description, described.adjust)
    else:
        tensors, _ = read_tensors(path, subject)
        preprocessing = described.adjust(stack_checkpoint.DEFAULT_INPUT)
        stack = stack_checkpoint.describe_checkpoint(family, tensors, preprocessing, subject)
    architecture = get_architecture(stack_checkpoint.encode_stack_name(stack))
    imported = import_checkpoint([path], architecture, subject=subject)
    return ImportedModel.of(architecture.name, imported, stack.input)


def _import_bundle(folder: Path, layers: Sequence[str], described: InputDescription, subject: str) -> ImportedModel:
    bundle = read_bundle(folder, layers, described.preprocessing(), subject)
    imported = import_checkpoint([bundle.weights], bundle.architecture, subject=subject)
    return ImportedModel.of(bundle.architecture.name, imported, bundle.architecture.preprocessing)


def _import_program(path: Path, layers: Sequence[str], described: InputDescription, subject: str) -> ImportedModel:
    with _open(path) as file:
        state = read_program(file.read(), layers, subject)
    program = exported_program.build_exported(state, subject)
    preprocessing = described.preprocessing(program.shape_DHW)
    if preprocessing is None:
        raise BadOption(
            "a program does not describe its input",
            field="input",
            remedy="set input.modalities and input.spacing_mm by --set",
        )
    report = f"exported program: {len(state) - 1} tensors kept; its sample inputs were not read"
    return ImportedModel(exported_program.ARCHITECTURE, state, preprocessing, report)


def _check_single(paths: Sequence[Path], architecture: str) -> None:
    if architecture or len(paths) > 1:
        raise BadOption(
            "a bundle or program brings its own architecture and is imported alone",
            field="architecture",
            remedy="leave out --as and further files, and name the layers with --layers",
        )


def _open(path: Path) -> BinaryIO:
    """Opens a file of weights. Readers then map it: nothing else but a regular file may be mapped."""
    try:
        return open_regular_file(path, MAX_WEIGHTS_BYTES)
    except FileNotFoundError:
        raise NotFound(
            f"the file {str(path)!r} does not exist", subject="checkpoint", remedy="check the path"
        ) from None
    except OSError as error:
        raise BadOption(
            f"the file cannot be read: {describe_failure(error)}",
            field="checkpoint",
            remedy="name a file of weights that this account may read",
        ) from None
