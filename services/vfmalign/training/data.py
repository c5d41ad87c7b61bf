"""Cases as tensors in memory, and the seeded order in which they are drawn.

No random state is kept. Every draw has its own generator. The job's seed, the purpose and the number of the draw seed
this generator. A resumed job therefore sees the same batches as an uninterrupted job.

Axes: N batch, C channels, D H W depth, height, width (z, y, x).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vfmalign.core.domain.datasets import Case
from vfmalign.core.domain.declarations import LabelMap, Modality, VolumeKind
from vfmalign.core.domain.errors import BadDataset, DigestMismatch, NotFound
from vfmalign.core.domain.metrics import list_structures
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.domain.patches import Extent, Shape, weigh_patches
from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.field_of_view import WholeLabels, mask_structure, measure_field_of_view
from vfmalign.imaging.normalisation import Scale
from vfmalign.imaging.preprocessing import needed_kinds, prepare_study
from vfmalign.imaging.volumes import Volume, load_case

FOCUS_SHARE = 0.5
"""For segmentation: share of the patches that are centred on the structure drawn last. Uniformly drawn patches rarely
contain a small structure.
"""


@dataclass(frozen=True)
class PreparedCase:
    """One case, ready for a network.

    Attributes:
        case: the case's id.
        group: the patient's generated id.
        input_CDHW: float32, after the task's input transform.
        clean_CDHW: float32, before this transform, in the input's scale (see `imaging.preprocessing.PreparedStudy`).
        labels: label maps of the task by id, (D, H, W) uint8; 0 outside.
        spacing_mm: along D, H, W.
        modalities: names of the channels.
        scale: scale that relates the input to its signal.
        label_max: highest value of each whole label map, including values outside the crop.
        classes, grades, numbers: see `core.domain.datasets.Case`.
        slices: first slice and number of slices; see `PreparedStudy`. None for a whole volume without padding.
        image: see `PreparedStudy`; None for an input without padding.
        positive: whether the case belongs to the task's class, or reaches the task's grade; None for other tasks.
        truth: grade or number that the task predicts; None for other tasks.
        focus_DHW: bool, voxels on which patches may be centred (`FOCUS_SHARE`); None if there are no such voxels.
        inside: maps the name of each structure of the task to the share of the structure inside the field of view.
        whole: label maps that extend beyond the field of view, for scoring segmentations; None if the field of view
            contains all structures.
    """

    case: str
    group: str
    input_CDHW: Tensor
    clean_CDHW: Tensor
    labels: Mapping[VolumeKind, Tensor]
    spacing_mm: tuple[float, float, float]
    modalities: tuple[Modality, ...]
    scale: Scale | None = None
    label_max: Mapping[VolumeKind, int] = field(default_factory=dict)
    classes: Mapping[VolumeKind, bool] = field(default_factory=dict)
    grades: Mapping[VolumeKind, int] = field(default_factory=dict)
    numbers: Mapping[VolumeKind, float] = field(default_factory=dict)
    slices: tuple[int, int] | None = None
    image: Extent | None = None
    positive: bool | None = None
    truth: float | None = None
    focus_DHW: Tensor | None = None
    inside: Mapping[VolumeKind, float] = field(default_factory=dict)
    whole: WholeLabels | None = None

    @property
    def balanced_class(self) -> int | None:
        """Class or grade, of which batches have equally many cases; None if the task has neither."""
        return None if self.positive is None else int(self.positive if self.truth is None else self.truth)


@dataclass(frozen=True)
class Batch:
    """Cases or patches of one training step, stacked on the device. The fields are those of `PreparedCase`.

    `positive_N` and `truth_N` are float64, which holds every number that a case may state.
    """

    input_NCDHW: Tensor
    clean_NCDHW: Tensor
    labels: Mapping[VolumeKind, Tensor]
    positive_N: Tensor | None
    truth_N: Tensor | None
    modalities: tuple[Modality, ...]
    slices_N2: Tensor


def derive_seed(seed: int, purpose: str, number: int = 0) -> int:
    """Derives a seed for one purpose and draw. The seed is independent of all other seeds."""
    # The purposes are part of every stored result: renaming one would change all batches of existing seeds.
    digest = hashlib.sha256(f"{seed}/{purpose}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, number: int = 0) -> torch.Generator:
    """Random generator on the CPU for one draw."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, number))


def load_cases(
    store: ObjectStore,
    cases: Sequence[Case],
    *,
    task: TaskSpec | None,
    preprocessing: Preprocessing,
    workers: int,
    check: Callable[[], None],
) -> list[PreparedCase]:
    """Reads, verifies and prepares cases in parallel. All cases stay in memory.

    Args:
        store: the deployment's object storage.
        cases: cases to read. A case that appears twice is read only once.
        task: the task, which determines label maps and input transform; None for pretraining.
        preprocessing: the encoder's input.
        workers: number of cases to read and prepare concurrently.
        check: called between cases. The function raises an error to stop the reading.

    Returns:
        The prepared cases, in the order of `cases`.

    Raises:
        BadDataset: a volume is missing, or differs from the volume in the dataset.
        BadVolume: a volume cannot be used.
    """
    unique = {case.id: case for case in cases}
    with ThreadPoolExecutor(workers, thread_name_prefix="load") as pool:
        futures = {case.id: pool.submit(_load_case, store, case, task, preprocessing) for case in unique.values()}
        try:
            prepared = {}
            for case_id, future in futures.items():
                check()
                prepared[case_id] = future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [prepared[case.id] for case in cases]


def _load_case(store: ObjectStore, case: Case, task: TaskSpec | None, preprocessing: Preprocessing) -> PreparedCase:
    labels = task.labels if task is not None else ()
    try:
        volumes = load_case(store, case, needed_kinds(preprocessing), [label.name for label in labels])
    except (NotFound, DigestMismatch) as error:
        raise BadDataset(error.message, subject=error.subject, remedy=error.remedy, reason=error.reason) from error
    return prepare_case(volumes, case, task, preprocessing)


def prepare_case(
    volumes: Mapping[VolumeKind, Volume], case: Case, task: TaskSpec | None, preprocessing: Preprocessing
) -> PreparedCase:
    """Prepares the volumes of a case. Raises the errors of `load_cases`."""
    labels = task.labels if task is not None else ()
    for label in labels:
        _check_values(volumes[label.name], label, case.id)
    transform = task.input_transform if task is not None else "identity"
    subject = f"case {case.id}"
    # Cut structures are refused for all cases together, in `job`.
    prepared = prepare_study(volumes, preprocessing, transform, subject=subject, labels=labels, allow_cut=True)
    structures = task.structures if task is not None else ()
    view = measure_field_of_view(volumes, preprocessing, structures or list_structures(labels), subject)
    return PreparedCase(
        case=case.id,
        group=case.group,
        input_CDHW=prepared.input_CDHW,
        clean_CDHW=prepared.clean_CDHW,
        labels=prepared.labels,
        spacing_mm=prepared.spacing_mm,
        modalities=preprocessing.modalities,
        scale=prepared.scale,
        label_max=prepared.label_max,
        classes=case.classes,
        grades=case.grades,
        numbers=case.numbers,
        slices=prepared.slices,
        image=prepared.image,
        focus_DHW=mask_structure(structures[-1], prepared.labels) if structures else None,
        inside=view.inside,
        whole=view.whole if structures else None,
    )


def shuffle_targets(cases: Sequence[PreparedCase], seed: int) -> list[PreparedCase]:
    """Gives each case the targets of another case: reference volume, label maps, class, grade and number.

    The inputs are not exchanged.

    The targets are permuted in one cycle through all cases, in random order. No case therefore keeps its own targets.
    """
    order = torch.randperm(len(cases), generator=generator(seed, "shuffled labels")).tolist()
    sources = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return [
        replace(
            case,
            clean_CDHW=(source := cases[sources[place]]).clean_CDHW,
            labels=source.labels,
            label_max=source.label_max,
            classes=source.classes,
            grades=source.grades,
            numbers=source.numbers,
            positive=source.positive,
            truth=source.truth,
            focus_DHW=source.focus_DHW,
            whole=source.whole,
        )
        for place, case in enumerate(cases)
    ]


def _check_values(volume: Volume, label: LabelMap, case: str) -> None:
    if len(label.structures) == 1:  # a mask, with any values
        return
    if undeclared := volume.list_values() - set(label.values):
        raise BadDataset(
            f"the label map {label.name} holds {min(undeclared)}, which the dataset does not declare",
            subject=f"case {case}",
            remedy="declare a structure for this value, and import the dataset again",
        )


def draw_batch(
    cases: Sequence[PreparedCase],
    *,
    step: int,
    batch_size: int,
    patch_shape_dhw: tuple[int, int, int] | None,
    seed: int,
    device: torch.device,
) -> Batch:
    """Draws the batch of one step.

    Takes cases from a seeded shuffle, cuts patches, and swaps left and right with probability 0.5.

    Args:
        cases: the split to draw from. If the task has a class or a grade, cases of all classes or grades are drawn
            equally often.
        step: number of the step in the whole job, from 0.
        batch_size: number of cases. A batch contains a case twice only if `cases` has fewer cases than the batch size.
        patch_shape_dhw: size of the patches; None for whole volumes.
        seed: the job's seed.
        device: device of the batch.
    """
    drawn = []
    classes = [case.balanced_class for case in cases if case.balanced_class is not None]
    if classes:
        indices = balanced_indices(classes, batch_size, step, seed)
    else:
        indices = batch_indices(len(cases), batch_size, step, seed)
    for place, index in enumerate(indices):
        draw = generator(seed, "augment", step * batch_size + place)
        drawn.append(_augment(cases[index], patch_shape_dhw, draw))
    return collate(drawn, device)


def batch_indices(n_cases: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Returns the indices of one step's cases.

    Each shuffle is divided into whole batches. The remaining cases of a shuffle are not used.
    """
    rounds = -(-batch_size // n_cases)  # number of shuffles for one batch
    per_round = max(1, n_cases // batch_size)
    number, place = divmod(step, per_round)
    shuffle: list[int] = []
    for repeat in range(rounds):
        draw = generator(seed, "order", number * rounds + repeat)
        shuffle += torch.randperm(n_cases, generator=draw).tolist()
    return shuffle[place * batch_size : (place + 1) * batch_size]


def balanced_indices(classes: Sequence[int], batch_size: int, step: int, seed: int) -> list[int]:
    """Returns the indices of one step's cases. The classes alternate, and each has its own seeded shuffles."""
    members = [[i for i, own in enumerate(classes) if own == one] for one in sorted(set(classes))]
    indices = []
    for number in range(step * batch_size, (step + 1) * batch_size):
        count, one = divmod(number, len(members))
        shuffle, place = divmod(count, len(members[one]))
        draw = generator(seed, f"order of class {one}", shuffle)
        indices.append(members[one][int(torch.randperm(len(members[one]), generator=draw)[place])])
    return indices


def collate(cases: Sequence[PreparedCase], device: torch.device) -> Batch:
    """Stacks cases of equal shape into a batch on the device."""
    return Batch(
        input_NCDHW=_stack([case.input_CDHW for case in cases], device),
        clean_NCDHW=_stack([case.clean_CDHW for case in cases], device),
        labels={name: torch.stack([case.labels[name] for case in cases]).to(device) for name in cases[0].labels},
        positive_N=_stack_values([case.positive for case in cases], device),
        truth_N=_stack_values([case.truth for case in cases], device),
        modalities=cases[0].modalities,
        slices_N2=torch.tensor([case.slices or (0, case.input_CDHW.shape[1]) for case in cases], device=device),
    )


def list_patches(case: PreparedCase, patch_DHW: Shape) -> list[tuple[PreparedCase, float]]:
    """Cuts a case into the patches of its image; returns each patch with its weight (see `patches.weigh_patches`)."""
    depth, height, width = case.input_CDHW.shape[1:]
    image = case.image or ((0, depth), (0, height), (0, width))
    return [
        (_cut(case, tuple(slice(first, first + side) for first, side in zip(start, patch_DHW, strict=True))), weight)
        for start, weight in weigh_patches((depth, height, width), patch_DHW, image)
    ]


def _augment(case: PreparedCase, patch_shape_dhw: tuple[int, int, int] | None, draw: torch.Generator) -> PreparedCase:
    region: tuple[slice, ...] = (slice(None),) * 3
    if patch_shape_dhw is not None:
        region = _patch(case, patch_shape_dhw, draw)
    # Only left to right, since bodies are nearly symmetric in no other direction. All maps are flipped together.
    return _cut(case, region, flip=bool(torch.rand((), generator=draw) < 0.5))


def _cut(case: PreparedCase, region: Sequence[slice], *, flip: bool = False) -> PreparedCase:
    def cut(tensor: Tensor) -> Tensor:
        piece = tensor[..., region[0], region[1], region[2]]
        return piece.flip(-1) if flip else piece

    first, count = case.slices or (0, case.input_CDHW.shape[1])
    return replace(
        case,
        slices=(first + (region[0].start or 0), count),
        input_CDHW=cut(case.input_CDHW),
        clean_CDHW=cut(case.clean_CDHW),
        labels={name: cut(label_DHW) for name, label_DHW in case.labels.items()},
        focus_DHW=None,
    )


def _patch(case: PreparedCase, shape_DHW: tuple[int, int, int], draw: torch.Generator) -> tuple[slice, slice, slice]:
    margins = [size - side for size, side in zip(case.input_CDHW.shape[1:], shape_DHW, strict=True)]
    starts = [int(torch.randint(0, margin + 1, (), generator=draw)) for margin in margins]
    on_focus = bool(torch.rand((), generator=draw) < FOCUS_SHARE)
    if on_focus and case.focus_DHW is not None and bool(case.focus_DHW.any()):
        voxels_N3 = case.focus_DHW.nonzero()
        centre = voxels_N3[int(torch.randint(0, len(voxels_N3), (), generator=draw))].tolist()
        starts = [
            min(max(0, c - side // 2), margin) for c, side, margin in zip(centre, shape_DHW, margins, strict=True)
        ]
    d, h, w = (slice(start, start + side) for start, side in zip(starts, shape_DHW, strict=True))
    return d, h, w


def _stack(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    return torch.stack(list(tensors)).to(device).contiguous(memory_format=torch.channels_last_3d)


def _stack_values(values: Sequence[float | None], device: torch.device) -> Tensor | None:
    present = [float(value) for value in values if value is not None]
    return torch.tensor(present, dtype=torch.float64, device=device) if present else None
