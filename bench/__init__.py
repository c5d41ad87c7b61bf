"""Measures the MMD engine beside what a user would pick instead. Not part of the wheel.

`python -m bench run` measures, `python -m bench peers` installs the peers, `python -m bench gpu` measures on a GPU.

A tour: `cases` says what is measured and `methods` who takes part, `peers/` holds one small function per peer,
`measure` runs each in a process of its own and takes turns, `worker` is that process, `truth` has the float64 values,
`sections` draws conclusions and `tables` prints.

`stream` and `endpoint` are measured by modules of those names with a function `run(settings: Settings) -> Section`.
"""
