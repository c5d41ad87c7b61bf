"""The order in which cases are drawn, patches and flips."""

from collections import Counter
from dataclasses import replace

import torch

from vfmalign.training.data import balanced_indices, batch_indices, draw_batch

CPU = torch.device("cpu")


def draw(cases, step=0, seed=1, batch_size=2, patch=None):
    return draw_batch(cases, step=step, batch_size=batch_size, patch_shape_dhw=patch, seed=seed, device=CPU)


def test_a_batch_depends_on_seed_and_step_alone(cases):
    first = draw(cases, step=3)
    draw(cases, step=0)
    torch.manual_seed(99)
    assert torch.equal(first.input_NCDHW, draw(cases, step=3).input_NCDHW)
    assert not torch.equal(first.input_NCDHW, draw(cases, step=4).input_NCDHW)
    assert not torch.equal(first.input_NCDHW, draw(cases, step=3, seed=2).input_NCDHW)


def test_a_shuffle_uses_every_case_once():
    drawn = [index for step in range(3) for index in batch_indices(6, 2, step, seed=5)]
    assert sorted(drawn) == list(range(6))
    assert drawn != [index for step in range(3, 6) for index in batch_indices(6, 2, step, seed=5)]


def test_no_batch_repeats_a_case_if_there_are_enough():
    counts = Counter()
    for step in range(200):
        batch = batch_indices(7, 3, step, seed=0)
        assert len(set(batch)) == 3
        counts.update(batch)
    assert min(counts.values()) > 60


def test_fewer_cases_than_a_batch_are_repeated_evenly():
    assert sorted(batch_indices(2, 5, step=4, seed=0)) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
    assert batch_indices(1, 4, step=9, seed=0) == [0, 0, 0, 0]


def test_flips_apply_to_labels_as_well(cases):
    case, seen = cases[0], set()
    for step in range(20):
        batch = draw([case], step=step, batch_size=1)
        flipped = not torch.equal(batch.input_NCDHW[0], case.input_CDHW)
        turn = (lambda t: t.flip(-1)) if flipped else (lambda t: t)
        assert torch.equal(batch.input_NCDHW[0], turn(case.input_CDHW))
        assert torch.equal(batch.clean_NCDHW[0], turn(case.clean_CDHW))
        assert torch.equal(batch.labels["gland"][0], turn(case.labels["gland"]))
        assert torch.equal(batch.labels["lesions"][0], turn(case.labels["lesions"]))
        seen.add(flipped)
    assert seen == {True, False}


def test_random_patches_cover_the_volume_and_repeat_with_the_seed(cases):
    place_DHW = torch.arange(16 * 32 * 32).reshape(16, 32, 32)
    case = replace(cases[0], input_CDHW=place_DHW[None].float(), clean_CDHW=place_DHW[None].float(), focus_DHW=None)
    draws = [draw([case], step=step, patch=(8, 16, 16)).input_NCDHW for step in range(80)]
    seen = torch.unravel_index(torch.cat(draws).unique().long(), place_DHW.shape)
    assert [len(axis.unique()) for axis in seen] == [16, 32, 32], "no slice, row or column is never drawn"
    assert torch.equal(draws[7], draw([case], step=7, patch=(8, 16, 16)).input_NCDHW)
    assert not torch.equal(draws[7], draw([case], step=7, patch=(8, 16, 16), seed=2).input_NCDHW)


def test_patches_apply_to_labels_and_often_contain_the_lesion(cases):
    # Intensities that are the labels themselves: wherever a patch lies, they must agree.
    labels = 2 * cases[0].labels["gland"] + cases[0].labels["lesions"]
    case = replace(cases[0], input_CDHW=labels.float().expand(3, -1, -1, -1), clean_CDHW=labels.float()[None])
    meets, places = 0, set()
    for step in range(40):
        batch = draw([case], step=step, batch_size=2, patch=(16, 16, 16))
        assert batch.input_NCDHW.shape == (2, 3, 16, 16, 16)
        assert torch.equal(batch.input_NCDHW[:, 0], (2 * batch.labels["gland"] + batch.labels["lesions"]).float())
        meets += int((batch.labels["lesions"] > 0).flatten(1).any(1).sum())
        places.add(batch.input_NCDHW.numpy().tobytes())
    assert meets >= 40
    assert len(places) == 40


def test_classes_are_drawn_equally_often_and_cases_of_a_class_too():
    positives = [True] * 7 + [False] * 2
    counts = Counter()
    for step in range(70):
        indices = balanced_indices(positives, 4, step, seed=3)
        assert sum(positives[i] for i in indices) == 2
        counts.update(indices)
    assert [counts[i] for i in range(9)] == [20] * 7 + [70] * 2
    # An odd batch takes turns, and a step depends on its number alone.
    odd = [sum(positives[i] for i in balanced_indices(positives, 3, step, seed=3)) for step in range(4)]
    assert odd == [1, 2, 1, 2]
    assert balanced_indices(positives, 4, 9, seed=3) == balanced_indices(positives, 4, 9, seed=3)
    assert balanced_indices(positives, 4, 9, seed=3) != balanced_indices(positives, 4, 9, seed=4)


def test_a_batch_of_cases_with_classes_is_balanced(classified_cases):
    batch = draw(classified_cases, batch_size=4)
    assert sorted(batch.positive_N.tolist()) == [0.0, 0.0, 1.0, 1.0]
    assert [bool(lesions.any()) for lesions in batch.labels["lesions"]] == [bool(truth) for truth in batch.positive_N]
