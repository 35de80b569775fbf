"""What a tuning run tries, as plan.json keeps it: its candidates, those that are left out and why, the job file's text.

Owns the record and reading it back; which candidates there are is tuning.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from launcher.planning.space import Changes


class Entry(NamedTuple):
    """A candidate that is tried. `bound`: least seconds of a step; `memory`: bytes of a rank, of `capacity`."""

    name: str
    group: str
    micro: int
    bound: float | None
    memory: int | None
    capacity: int | None
    config: dict[str, Any]
    args: dict[str, Any]
    changes: list[tuple[list[str], Any]]  # of the job file
    less: list[int] = []  # noqa: RUF012 - the trials that do the same with less work


class LeftOut(NamedTuple):
    """A candidate that is not tried, and why. `fits`: by the plan; None where it has none."""

    name: str
    why: str
    fits: bool | None = None
    memory: int | None = None
    capacity: int | None = None
    bound: float | None = None


class Tuning(NamedTuple):
    """`steps`: of the first round; `limit`: seconds of a trial in it.

    `job`: the text of the file to change; `folder`: where that file lies ('' in records of older versions).
    """

    steps: int
    limit: int
    trials: tuple[Entry, ...]
    left_out: tuple[LeftOut, ...]
    job: str = ""
    folder: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """For plan.json."""
        return {
            **self._asdict(),
            "trials": [entry._asdict() for entry in self.trials],
            "left_out": [entry._asdict() for entry in self.left_out],
        }


def restored(record: Any) -> Tuning:
    """The Tuning of a record. Raises ValueError, TypeError or KeyError for what is none."""
    return Tuning(
        steps=int(record["steps"]),
        limit=int(record["limit"]),
        trials=tuple(_restored_entry(entry) for entry in record["trials"]),
        left_out=tuple(_restored_left_out(entry) for entry in record["left_out"]),
        job=str(record["job"]),
        folder=str(record.get("folder", "")),
    )


def _restored_entry(data: Any) -> Entry:
    entry = Entry(**data)
    return Entry(
        name=str(entry.name),
        group=str(entry.group),
        micro=int(entry.micro),
        bound=_number(entry.bound),
        memory=_number(entry.memory),
        capacity=_number(entry.capacity),
        config=dict(entry.config),
        args=dict(entry.args),
        changes=[([str(key) for key in path], value) for path, value in entry.changes],
        less=[int(number) for number in entry.less],
    )


def _restored_left_out(data: Any) -> LeftOut:
    left = LeftOut(**data)
    figures = {key: _number(getattr(left, key)) for key in ("memory", "capacity", "bound")}
    return left._replace(name=str(left.name), why=str(left.why), **figures)


def _number(value: Any) -> Any:
    """A number or None. Raises ValueError for anything else."""
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    raise ValueError(f"{value!r} is no number")


def fields(entry: Entry) -> Changes:
    """The changes of a job file."""
    return {tuple(path): value for path, value in entry.changes}
