"""The comparison of the repository's size with its ceilings."""

from __future__ import annotations

from tests.budget import compare, count_code_lines

SOURCE = '''"""A module."""

import os  # counts


class Record:
    """What it holds.

    Attributes:
        name: text.
    """

    name: str = """two
lines"""

    # a comment
    def read(self) -> str:
        """Reads."""
        return (
            os.environ["X"]
        )
'''


def test_docstrings_comments_and_blank_lines_do_not_count() -> None:
    assert count_code_lines(SOURCE) == len(["import", "class", "name", "lines", "def", "return", "os", ")"])


def test_only_sizes_above_their_ceilings_are_told() -> None:
    ceilings = {"code": {"mmd": 10, "core": 5}, "words": {"guides": 7}}
    assert compare({"code": {"mmd": 10, "core": 4}, "words": {"guides": 7}}, ceilings) == []
    (grown,) = compare({"code": {"mmd": 11, "core": 5}, "words": {"guides": 7}}, ceilings)
    assert "[code] mmd is 11, and its ceiling is 10" in grown


def test_a_package_without_a_ceiling_and_a_ceiling_without_a_package_are_told() -> None:
    problems = compare({"code": {"new": 3}}, {"code": {"old": 3}})
    assert [text.partition(":")[2].split()[1:6] for text in problems] == [
        ["has", "no", "line", "for", "new,"],
        ["old", "is", "no", "longer", "there:"],
    ]
