"""One of a kind is told apart from many."""

from vfmalign.core.words import counted


def test_one_takes_no_s():
    assert [counted(count, "test patient") for count in (0, 1, 2)] == [
        "0 test patients",
        "1 test patient",
        "2 test patients",
    ]
