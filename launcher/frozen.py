"""Frozen dataclasses whose methods are written here, once, instead of generated for every class.

`dataclasses` compiles six methods of each class whenever a command starts: a sixth of its time (`make bench`). These
are dataclasses like those, for `dataclasses.fields`, `replace` and `asdict`, for `match`, and for mypy.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool, kw_only: bool = False, eq: bool = True) -> Callable[[type], type]:
        """The class as a frozen dataclass. Other parameters than these are the standard library's to handle."""
        assert frozen, "for others there is dataclasses.dataclass"

        def decorate(cls: type) -> type:
            documented = cls.__doc__
            cls.__doc__ = documented or "-"  # without one it would get a signature, which `inspect` finds out
            cls = dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=kw_only)(cls)
            cls.__doc__ = documented
            for method in (*_METHODS, *(_COMPARED if eq else ())):
                if method.__name__ not in vars(cls):
                    setattr(cls, method.__name__, method)
            return cls

        return decorate


def _values(data: Any) -> tuple[Any, ...]:
    return tuple(getattr(data, field.name) for field in dataclasses.fields(data))


def __init__(self: Any, *values: Any, **named: Any) -> None:
    fields = dataclasses.fields(self)
    positional = [field.name for field in fields if not field.kw_only]
    if len(values) > len(positional):
        raise TypeError(f"{type(self).__name__} takes {len(positional)} positional values, not {len(values)}")
    for name, value in zip(positional, values):  # noqa: B905 - there may be fewer values
        if name in named:
            raise TypeError(f"{type(self).__name__} has two values for {name}")
        named[name] = value
    for field in fields:
        if field.name in named:
            value = named.pop(field.name)
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            value = field.default
        else:
            raise TypeError(f"{type(self).__name__} needs {field.name}")
        object.__setattr__(self, field.name, value)
    if named:
        raise TypeError(f"{type(self).__name__} has no {', '.join(named)}")
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def __repr__(self: Any) -> str:
    parts = (f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self))
    return f"{type(self).__qualname__}({', '.join(parts)})"


def __setattr__(self: Any, name: str, value: Any) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def __delattr__(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def __eq__(self: Any, other: object) -> Any:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def __hash__(self: Any) -> int:
    return hash(_values(self))


_METHODS = (__init__, __repr__, __setattr__, __delattr__)
_COMPARED = (__eq__, __hash__)
