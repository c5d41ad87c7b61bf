"""The drift monitor by simulation: level over whole streams, power, cost, and delay beside a competitor.

`python -m bench.monitoring` resumes where it was interrupted: each job's result is a line in a file of its section.
`--scale 0.01` is a trial of the same jobs with a hundredth of the streams.
"""
