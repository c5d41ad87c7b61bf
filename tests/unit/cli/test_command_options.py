"""The options of the command line can be counted."""

from __future__ import annotations

from tests.command_options import count_options, list_options


def test_every_option_of_every_command_is_counted_but_the_common_ones() -> None:
    pairs = list(list_options())
    assert len(set(pairs)) == len(pairs) == count_options()
    assert ("check", "--set") in pairs
    assert ("checks list", "--state") in pairs
    assert not any(option in {"--json", "--home", "--help"} for _, option in pairs)
