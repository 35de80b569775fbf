"""The first candidate that fits, the largest micro batch, the fewest hosts, and how fast they come."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.deepspeed import config
from launcher.sizing import changes, gpus, ladder, models
from launcher.sizing.architecture import Architecture

H100, V100 = gpus.load("h100-80gb"), gpus.load("v100-32gb")
TB = 10**12


def named(name: str) -> Architecture:
    found = models.load(name)
    assert isinstance(found, Architecture)
    return found


def machine(
    hosts: int = 1, gpu: gpus.Gpu = H100, fabric: float | None = 400e9, **more: Any
) -> ladder.Machine:
    there = ladder.Machine(hosts, slots=8, slot_memory=gpu.memory, host_memory=2 * TB, gpu=gpu, fabric=fabric)
    return there._replace(**more)


def request(micro: int = 1, sequence: int = 2048, checkpointing: bool | None = None) -> ladder.Request:
    inputs = config.Inputs({}, "bf16", slots=8, nvme="/nvme")
    return ladder.Request(inputs, micro=micro, accumulation=1, sequence=sequence, checkpointing=checkpointing)


def search(model: str, there: ladder.Machine, asked: ladder.Request) -> ladder.Search:
    return ladder.search(named(model), there, asked)


@pytest.mark.parametrize(
    ("model", "there", "asked", "name"),
    [
        ("gpt2", machine(), request(8, 1024), "zero1"),
        ("llama-7b", machine(), request(1, 2048), "zero1"),
        ("llama-7b", machine(), request(8, 4096), "zero1 with activation checkpointing"),
        ("llama-7b", machine(gpu=V100), request(1, 2048), "zero3"),
        ("llama-2-70b", machine(4), request(1, 4096), "zero3 with activation checkpointing"),
        ("llama-2-70b", machine(4, fabric=12.5e9), request(1, 4096), "zeropp with activation checkpointing"),
        ("llama-2-70b", machine(), request(1, 4096), "zero3-offload-optimizer with activation checkpointing"),
        (
            "llama-2-70b",
            machine(host_memory=TB // 2, nvme=8 * TB),
            request(1, 4096),
            "zero3-nvme with activation checkpointing",
        ),
    ],
)
def test_known_choices(model: str, there: ladder.Machine, asked: ladder.Request, name: str) -> None:
    found = search(model, there, asked)
    assert found.chosen is not None
    assert found.chosen.candidate.name == name


def test_without_figures_the_order_is_fixed() -> None:
    there = machine(hosts=2, gpu=V100, fabric=None)
    tried = search("llama-3.1-405b", there, request(1, 8192)).tried
    assert [t.candidate for t in tried] == [r for r in ladder.CANDIDATES if r.preset != "zero3-nvme"]
    assert {t.seconds for t in tried} == {None}


def test_slow_candidates_come_last_when_the_figures_are_known() -> None:
    tries = ladder.ordered(named("llama-7b"), machine(nvme=8 * TB), request())
    names = [t.candidate.name for t in tries]
    assert names[:3] == ["zero1", "zero2", "zero3"]
    assert names[-1] == "zero3-nvme with activation checkpointing"
    assert names.index("zero2 with activation checkpointing") < names.index("zero2-offload")


def test_reasons_name_what_is_short() -> None:
    there = machine(host_memory=10**11)
    tried = search("llama-2-70b", there, request(1, 4096))
    assert tried.chosen is None
    assert tried.largest_micro == 0
    reasons = {t.candidate.name: t.shortfalls for t in tried.tried}
    assert reasons["zero3 with activation checkpointing"][0].endswith(" GB per GPU, 84.9 GB available")
    assert reasons["zero3 with activation checkpointing"][0].startswith("needs ")
    assert any(" per host, " in r for r in reasons["zero3-offload with activation checkpointing"])


def test_checkpointing_is_the_jobs_to_forbid_and_to_ask_for() -> None:
    for asked in (True, False):
        tried = search("llama-7b", machine(), request(8, 4096, checkpointing=asked)).tried
        assert {t.candidate.checkpointing for t in tried} == {asked}


def test_what_is_not_known_of_a_machine_is_not_compared() -> None:
    there = ladder.Machine(1, 8, None)
    found = search("llama-3.1-405b", there, request())
    assert found.chosen is not None
    assert found.chosen.candidate.name == "zero1"
    assert found.largest_micro == 0


MODELS = st.sampled_from(
    ["gpt2", "gpt2-xl", "llama-1b", "llama-7b", "llama-2-70b", "mixtral-8x7b", "qwen2-7b"]
)
MACHINES = st.builds(
    machine,
    hosts=st.integers(1, 16),
    gpu=st.sampled_from(list(map(gpus.load, gpus.names()))),
    fabric=st.none() | st.floats(1e9, 1e12),
    slots=st.integers(1, 8),
    host_memory=st.sampled_from([TB // 8, TB, 4 * TB]),
    nvme=st.sampled_from([0, 16 * TB]),
)
REQUESTS = st.builds(
    request, st.integers(1, 32), st.sampled_from([128, 1024, 4096]), st.none() | st.booleans()
)


@settings(max_examples=60)
@given(MODELS, MACHINES, REQUESTS)
def test_the_choice_fits_and_nothing_before_it_does(
    model: str, there: ladder.Machine, asked: ladder.Request
) -> None:
    found = search(model, there, asked)
    assert all(t.shortfalls for t in found.tried[:-1])
    if found.chosen is None:
        assert all(t.shortfalls for t in found.tried)
        return
    assert found.chosen is found.tried[-1]
    assert not found.chosen.shortfalls
    assert found.largest_micro >= asked.micro
    for micro, fits in ((found.largest_micro, True), (found.largest_micro + 1, False)):
        again = ladder.evaluate(named(model), there, asked._replace(micro=micro), found.chosen.candidate)
        assert again.fits is fits


@settings(max_examples=40)
@given(MODELS, MACHINES, REQUESTS)
def test_each_change_makes_it_fit(model: str, there: ladder.Machine, asked: ladder.Request) -> None:
    candidate = ladder.Candidate("zero1", bool(asked.checkpointing))
    if ladder.evaluate(named(model), there, asked, candidate).fits:
        return
    for change in changes.smallest(named(model), there, asked, candidate):
        changed = asked._replace(micro=int(change.value)) if change.what == "micro" else asked
        hosts = there._replace(hosts=int(change.value)) if change.what == "hosts" else there
        assert ladder.evaluate(named(model), hosts, changed, change.candidate).fits


def test_fewest_hosts() -> None:
    model, asked = named("llama-2-70b"), request(1, 4096)
    only = ladder.Candidate("zero3", True)
    hosts = changes.min_hosts(model, machine(), asked, candidate=only)
    assert hosts is not None
    assert ladder.evaluate(model, machine(hosts), asked, only).fits
    assert not ladder.evaluate(model, machine(hosts - 1), asked, only).fits


def test_fewest_hosts_divide_the_step() -> None:
    model, asked, only = named("llama-2-70b"), request(1, 4096), ladder.Candidate("zero3", True)
    enough = changes.min_hosts(model, machine(), asked, candidate=only)
    assert enough == 2
    # three hosts divide 8 slots × 3 × 5 samples, two do not
    odd = asked._replace(train=8 * 3 * 5)
    assert changes.min_hosts(model, machine(), odd, candidate=only) == 3
    assert changes.min_hosts(model, machine(), asked._replace(train=8), candidate=only) is None


@settings(max_examples=40)
@given(MODELS, MACHINES, st.integers(1, 32), st.integers(1, 8))
def test_changes_divide_the_step(model: str, there: ladder.Machine, micro: int, passes: int) -> None:
    train = micro * there.world * passes
    asked = request(micro, 4096)._replace(train=train).on(there.world)
    candidate = ladder.Candidate("zero1", False)
    if ladder.evaluate(named(model), there, asked, candidate).fits:
        return
    for change in changes.smallest(named(model), there, asked, candidate):
        of = int(change.value) if change.what == "micro" else micro
        hosts = int(change.value) if change.what == "hosts" else there.hosts
        assert train % (of * hosts * there.slots) == 0


def test_a_climb_evaluates_each_candidate_once_and_the_micro_batch_by_halves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a plan takes is these; `make bench` measures the time."""
    model, there, asked = named("llama-3.1-405b"), machine(8, nvme=16 * TB), request(1, 8192)
    seen: list[ladder.Candidate] = []
    evaluate = ladder.evaluate

    def counted(*words: Any) -> ladder.Evaluation:
        seen.append(words[3])
        return evaluate(*words)

    monkeypatch.setattr(ladder, "evaluate", counted)
    found = ladder.search(model, there, asked)
    each = list(ladder.candidates(there, asked))
    assert seen[: len(each)] == each
    # doubled until it does not fit, then halved between the last two
    assert len(seen) - len(each) <= 2 * found.largest_micro.bit_length() + 2
