"""Import of foreign models in three forms: a checkpoint, a MONAI bundle, or an exported program.

Each form is converted to an architecture, a state dict and a preprocessing, which `cards` can publish.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vfmalign.core.domain.errors import BadOption, NotFound
from vfmalign.core.domain.models import PreprocessingSpec
from vfmalign.models.encoder import StateDict
from vfmalign.models.formats import exported_program
from vfmalign.models.formats.checkpoint import import_checkpoint
from vfmalign.models.formats.monai_bundle import read_bundle
from vfmalign.models.formats.program_archive import read_program
from vfmalign.models.registry import get_architecture

PROGRAM_SUFFIX = ".pt2"


@dataclass(frozen=True)
class ImportedModel:
    """A converted foreign model.

    Attributes:
        architecture: the card's architecture; `exported_program.ARCHITECTURE` for a program.
        state: the weights.
        preprocessing: the model's input; None for the architecture's own.
        report: what was read, dropped and initialised, and why.
    """

    architecture: str
    state: StateDict
    preprocessing: PreprocessingSpec | None
    report: str


@dataclass(frozen=True)
class InputDescription:
    """The user's description of the input, for models that do not describe it themselves."""

    modalities: tuple[str, ...]
    spacing_mm: tuple[float, float, float] | None
    shape_DHW: tuple[int, int, int] | None
    normalisation: str

    def preprocessing(self, shape_DHW: tuple[int, int, int] | None = None) -> PreprocessingSpec | None:
        """Build the preprocessing, with the size that the model states unless the user gives one.

        Returns:
            None if there is no size or no modality.

        Raises:
            BadOption: the description is not a valid preprocessing.
        """
        shape = self.shape_DHW or shape_DHW
        if shape is None or not self.modalities:
            return None
        try:
            return PreprocessingSpec.model_validate(
                {
                    "modalities": self.modalities,
                    "spacing_mm": self.spacing_mm,
                    "shape_DHW": shape,
                    "normalisation": self.normalisation,
                }
            )
        except ValueError as error:
            raise BadOption(
                "the description of the input is not valid",
                field="input",
                remedy="use the modalities t2w, dwi and adc, and zscore_nonzero or zscore_gland",
            ) from error


def import_model(
    paths: Sequence[Path], architecture: str, layers: Sequence[str], described: InputDescription, subject: str
) -> ImportedModel:
    """Read a foreign model.

    Args:
        paths: a checkpoint (or several, where the architecture joins networks), a bundle's folder, or a `.pt2` program.
        architecture: a name in the registry; for checkpoints only.
        layers: the layers of a bundle or program.
        described: the input of a bundle or program.
        subject: name of the model in errors: an id, never a local path.

    Raises:
        BadCheckpoint: the model cannot be read safely, or its weights do not fit.
        BadOption: the options do not belong to this form.
        NotFound: a file does not exist.
    """
    first = paths[0]
    if first.is_dir():
        _check_single(paths, architecture)
        return _import_bundle(first, layers, described, subject)
    if first.suffix == PROGRAM_SUFFIX:
        _check_single(paths, architecture)
        return _import_program(first, layers, described, subject)
    if layers or not architecture:
        raise BadOption(
            "a checkpoint contains only weights",
            field="architecture",
            remedy="name its architecture with --as; --layers belongs to MONAI bundles and exported programs",
        )
    imported = import_checkpoint([_read(path) for path in paths], get_architecture(architecture), subject=subject)
    return ImportedModel(architecture, imported.state, None, imported.report())


def _import_bundle(folder: Path, layers: Sequence[str], described: InputDescription, subject: str) -> ImportedModel:
    bundle = read_bundle(folder, layers, described.preprocessing(), subject)
    imported = import_checkpoint([bundle.weights], bundle.architecture, subject=subject)
    return ImportedModel(bundle.architecture.name, imported.state, bundle.architecture.preprocessing, imported.report())


def _import_program(path: Path, layers: Sequence[str], described: InputDescription, subject: str) -> ImportedModel:
    state = read_program(_read(path), layers, subject)
    program = exported_program.build_exported(state)
    preprocessing = described.preprocessing(program.shape_DHW)
    if preprocessing is None:
        raise BadOption(
            "a program does not describe its input", field="input", remedy="give --modalities and --spacing"
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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFound("the file does not exist", subject="checkpoint", remedy="check the path") from None
    except OSError as error:
        raise BadOption(
            f"the file cannot be read ({error.strerror})", field="checkpoint", remedy="check its permissions"
        ) from None
