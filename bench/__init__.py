"""Benchmarks of the MMD engine beside the libraries that a user would pick instead. Not part of the wheel.

    python -m bench competitors    # install the competitors, each in an environment of its own
    python -m bench run            # measure on the CPU
    python -m bench gpu            # measure on a CUDA device

`cases` defines what is measured and `methods` which implementations take part. `competitors/` has one small module per
competitor, `workloads/` the same for vfmalign, textbook formulas and the bare matrix product. `measure` runs every
method in a process of its own (`worker`) and alternates between them, `truth` computes the float64 values, `sections`
summarises results and `tables` prints them.

`stream` (rows that are not in memory) and `endpoint/` (the service) are cases with modules of their own. Separate
commands measure tests and intervals (`bench.statistics`) and drift monitors (`bench.monitoring`) by simulation, and
encoders at full size (`bench.forward`, `bench.extraction`).
"""
