"""Options of `vfmalign experiment`."""

import pytest

from vfmalign.cli.commands.api.experiments import parse_train_cases
from vfmalign.core.domain.errors import BadOption


def test_numbers_of_training_cases_are_a_list_in_which_all_is_zero():
    assert parse_train_cases("8,16, 32,all") == (8, 16, 32, 0)
    assert parse_train_cases("") == ()


@pytest.mark.parametrize("text", ["8,", "0", "1", "-8", "8.5", "every", "8;16", "²", "9" * 5000])
def test_other_texts_are_refused_with_an_example(text):
    with pytest.raises(BadOption, match="is not a number of training cases") as caught:
        parse_train_cases(text)
    assert "8,16,32,all" in caught.value.remedy
