"""Search for command lines and files that the launcher does not stand: `python -m tests.fuzz`, or `make fuzz`.

values     hostile values, as YAML and JSON write them, and damage to texts
files      job, cluster and pipeline files, models and image facts: valid ones, changed
records    run folders as runs, other users and crashes leave them
commands   whole inputs: words, files, environment, streams, answers of other programs
sandbox    runs one input in a process of its own, with limits, and touches nothing outside its folder
verdicts   which outcomes are findings, and which findings are the same
shrinking  a finding's smallest input, as text
"""
