"""The GPU of a cluster file: a name of the table, figures of one's own, or the table's with some replaced."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.errors import SpecError
from launcher.files import validation
from launcher.planning import capacity, fit
from launcher.sizing import gpus
from tests import samples

OWN = {"name": "rtx-2080ti", "memory": "10.7GiB", "capability": "7.5"}
RATES = {"bf16_tflops": 54, "memory_gbps": 616, "host_gbps": 16}


def card(gpu: Any) -> gpus.Gpu:
    found = samples.cluster(gpu=gpu).card
    assert found
    return found


def test_a_name_is_the_tables_and_stays_one_word() -> None:
    assert card("h100-80gb") == gpus.load("h100-80gb") == card({"name": "h100-80gb"})
    assert validation.written(samples.cluster(gpu="h100-80gb"))["gpu"] == "h100-80gb"
    assert samples.cluster().card is None


def test_figures_of_ones_own() -> None:
    own = card(OWN | RATES)
    assert own.memory == round(10.7 * 2**30)
    assert (own.flops, own.bandwidth, own.capability) == (54 * 10**12, 616 * 10**9, (7, 5))
    assert own.link == own.host == 16 * 10**9  # over PCIe, where nothing else is said
    assert card(OWN | RATES | {"link_gbps": 50}).link == 50 * 10**9


def test_the_table_with_another_memory() -> None:
    slice_ = card({"name": "h100-80gb", "memory": "10GB"})
    assert slice_ == gpus.load("h100-80gb")._replace(memory=10**10)


def test_a_step_is_timed_only_where_every_rate_is_known() -> None:
    def step(gpu: dict[str, Any]) -> float | None:
        estimate, _ = fit.estimate_or_reason(samples.job(), samples.cluster(gpu=gpu))
        assert estimate
        return estimate.evaluation.seconds

    assert step(OWN) is None
    assert step(OWN | RATES)


@pytest.mark.parametrize(("capability", "precision"), [("7.5", "fp16"), ("8.0", "bf16"), ("12.0", "bf16")])
def test_precision_follows_the_capability(capability: str, precision: str) -> None:
    cluster = samples.cluster(gpu=OWN | {"capability": capability})
    assert fit.precision(samples.job(), cluster) == precision


def test_the_largest_model_follows_the_memory() -> None:
    def largest(memory: str) -> int:
        cluster = samples.cluster(slots=1, gpu=OWN | {"memory": memory, "capability": "8.6"}, memory="64GB")
        return capacity.largest(samples.job(), cluster, "gpt2").estimate.model.parameters

    assert largest("4GB") < largest("48GB")


@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        ("h100-80GB", "not in the table, which has h100-80gb;"),
        (
            "zx81",
            "launcher/sizing/gpus.json has the names. Another card is described: gpu: {name: zx81, memory",
        ),
        ({"name": "x", "capability": "8.6"}, "so it needs memory; for example gpu: {name: x, memory: 24GB"),
        ({"name": "x", "vendor": "nvidia"}, "so it needs memory and capability"),
        ({"name": "x", "vendor": "amd"}, "so it needs memory; for"),
        ({"memory": "24GB"}, "gpu.name is missing"),
        ({"name": "a\nb", "memory": "24GB"}, "is not a valid name"),
        ({"name": "x", "memory": 24, "capability": "8.6"}, "24 has no unit"),
        ({"name": "x", "memory": "24GB", "capability": "sm_86"}, "'sm_86' is no compute capability"),
        (OWN | {"bf16_tflops": 0}, "must be at least 1"),
        (OWN | {"link_gb": 1}, "unknown key 'gpu.link_gb'"),
    ],
)
def test_what_is_wrong_is_one_message(gpu: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        samples.cluster(gpu=gpu)
    (problem,) = caught.value.problems
    assert message in f"{problem}"
