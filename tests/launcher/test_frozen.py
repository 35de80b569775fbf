"""What frozen.py and namedtuple.py make does what the standard library's dataclasses and named tuples do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, get_type_hints

import pytest

from launcher import frozen, namedtuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Point:
    """A place."""

    x: int
    y: int = 2
    names: list[str] = dataclasses.field(default_factory=list)
    KIND: ClassVar[str] = "point"

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x")


class Bare:
    x: int = 0


def _both(source: type, **options: Any) -> tuple[Any, Any]:
    """`source` made a dataclass by the standard library, and by ours."""
    body = {key: value for key, value in vars(source).items() if key not in ("__dict__", "__weakref__")}
    ours, theirs = type(source.__name__, (), dict(body)), type(source.__name__, (), dict(body))
    return frozen.dataclass(frozen=True, **options)(ours), dataclasses.dataclass(frozen=True, **options)(
        theirs
    )


def _outcome(call: Callable[[], Any]) -> object:
    try:
        return repr(call())
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("kw_only", [False, True])
@pytest.mark.parametrize(
    "use",
    [
        lambda kind: kind(1),
        lambda kind: kind(x=1),
        lambda kind: kind(1, 3, ["a"]),
        lambda kind: kind(1, 3, [], 4),
        lambda kind: kind(1, x=1),
        lambda kind: kind(),
        lambda kind: kind(x=1, z=1),
        lambda kind: kind(x=-1),
        lambda kind: setattr(kind(x=1), "x", 2),
        lambda kind: delattr(kind(x=1), "x"),
        lambda kind: (kind(x=1) == kind(x=1), kind(x=1) == kind(x=2), kind(x=1) == (1, 2, [])),
        lambda kind: hash(kind(x=1, names=(3,))) == hash(kind(x=1, names=(3,))),
        lambda kind: hash(kind(x=1)),
        lambda kind: kind(x=1).names is kind(x=1).names,
        lambda kind: (dataclasses.replace(kind(x=1), y=5), dataclasses.asdict(kind(x=1))),
        lambda kind: [(field.name, field.default) for field in dataclasses.fields(kind)][:2],
        lambda kind: (copy.copy(kind(x=1)), copy.deepcopy(kind(x=1))),
        lambda kind: (kind.__doc__, kind.__match_args__, kind.KIND, dataclasses.is_dataclass(kind)),
    ],
)
def test_one_of_ours_does_what_the_standard_librarys_does(use: Callable[[Any], Any], kw_only: bool) -> None:
    ours, theirs = _both(Point, kw_only=kw_only)
    assert _outcome(lambda: use(ours)) == _outcome(lambda: use(theirs))


class Named(namedtuple.NamedTuple):
    """A row."""

    x: int
    names: tuple[str, ...] = ()

    @property
    def twice(self) -> int:
        return 2 * self.x

    @classmethod
    def of(cls, x: int) -> Named:
        return cls(x)

    def __str__(self) -> str:
        return f"row {self.x}"


class Typed(NamedTuple):
    """A row."""

    x: int
    names: tuple[str, ...] = ()

    @property
    def twice(self) -> int:
        return 2 * self.x

    @classmethod
    def of(cls, x: int) -> Typed:
        return cls(x)

    def __str__(self) -> str:
        return f"row {self.x}"


@pytest.mark.parametrize(
    "use",
    [
        lambda kind: kind(1),
        lambda kind: kind(1, names=("a",)),
        lambda kind: kind(),
        lambda kind: kind(1, (), 3),
        lambda kind: (kind.of(4).twice, str(kind(2)), kind.__doc__),
        lambda kind: (kind._fields, kind._field_defaults, kind.__module__, kind.__match_args__),
        lambda kind: (tuple(kind(1)), kind(1)._replace(x=3), kind(1)._asdict(), kind(1) == (1, ())),
        lambda kind: get_type_hints(kind),
        lambda kind: setattr(kind(1), "x", 2),
        lambda kind: (copy.deepcopy(kind(1)), pickle.loads(pickle.dumps(kind(1)))),
    ],
)
def test_a_named_tuple_of_ours_does_what_the_standard_librarys_does(use: Callable[[Any], Any]) -> None:
    ours, theirs = _outcome(lambda: use(Named)), _outcome(lambda: use(Typed))
    assert str(ours).replace("Named", "Typed") == str(theirs)


def test_without_eq_two_are_the_same_by_identity() -> None:
    for kind in _both(Bare, eq=False):
        assert kind() != kind()
        assert len({kind(), kind()}) == 2


def test_what_has_no_docstring_is_given_none() -> None:
    ours, _ = _both(Bare)
    assert ours.__doc__ is None


@frozen.dataclass(frozen=True)
class Pickled:
    """Pickle finds a class by its name in a module."""

    x: int


def test_one_is_pickled() -> None:
    assert pickle.loads(pickle.dumps(Pickled(3))) == Pickled(3)
