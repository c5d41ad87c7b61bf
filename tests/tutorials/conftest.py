"""Commands of the documentation, on local stacks of their own."""

from tests.documented_pages import environment

__all__ = ["environment"]
