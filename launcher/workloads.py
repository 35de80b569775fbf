"""The programs that ranks can run (docker/workloads/), and whether a job's `args` fit one.

Owns the way from a job's `args` to a command line; what an option does is the workload's.
Parsers are imported without torch: a workload imports it inside `main()`.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from importlib.machinery import PathFinder
from importlib.util import LazyLoader
from typing import TYPE_CHECKING, Any

from launcher import ROOT, entry
from launcher.errors import Problem, did_you_mean, shown
from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from workloads.packages import Need
    from workloads.traits import Traits

COMMAND = "command"  # stands for the workload of a job that runs a command
LAUNCHER_GROUP = "set by the launcher"
_FIELDS = {
    "model": "the job's `model:`",
    "checkpoint-every": "`checkpoint.every`",
    "checkpoint-keep": "`checkpoint.keep`",
    "checkpoint-async": "`checkpoint.async`",
    **dict.fromkeys(("checkpoint-mirror", "checkpoint-owner"), "`checkpoint.mirror`"),
    **dict.fromkeys(
        ("checkpoint-local", "checkpoint-local-every", "checkpoint-local-keep"), "`checkpoint.local`"
    ),
    "resume": "`checkpoint.resume`",
}


@functools.cache
def names() -> tuple[str, ...]:
    """Every workload's name: a file of docker/workloads/ that has a command line of its own."""
    folder = ROOT / "docker" / "workloads"
    return tuple(
        sorted(p.stem for p in folder.glob("*.py") if "\ndef parser(" in p.read_text(encoding="utf-8"))
    )


def is_script(workload: str) -> bool:
    """True for a program of the user's own (a path, or a command), False for one of ours (a name)."""
    return "/" in workload or workload.endswith(".py") or workload == COMMAND


def script_problem(workload: str) -> tuple[str, str]:
    """Why a path cannot be a program that Python runs in every rank, and what to do; empty strings when it can."""
    first, blank, _ = workload.strip().partition(" ")
    if "://" in workload:
        return "is an address", "download it, and give the file's path"
    if workload.startswith("-"):
        return (
            "would be an option of Python's",
            f"write ./{workload}, or the file's absolute path",
        )
    if blank and first.endswith(".py"):
        return "is a command line", f"write workload: {first}, and its options below `args:`"
    if blank and "/" not in first:
        return "is a command line", "name a Python program alone: the launcher starts its ranks"
    if workload.endswith("/") or workload.rpartition("/")[2] in (".", ".."):
        return "is a folder", "name a Python file in it"
    if workload.endswith((".sh", ".bash", ".ipynb")):
        return "is no Python program", "ranks are started by Python: name a .py file"
    return "", ""


@functools.cache
def parser(name: str) -> argparse.ArgumentParser:
    """The workload's own argument parser. `name` is one of `names()`."""
    own: argparse.ArgumentParser = _module(name).parser()
    return own


@functools.cache
def traits(workload: str) -> Traits:
    """What the workload says that it is; a program of the user's own may use Hugging Face's Trainer."""
    declared: Traits = (
        _module(workload).TRAITS if workload in names() else _module("traits").Traits(resolves_auto=True)
    )
    return declared


@functools.cache
def reward_rules() -> frozenset[str]:
    """The names that `args.reward` can have without being a model's."""
    return frozenset(_module("rewards").RULES)


def estimated() -> list[str]:
    """The workloads whose memory is estimated."""
    return [name for name in names() if traits(name).estimated]


def _module(name: str) -> ModuleType:
    """A module of docker/workloads/. What it imports of that folder runs when it is used: most never is, here."""
    others = _OnUse(f"workloads.{name}")
    sys.meta_path.insert(0, others)
    try:
        return entry.module(f"workloads.{name}")
    finally:
        sys.meta_path.remove(others)


class _OnUse(NamedTuple):
    """Finds the modules of docker/workloads/, of which all but `eager` run at the first look into them."""

    eager: str

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.startswith("workloads.") else None
        if spec and spec.loader and name != self.eager:
            spec.loader = LazyLoader(spec.loader)
        return spec


def command_line(args: Mapping[str, Any]) -> tuple[str, ...]:
    """`args` as options: `--key=value`, `--key`/`--no-key` for booleans, `--key a b` for a list.

    A null value leaves the option out; a source of a mixture is one word of JSON (files/mixture.py).
    """
    return tuple(word for key, value in args.items() for word in _words(key, value))


def _words(key: str, value: Any) -> Iterator[str]:
    if value is True:
        yield f"--{key}"
    elif value is False:
        yield f"--no-{key}"
    elif isinstance(value, list):
        yield f"--{key}"
        yield from map(_text, value)
    elif value is not None:
        yield f"--{key}={_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        more = {key: value[key] for key in ("weight", "column") if key in value}
        return json.dumps({"path": str(value["path"]), **more}, separators=(",", ":"))
    # as it was written; repr(1e-05) and repr(0.1) are what Python reads back unchanged
    return str(getattr(value, "written", repr(value) if isinstance(value, float) else value))


def problems(name: str, args: Mapping[str, Any]) -> Iterator[tuple[str, Problem]]:
    """What is wrong with `args`, as (key, problem without a place); nothing when all fits."""
    ours, theirs = _options(parser(name))
    for key, value in args.items():
        if key in ours:
            hint = f"use {_FIELDS[key]}" if key in _FIELDS else "leave it out: it follows from the job"
            yield key, Problem(f"args.{key} is set by the launcher", hint)
        elif key not in theirs:
            able = [other for other in names() if takes(other, key)]
            hint = f"leave it out; these have it: {', '.join(able)}" if able else did_you_mean(key, theirs)
            hint = hint or f"see `python -m workloads.{name} --help`"
            yield key, Problem(f"workload {name!r} has no option {key!r}", hint)
        else:
            wrong = _mismatch(theirs[key], value)
            if wrong:
                yield key, Problem(f"args.{key}: {wrong}", f"help: {theirs[key].help or '-'}")
    for key, action in theirs.items():
        if action.required and args.get(key) is None:
            yield key, Problem(f"args.{key} is missing", f"add it: {action.help or key}")


def _options(parser: argparse.ArgumentParser) -> tuple[set[str], dict[str, argparse.Action]]:
    # argparse has no public way to list options; `_actions` has been stable since Python 2.7
    hidden = {id(a) for g in parser._action_groups if g.title == LAUNCHER_GROUP for a in g._group_actions}
    ours: set[str] = set()
    theirs: dict[str, argparse.Action] = {}
    for action in parser._actions:
        for option in action.option_strings:
            off = isinstance(action, argparse.BooleanOptionalAction) and option.startswith("--no-")
            if id(action) in hidden:
                ours.add(option.removeprefix("--"))
            elif option.startswith("--") and not off and not isinstance(action, argparse._HelpAction):
                theirs[option.removeprefix("--")] = action
    return ours, theirs


def _mismatch(action: argparse.Action, value: Any) -> str:
    """Why the parser would refuse `value`, or an empty string."""
    if value is None:
        return ""
    both_ways = isinstance(action, argparse.BooleanOptionalAction)
    switch = action.nargs == 0 or both_ways
    if value is False and switch and not both_ways:
        return "it can be turned on alone; leave it out"
    if switch or isinstance(value, bool):
        expected = "true or false" if switch else "a value"
        return "" if switch == isinstance(value, bool) else f"{expected} is expected, not {shown(value)}"
    values = value if isinstance(value, list) else [value]
    return _wrong_count(action, value) or _not_convertible(action, values)


def _wrong_count(action: argparse.Action, value: Any) -> str:
    several = action.nargs in {"+", "*"} or isinstance(action.nargs, int)
    if isinstance(value, list) != several:
        return f"{'a list' if several else 'one value'} is expected, not {shown(value)}"
    if value == [] and action.nargs != "*":
        return "a list with at least one value is expected, not []"
    if several and isinstance(action.nargs, int) and len(value) != action.nargs:
        return f"a list of {action.nargs} is expected, not {shown(value)}"
    if several and any(_text(item).startswith("-") for item in value):
        return f"an item of a list cannot start with '-': {shown(value)}"
    return ""


def _not_convertible(action: argparse.Action, values: list[Any]) -> str:
    for item in values:
        text = _text(item)
        convert = action.type if callable(action.type) else str
        try:
            converted = convert(text)
        except argparse.ArgumentTypeError as error:
            return str(error)
        except (TypeError, ValueError):
            return f"{shown(item)} is not {_KINDS.get(convert, 'valid')}"
        if action.choices is not None and converted not in action.choices:
            return f"{shown(item)} is not one of " + ", ".join(map(str, action.choices))
    return ""


_KINDS: dict[Any, str] = {int: "a whole number", float: "a number"}


def options(name: str) -> frozenset[str]:
    """The options that the launcher itself sets and this workload has, without dashes."""
    return frozenset(_options(parser(name))[0])


def takes(name: str, option: str) -> bool:
    """Whether a job of workload `name` may set `option` in `args`."""
    return option in _options(parser(name))[1]


def hub_names(name: str, args: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """(value, whether with weights) of the options of workload `name` that may name a repository of the hub."""
    kind = _module("options").HubName
    for option, action in _options(parser(name))[1].items():
        value = args.get(option, action.default)
        if isinstance(action.type, kind) and isinstance(value, str) and value not in action.type.others:
            yield value, action.type.weights


@functools.cache
def known() -> frozenset[str]:
    """The options that jobs may set in `args`, of all workloads."""
    return frozenset(option for name in names() for option in _options(parser(name))[1])


def refusal(name: str, args: Mapping[str, Any], model: str | None, hosts: int, slots: int) -> str | None:
    """Why the workload says that it cannot run so; None when it can, or has nothing to say before it runs."""
    ask = getattr(_module(name), "refusal", None)
    if ask is None:
        return None
    words = command_line({"run-dir": "-", "model": model or "-", **args})
    return str(reason) if (reason := ask(list(words), hosts, slots)) else None


def engine_options(args: Mapping[str, Any]) -> dict[str, str]:
    """The server's own options that a job of workload serve gives, each with its value."""
    words = args.get("engine-options", [])
    found: dict[str, str] = _module("engine_options").named(words if isinstance(words, list) else [words])
    return found


def packages(name: str, args: Mapping[str, Any]) -> list[Need]:
    """The packages that workload `name` needs with these args, one row of docker/workloads/packages.py for each.

    `args` may have options that the launcher itself sets.
    """
    table = _module("packages")
    ours, own = _options(parser(name))
    values = {option: args.get(option, action.default) for option, action in own.items()}
    values |= {option: args[option] for option in ours & args.keys()}
    whole = [table.Need("", module, table.WORKLOADS[module]) for module in traits(name).packages]
    return [*whole, *(need for need in table.needed(values) if need.workload in ("", name))]


def monitors(config: Mapping[str, Any]) -> list[Need]:
    """The packages that the monitors in DeepSpeed's configuration need."""
    table: dict[str, Need] = _module("packages").MONITORS
    return [need for section, need in table.items() if config.get(section, {}).get("enabled")]


def stack(name: str) -> list[Need]:
    """What workload `name` is written for, which our images have; of a program of the user's own nothing is known."""
    if is_script(name):
        return []
    stack = ("torch", "deepspeed", "transformers") if steps(name) else ("torch",)
    return [_module("packages").Need("", package, package) for package in stack]


def steps(workload: str) -> bool:
    """Whether it works in steps with a batch, by DeepSpeed's configuration; of a user's own program: yes."""
    return is_script(workload) or "deepspeed-config" in options(workload)


def mixes(name: str) -> bool:
    """Whether workload `name` reads plain text, whose sources may have weights."""
    return {"data", "data-cache"} <= set(_options(parser(name))[1])


def converts(workload: str, args: Mapping[str, Any]) -> bool:
    """Whether it goes on from a checkpoint of another number of ranks."""
    return traits(workload).converts and not args.get("lora-4bit")


def saves(workload: str) -> bool:
    """Whether its ranks write checkpoints into the run folder; of a user's own program that is not known: no."""
    return not is_script(workload) and "checkpoint-every" in options(workload)


def required(name: str) -> frozenset[str]:
    """Those of `options` that the workload cannot do without."""
    needed = (o.removeprefix("--") for a in parser(name)._actions if a.required for o in a.option_strings)
    return options(name) & frozenset(needed)


def default(name: str, option: str) -> Any:
    """The value of `option` (without dashes) that a job leaves out; None if the workload has no such option."""
    action = parser(name)._option_string_actions.get(f"--{option}")
    return action.default if action else None
