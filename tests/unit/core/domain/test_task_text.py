"""Short form of tasks: it is parsed to what it was made of, and makes distinct parts of ids."""

import pytest

from vfmalign.core.domain.declarations import TaskParameters
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.record import is_id
from vfmalign.core.domain.task_text import Task, to_id_part

FORMS = {
    "segmentation": TaskParameters(),
    "segmentation:label=hippocampus,structure=anterior": TaskParameters(
        labels=("hippocampus",), structures=("anterior",)
    ),
    "segmentation:label=gland+lesions": TaskParameters(labels=("gland", "lesions")),
    "segmentation:label=lesions+gland": TaskParameters(labels=("lesions", "gland")),
    "classification:class=significant_cancer": TaskParameters(class_name="significant_cancer"),
    "translation:from=t2w+dwi,to=adc": TaskParameters(inputs=("t2w", "dwi"), target="adc"),
    "super_resolution:modality=t1w": TaskParameters(modalities=("t1w",)),
}


@pytest.mark.parametrize("text", FORMS)
def test_a_short_form_is_parsed_to_what_it_was_made_of(text):
    task = Task.parse(text)
    assert (task.name, task.parameters) == (text.split(":")[0], FORMS[text])
    assert str(task) == text
    assert Task.model_validate_json(task.to_json()) == task, "records store the short form"


def test_the_order_of_keys_and_commas_do_not_matter_to_the_canonical_form():
    assert str(Task.parse("translation:to=adc,from=t2w+dwi")) == "translation:from=t2w+dwi,to=adc"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no task is named"),
        (":label=a", "no task is named"),
        ("segmentation:", "no parameter ''"),
        ("segmentation:organ=liver", "no parameter 'organ'"),
        ("segmentation:label", "label has no value"),
        ("segmentation:label=", "label has no value"),
        ("segmentation:label=a,label=b", "label is given twice"),
        ("segmentation:label=Liver", "label of 'segmentation:label=Liver' is not a list of ids"),
        ("segmentation:label=a++b", "is not a list of ids"),
        ("classification:class=a+b", "class of 'classification:class=a+b' is not an id"),
    ],
)
def test_another_form_is_refused_with_the_right_one(text, message):
    with pytest.raises(BadOption, match="write NAME:KEY=VALUE") as caught:
        Task.parse(text)
    assert message in str(caught.value)


def test_parts_of_ids_are_ids_and_stay_apart():
    parts = [to_id_part(text) for text in FORMS]
    assert all(is_id(part) for part in parts)
    assert len(set(parts)) == len(parts)
    assert to_id_part("segmentation") == "segmentation", "tasks without parameters keep their ids"
    assert to_id_part("translation:from=t2w+dwi,to=adc") == "translation.from-t2w-dwi.to-adc"
