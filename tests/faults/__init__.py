"""What a user sees when something breaks, as a table: `make faults` breaks a real cluster of five hosts.

Not part of `make test`: half an hour. Owns the faults and what must hold after each; tests/real/slurm owns the cluster.

    python -m tests.faults --list
    python -m tests.faults --only host_crashes spare_takes_over
"""
