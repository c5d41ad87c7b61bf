"""The whole stack, as in the end-to-end tests."""

from tests.e2e.conftest import undisturbed, world

__all__ = ["undisturbed", "world"]
