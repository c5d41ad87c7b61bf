"""The graph of a check: its stages in order, what each waits for, and what is invalid when an output differs."""

import re
from fnmatch import fnmatch

import pytest

from vfmalign.finetuning.checks import stages as module
from vfmalign.finetuning.checks.artifacts import get_readers
from vfmalign.finetuning.checks.reporting import all_stages

SEEDS = (1, 2, 3)
EVERY_FEATURE = ("features_reference", "features_before", "features_random")


def get_readers_of(name, seeds):
    readers = get_readers(all_stages(seeds), name)
    assert len(set(readers)) == len(readers)
    return set(readers)


def test_a_check_with_one_seed_has_the_same_stages_as_ever():
    assert [stage.name for stage in all_stages(1)] == [
        "validate", "features_reference", "features_before", "features_random", "job_pretrained", "job_scratch",
        "job_specialised", "features_after", "mmd", "measures", "probes", "report",
    ]  # fmt: skip


def test_every_seed_adds_jobs_features_after_and_mmd_and_the_report_reads_them_all():
    first, second = all_stages(1), all_stages(2)
    added = [stage.name for stage in second if stage.name not in {stage.name for stage in first}]
    assert added == ["job_pretrained_s2", "job_scratch_s2", "job_specialised_s2", "features_after_s2", "mmd_s2"]
    assert {"mmd", "mmd_s2", "job_scratch_s2", "job_specialised_s2"} <= set(second[-1].reads)
    stages = {stage.name: stage for stage in second}
    assert stages["features_after_s2"].reads == ("validate", "job_pretrained_s2")
    assert stages["mmd_s2"].artifact == "mmd_s2.json"


@pytest.mark.parametrize("seeds", SEEDS)
def test_every_stage_comes_after_those_that_it_names_and_only_the_report_is_last(seeds):
    stages, earlier = all_stages(seeds), set()
    for stage in stages:
        assert {*stage.reads, *stage.after, *stage.follows} <= earlier, stage.name
        earlier.add(stage.name)
    named = {name for stage in stages for name in (*stage.reads, *stage.after)}
    assert earlier - named == {"report"}, "a stage that nothing waits for would end after the check"


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_lost_output_invalidates_what_was_computed_from_it_alone(seeds):
    numbers = range(1, seeds + 1)
    suffixes = ["" if number == 1 else f"_s{number}" for number in numbers]
    every_mmd = {f"mmd{suffix}" for suffix in suffixes}
    for name in ("features_reference", "features_before"):
        assert get_readers_of(name, seeds) == every_mmd | {"measures", "probes", "report"}
    # Measures have the bandwidth of MMD², and so depend on all that it reads.
    assert get_readers_of("features_random", seeds) == every_mmd | {"measures", "report"}
    for suffix in suffixes:
        first = {"measures"} if not suffix else set()
        probes = {"probes"} if not suffix else set()
        after, mmd = f"features_after{suffix}", f"mmd{suffix}"
        assert get_readers_of(f"job_pretrained{suffix}", seeds) == {after, mmd, "report"} | first | probes
        assert get_readers_of(f"job_scratch{suffix}", seeds) == {"report"}
        assert get_readers_of(f"job_specialised{suffix}", seeds) == {"report"}
        assert get_readers_of(after, seeds) == {mmd, "report"} | first
        assert get_readers_of(mmd, seeds) == {"report"} | first
    assert get_readers_of("measures", seeds) == get_readers_of("probes", seeds) == {"report"}
    assert get_readers_of("validate", seeds) == {stage.name for stage in all_stages(seeds)} - {"validate"}
    assert get_readers_of("report", seeds) == set()


@pytest.mark.parametrize("seeds", SEEDS)
def test_jobs_and_probes_wait_for_features_and_probes_for_no_job(seeds):
    for stage in all_stages(seeds):
        if stage.training is not None:
            assert stage.after == EVERY_FEATURE
        if stage.name == "probes":
            assert set(EVERY_FEATURE) < {*stage.reads, *stage.after}
            assert not any(name.startswith("job_") for name in (*stage.reads, *stage.after))
            assert stage.follows == ("job_pretrained",)


def test_the_drawing_shows_each_stage_in_the_column_in_which_it_can_begin():
    columns, probes = re.findall(r"^ {4,}(?:\S.*)?(?:validate|↘).*$", module.__doc__, flags=re.MULTILINE)
    patterns = [re.findall(r"[\w*]+", column) for column in columns.split("→")]
    assert re.search(r"↘ probes, while the pretrained network trains ↗", probes)
    levels = {}
    for stage in all_stages(1):
        levels[stage.name] = 1 + max((levels[name] for name in (*stage.reads, *stage.after)), default=-1)
    drawn = {
        name: next(level for level, column in enumerate(patterns) if any(fnmatch(name, one) for one in column))
        for name in levels
        if name != "probes"
    }
    assert levels == drawn | {"probes": levels["job_pretrained"]}
    assert all(any(fnmatch(name, one) for name in levels) for column in patterns for one in column)
