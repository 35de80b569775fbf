"""A DeepSpeed configuration as its rules read it, and the problems that they tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.deepspeed import spellings
from launcher.errors import Problem
from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Hosts(NamedTuple):
    """The hosts that the ranks are on; `gpu` is None where they have none.

    `local`: folders on a host's own disk, as the ranks see them. `part` and `own`: elements of a rank's part of the
    model's largest tensor, and of all that is trained; None where the model is not known. `world`: the ranks; 0: not
    said.
    """

    gpu: str | None
    capability: tuple[int, int]  # CUDA's
    slots: int
    local: tuple[str, ...] = ()
    part: int | None = None
    own: int | None = None
    world: int = 0


class Config(NamedTuple):
    """A configuration with the parts that most rules ask for."""

    whole: Mapping[str, Any]

    @property
    def zero(self) -> Mapping[str, Any]:
        return self.section("zero_optimization")

    @property
    def stage(self) -> int:
        return int(self.zero.get("stage", 0))

    @property
    def optimizer(self) -> str:
        return str(self.section("optimizer").get("type", "AdamW")).lower()

    @property
    def torch_adam(self) -> bool:
        return bool(self.section("optimizer", "params").get("torch_adam"))

    @property
    def added(self) -> str:
        """What gradients are added up in: bf16, fp16 or fp32; '' where it is not said."""
        return spellings.DTYPES.get(str(self.section("data_types").get("grad_accum_dtype")), "")

    def section(self, *names: str) -> Mapping[str, Any]:
        """A section; empty where there is none."""
        section: Any = self.whole
        for name in names:
            section = section.get(name) if isinstance(section, dict) else None
        return section if isinstance(section, dict) else {}

    def offload(self, part: str) -> str:
        """Where `part` ("optimizer" or "param") is offloaded to: none, cpu or nvme."""
        return str(self.section("zero_optimization", f"offload_{part}").get("device", "none"))


def of_zero(key: str, message: str, hint: str) -> Problem:
    about = ("job", "deepspeed", "zero_optimization", *key.split("."))
    return Problem(f"deepspeed.zero_optimization.{key} {message}", hint, about=about)


def of_key(key: str, message: str, hint: str) -> Problem:
    return Problem(f"deepspeed.{key} {message}", hint, about=("job", "deepspeed", *key.split(".")))
