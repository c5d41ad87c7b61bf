"""Fixtures: cells and reports of experiments."""

from tests.experiment_cells import labels, large, make_cells, missing, pages, small, with_numbers  # noqa: F401 - fixtures
