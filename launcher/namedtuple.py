"""Named tuples whose annotations stay text.

`typing.NamedTuple` compiles every annotation whenever a command starts: a twentieth of its time (`make bench`). These
are named tuples like those, with defaults and methods, and for mypy they are those.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:

    class _Fields(type):
        """Makes a class below NamedTuple: a named tuple of its annotations, with its methods."""

        def __new__(cls, name: str, _: tuple[type, ...], body: dict[str, Any]) -> type:
            fields = body["__annotations__"]
            defaults = [body[field] for field in fields if field in body]
            named = collections.namedtuple(name, fields, defaults=defaults, module=body["__module__"])
            for key, value in body.items():
                if key not in fields:
                    setattr(named, key, value)
            return named

    NamedTuple = type.__new__(_Fields, "NamedTuple", (), {})
