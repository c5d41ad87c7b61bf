"""Interface between the training loop and a learner: loss, validation score and test scores.

Axes: N batch, C channels, D H W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from vfmalign.core.domain.errors import BadDataset
from vfmalign.core.domain.jobs import MetricSpec
from vfmalign.core.domain.patches import OVERLAP, Shape
from vfmalign.core.domain.scores import aggregate, get_truth
from vfmalign.models.encoder import Encoder
from vfmalign.training.data import Batch, PreparedCase, collate, list_patches
from vfmalign.training.figures import Panel
from vfmalign.training.process_group import Forward
from vfmalign.training.tasks.task import TrainableTask

EVALUATION_BATCH = 2


class Learner(Protocol):
    """A trainable network together with its objective."""

    @property
    def network(self) -> nn.Module:
        """The network with all trained parameters, including those of the encoder."""

    @property
    def encoder(self) -> Encoder | None:
        """The encoder to publish; None if the network has no encoder."""

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        """The metrics. The first metric selects the checkpoint."""

    def loss(self, batch: Batch, draw: torch.Generator, forward: Forward) -> Tensor:
        """The loss of one step.

        Args:
            batch: the step's batch.
            draw: the only source of randomness.
            forward: the network, possibly distributed over processes.
        """

    def validate(self, cases: Sequence[PreparedCase], check: Callable[[], None]) -> float:
        """The metric that selects the checkpoint, on the validation cases.

        `check` is called between cases and raises an error to stop.
        """

    def score(self, cases: Sequence[PreparedCase], check: Callable[[], None]) -> list[dict[str, float | None]]:
        """Scores every test case with every metric, in the order of the cases."""

    def panels(self, case: PreparedCase) -> list[Panel]:
        """Images of one case; empty if the objective defines no images."""


@dataclass
class FineTuning:
    """A network for a supervised task.

    Attributes:
        task: loss and metrics.
        network: network from the input to the task's output.
        encoder: the VFM in the network; None if the network has no VFM.
        device: device of the network.
        patch_DHW: size of the patches that the network reads; None for whole inputs.
    """

    task: TrainableTask
    network: nn.Module
    encoder: Encoder | None
    device: torch.device
    patch_DHW: Shape | None = None

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        """The task's metrics."""
        return self.task.spec.metrics

    def loss(self, batch: Batch, draw: torch.Generator, forward: Forward) -> Tensor:
        """The task's loss."""
        return self.task.loss(forward(batch.input_NCDHW, batch.slices_N2), batch)

    def validate(self, cases: Sequence[PreparedCase], check: Callable[[], None]) -> float:
        """The primary metric over the cases for which it is defined."""
        outputs = zip(self._predict(cases, check), cases, strict=True)
        values = [self.task.primary(output, case) for output, case in outputs]
        metric = self.metrics[0]
        value = aggregate(metric, values, [get_truth(metric, case.positive, case.truth) for case in cases])
        if value is None:
            needs = metric.empty_mask or "it needs cases of both classes"
            raise BadDataset(
                f"the validation cases have no value of {metric.name}",
                subject="val",
                remedy=f"put cases into `val` for which the metric is defined ({needs})",
            )
        return value

    def score(self, cases: Sequence[PreparedCase], check: Callable[[], None]) -> list[dict[str, float | None]]:
        """Every metric of every case."""
        outputs = zip(self._predict(cases, check), cases, strict=True)
        return [self.task.score(output, case) for output, case in outputs]

    def panels(self, case: PreparedCase) -> list[Panel]:
        """Input, reference and prediction."""
        (output_CDHW,) = self._predict([case], lambda: None)
        return self.task.panels(output_CDHW, case)

    def _predict(self, cases: Sequence[PreparedCase], check: Callable[[], None]) -> Iterator[Tensor]:
        of_case = self.task.outputs > 0
        return predictions(self.network, cases, self.device, check, self.patch_DHW, of_case=of_case)


def predictions(
    network: nn.Module,
    cases: Sequence[PreparedCase],
    device: torch.device,
    check: Callable[[], None],
    patch_DHW: Shape | None = None,
    *,
    of_case: bool = False,
) -> Iterator[Tensor]:
    """Yields the output of each case, in the order of `cases`, on the CPU and without axis N.

    Calls `check` for each batch.

    Args:
        network: the network.
        cases: its inputs.
        device: device of the network.
        check: raises an error to stop.
        patch_DHW: size of the patches that the network reads; None for whole inputs. An output is then a mean over
            patches that overlap by `patches.OVERLAP`. For voxels, the mean is weighted by a Gaussian around the centre
            of a patch, as in nnU-Net. For values of a case, it has the weights of `patches.weigh_patches`.
        of_case: whether the network returns values of a case instead of voxels.
    """
    network.eval()
    if patch_DHW is not None:
        predict = _predict_case if of_case else _predict_voxels
        yield from (predict(network, case, device, check, patch_DHW) for case in cases)
        return
    for batch, indices in evaluation_batches(cases, device, check):
        with torch.no_grad():
            output_N = network(batch.input_NCDHW, batch.slices_N2).cpu()
        yield from output_N[: indices.stop - indices.start]


def _predict_voxels(
    network: nn.Module, case: PreparedCase, device: torch.device, check: Callable[[], None], patch_DHW: Shape
) -> Tensor:
    from monai.inferers.utils import sliding_window_inference  # here, because its import takes seconds

    batch = collate([case], device)

    def predict(input_NCDHW: Tensor, regions: Sequence[Sequence[slice]]) -> Tensor:
        check()
        slices_N2 = batch.slices_N2.repeat(len(regions), 1)
        slices_N2[:, 0] += torch.tensor([region[2].start for region in regions], device=device)
        return cast(Tensor, network(input_NCDHW.contiguous(memory_format=torch.channels_last_3d), slices_N2))

    with torch.no_grad():
        output_NCDHW = sliding_window_inference(
            batch.input_NCDHW, patch_DHW, EVALUATION_BATCH, predict, OVERLAP, "gaussian", with_coord=True
        )
    return cast(Tensor, output_NCDHW)[0].cpu()


def _predict_case(
    network: nn.Module, case: PreparedCase, device: torch.device, check: Callable[[], None], patch_DHW: Shape
) -> Tensor:
    patches = list_patches(case, patch_DHW)
    output_PK = torch.stack(list(predictions(network, [patch for patch, _ in patches], device, check)))
    weight_P = torch.tensor([weight for _, weight in patches])
    return weight_P @ output_PK / weight_P.sum()


def evaluation_batches(
    cases: Sequence[PreparedCase], device: torch.device, check: Callable[[], None]
) -> Iterator[tuple[Batch, slice]]:
    """Yields batches in the order of `cases`, each with its slice of `cases`. Calls `check` before each batch."""
    for start in range(0, len(cases), EVALUATION_BATCH):
        check()
        members = list(cases[start : start + EVALUATION_BATCH])
        # On a CPU, torch runs a batch of one through a kernel ten times slower than oneDNN's. A single case is doubled.
        batch = collate(members * 2 if len(members) == 1 and device.type == "cpu" else members, device)
        yield batch, slice(start, start + len(members))
