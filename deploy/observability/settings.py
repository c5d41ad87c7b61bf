"""Settings of the generator, from `settings.yaml`."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, Field

FASTEST_BURN = 14.4
"""Multiple of the allowed rate of errors at which a page fires: its threshold must be below 1."""
FASTEST_TICKET = 3


class Objective(BaseModel, frozen=True, extra="forbid"):
    """The share of the events of one kind that must be good.

    Attributes:
        service: the service that the objective is about.
        objective: share of good events.
        threshold_s: seconds above which an event is bad; None if the outcome of an event decides.
        pages: whether a fast burn pages somebody.
        page_events: fewest bad events, within the longer window of an alert, for which somebody is paged. One call that
            fails is a large share of a few calls at night.
    """

    service: str
    objective: float = Field(ge=0.5, lt=1)
    threshold_s: float | None = None
    pages: bool = True
    page_events: int = Field(default=10, ge=1)

    @property
    def budget(self) -> float:
        """Returns the share of bad events that the objective allows."""
        return round(1 - self.objective, 12)


class Settings(BaseModel, frozen=True, extra="forbid"):
    """All settings.

    Attributes:
        docs: address of the folder docs/, to which panels link.
        period_days: days over which objectives hold; longer than the windows of the alerts.
        objectives: by name.
    """

    docs: str
    period_days: int = Field(ge=7, le=366)
    objectives: dict[str, Objective]


def load(text: str) -> Settings:
    """Returns checked settings.

    Raises:
        ValueError: an objective is so low that its alerts never fire, or another setting is wrong.
    """
    settings = Settings.model_validate(yaml.safe_load(text))
    for name, one in settings.objectives.items():
        fastest = FASTEST_BURN if one.pages else FASTEST_TICKET
        if fastest * one.budget >= 1:
            raise ValueError(
                f"{name}: with the objective {one.objective}, an alert at {fastest} times its rate never fires. "
                f"Set an objective above {1 - 1 / fastest:.3f}, or `pages: false`."
            )
    return settings


SETTINGS = load(Path(__file__).with_name("settings.yaml").read_text())
