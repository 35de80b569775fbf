"""The server's own options of a job: how they may be spelled, and what is refused."""

from __future__ import annotations

import pytest
from workloads import engine_options, serve


def test_names_are_spelled_with_dashes() -> None:
    words = ["max_num_seqs=64", "--enable-prefix-caching", "a=b=c"]
    assert engine_options.named(words) == {"max-num-seqs": "64", "enable-prefix-caching": "", "a": "b=c"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("gpu-memory-utilization=2", "a number above 0 and up to 1 is expected, not '2'"),
        ("gpu_memory_utilization=0", "a number above 0 and up to 1 is expected, not '0'"),
        ("gpu-memory-utilization=x", "a number above 0 and up to 1 is expected, not 'x'"),
        ("max-num-seqs=0", "a whole number of at least 1 is expected, not '0'"),
        ("max-num-seqs", "a whole number of at least 1 is expected, not ''"),
        ("max_model_len=64", "--engine-options max-model-len: use --max-length"),
        ("tensor-parallel-size=4", "use --tensor-parallel"),
    ],
)
def test_what_the_server_cannot_have_is_refused_before_a_job_is_submitted(word: str, message: str) -> None:
    given = ["--run-dir=/run", "--model=m", "--engine-options"]
    assert message in str(serve.refusal([*given, word], 1, 1))
    for well in ("gpu-memory-utilization=.1", "gpu-memory-utilization=1", "max-num-seqs=1", "enforce-eager"):
        assert serve.refusal([*given, well], 1, 1) is None
