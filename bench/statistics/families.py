"""Level of the test across models where some models are related, as two sizes of one architecture are.

The test permutes models as if any order were as likely as any other. Related models violate this condition: their
shifts are alike, and so are their gains. Axes: N models, S tasks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.statistics.simulations import LEVEL, map_seeds
from bench.statistics.size import binomial_range
from bench.tables import Section, Table
from vfmalign.analysis.experiments.joint_permutations import JointPermutations, run_test

FAMILIES: dict[str, tuple[int, ...]] = {"1+1+1+1+1+1": (0, 1, 2, 3, 4, 5), "2+2+1+1": (0, 0, 1, 1, 2, 3),
                                        "3+2+1": (0, 0, 0, 1, 1, 2)}  # fmt: skip
"""Family of each of six models, by the families' sizes."""
SHARES = (0.3, 0.5, 0.8, 0.95, 1.0)
EFFECT = 0.5
TASKS = 5

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RelatedModels:
    """Six models in five tasks, whose shift and gain are unrelated.

    Attributes:
        families: name of the families' sizes.
        share: share of what distinguishes a model that is its family's, in the model's effect and in every task.
    """

    families: str
    share: float

    def draw(self, rng: np.random.Generator) -> Array:
        """Draws one number of every model in every task."""
        family_N = np.array(FAMILIES[self.families])

        def draw_related(tasks: int) -> Array:
            shared = rng.standard_normal((family_N.max() + 1, tasks))[family_N]
            own = rng.standard_normal((len(family_N), tasks))
            return np.asarray(np.sqrt(self.share) * shared + np.sqrt(1.0 - self.share) * own)

        return np.asarray(np.sqrt(EFFECT) * draw_related(1) + np.sqrt(1.0 - EFFECT) * draw_related(TASKS))


def simulate_families(simulations: int, seed: int, processes: int) -> Section:
    """Counts how often the test across models rejects.

    Args:
        simulations: simulated experiments per cell of the table.
        seed: of the first experiment; the others follow.
        processes: to share the experiments among.
    """
    populations = [RelatedModels(name, share) for name, share in itertools.product(FAMILIES, SHARES)]
    outcomes = map_seeds(reject_all, populations, range(seed, seed + simulations), processes)
    rejected = dict(zip(populations, np.array(outcomes).sum(axis=0).tolist(), strict=True))
    section = Section("families", f"Level of the test across models at {LEVEL:.0%} where models are related")
    most = binomial_range(simulations, LEVEL)[1]
    rows = []
    for name in FAMILIES:
        counts = [rejected[RelatedModels(name, share)] for share in SHARES]
        texts = [f"{count / simulations:.1%}" for count in counts]
        rows.append(
            (name, *(f"**{text}**" if count > most else text for text, count in zip(texts, counts, strict=True)))
        )
        section.records += [
            {"families": name, "share": share, "simulations": simulations, "rejected": count}
            for share, count in zip(SHARES, counts, strict=True)
        ]
    section.tables.append(Table("", ("families", *(f"share {share:g}" for share in SHARES)), rows))
    section.sentences.append(
        f"{simulations} experiments per cell, of {len(FAMILIES['3+2+1'])} models and {TASKS} tasks. Share: what a "
        f"family's models have in common. Bold: more than {most / simulations:.2%}, the upper end of the 99.9 % "
        "binomial range."
    )
    return section


def reject_all(populations: Sequence[RelatedModels], seed: int) -> list[bool]:
    """Draws every population once, and tests whether shift and gain are related."""
    rejected = []
    for row, population in enumerate(populations):
        rng = np.random.default_rng([seed, row])
        orders = JointPermutations.create(len(FAMILIES[population.families]), seed=0)
        p = run_test(population.draw(rng), population.draw(rng), orders, sign=-1).p_two_sided
        rejected.append(p <= LEVEL + 1e-12)
    return rejected
