"""A foreign model into what can be published, whatever its form: a checkpoint, a MONAI bundle or an exported program.

Knows the three forms by their files; knows nothing of storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vfmalign.core.domain.artifacts import Preprocessing
from vfmalign.core.domain.errors import BadOption, NotFound
from vfmalign.models.checkpoints import State
from vfmalign.models.formats import exported_program
from vfmalign.models.formats.checkpoint import import_checkpoint
from vfmalign.models.formats.monai_bundle import read_bundle
from vfmalign.models.formats.program_archive import read_program
from vfmalign.models.registry import get_architecture

PROGRAM_SUFFIX = ".pt2"


@dataclass(frozen=True)
class Import:
    """A foreign model, converted.

    Attributes:
        architecture: of the card; `exported.ARCHITECTURE` for a program.
        state: its weights.
        preprocessing: how it wants its input; None takes the architecture's own.
        report: what was read, dropped and set, and why that is right.
    """

    architecture: str
    state: State
    preprocessing: Preprocessing | None
    report: str


@dataclass(frozen=True)
class Input:
    """What a user says of the input of a model that does not say it itself."""

    modalities: tuple[str, ...]
    spacing_mm: tuple[float, float, float] | None
    shape_DHW: tuple[int, int, int] | None
    normalisation: str

    def preprocessing(self, shape_DHW: tuple[int, int, int] | None = None) -> Preprocessing | None:
        """The preprocessing, for a size that the model states; None where nobody states one."""
        shape = self.shape_DHW or shape_DHW
        if shape is None or not self.modalities:
            return None
        try:
            return Preprocessing.model_validate(
                {
                    "modalities": self.modalities,
                    "spacing_mm": self.spacing_mm,
                    "shape_DHW": shape,
                    "normalisation": self.normalisation,
                }
            )
        except ValueError as error:
            raise BadOption(
                "the input is not described as it must be",
                field="input",
                remedy="use the modalities t2w, dwi and adc, and zscore_nonzero or zscore_gland",
            ) from error


def import_model(
    paths: Sequence[Path], architecture: str, layers: Sequence[str], described: Input, subject: str
) -> Import:
    """Reads a foreign model.

    Args:
        paths: a checkpoint (or several, where the architecture joins networks), a bundle's folder, or a `.pt2` program.
        architecture: a name in the registry, for checkpoints alone.
        layers: the layers of a bundle or program.
        described: the input of a bundle or program.
        subject: how errors name the model: an id, never a local path.

    Raises:
        BadCheckpoint: it cannot be read safely, or does not fit.
        BadOption: the options do not belong to this form.
        NotFound: a file does not exist.
    """
    first = paths[0]
    if first.is_dir():
        _only(paths, architecture)
        bundle = read_bundle(first, layers, described.preprocessing(), subject)
        imported = import_checkpoint([bundle.weights], bundle.architecture, subject=subject)
        return Import(bundle.architecture.name, imported.state, bundle.architecture.preprocessing, imported.report())
    if first.suffix == PROGRAM_SUFFIX:
        _only(paths, architecture)
        state = read_program(_read(first), layers, subject)
        program = exported_program.build_exported(state)
        preprocessing = described.preprocessing(program.shape_DHW)
        if preprocessing is None:
            raise BadOption(
                "a program does not say what it sees", field="input", remedy="give --modalities and --spacing"
            )
        report = f"exported program: {len(state) - 1} tensors kept; its sample inputs were not read"
        return Import(exported_program.ARCHITECTURE, state, preprocessing, report)
    if layers or not architecture:
        raise BadOption(
            "a checkpoint holds weights alone",
            field="architecture",
            remedy="name its architecture with --as; --layers belongs to MONAI bundles and exported programs",
        )
    imported = import_checkpoint([_read(path) for path in paths], get_architecture(architecture), subject=subject)
    return Import(architecture, imported.state, None, imported.report())


def _only(paths: Sequence[Path], architecture: str) -> None:
    if architecture or len(paths) > 1:
        raise BadOption(
            "a bundle or program brings its own architecture, one at a time",
            field="architecture",
            remedy="leave --as out, and name its layers with --layers",
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFound("there is no such file", subject="checkpoint", remedy="check the path") from None
    except OSError as error:
        raise BadOption(f"the file cannot be read ({error.strerror})", field="checkpoint") from None
