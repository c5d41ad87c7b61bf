"""Fixtures: reports of checks, and cells and reports of experiments."""

from tests.check_reports import drawings, make_png, make_report, make_seeds_report  # noqa: F401 - fixtures
from tests.experiment_cells import labels, large, make_cells, missing, pages, small, with_numbers  # noqa: F401 - fixtures
