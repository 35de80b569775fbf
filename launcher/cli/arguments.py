"""argparse with this project's messages, and verbs in groups.

Owns the words for a wrong command line, its exit code, and the form of the help; which verbs and options there are is
main.py's.
"""

from __future__ import annotations

import argparse
import difflib
from typing import TYPE_CHECKING, Any, NoReturn

from launcher.cli.streams import say
from launcher.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from launcher.cli.options import Options


_RUN, _END = "`local`, `slurm` and `kubernetes` run a job", "`cancel` ends a run"
# Other tools' words for a verb, or for what is an option here.
_WORDS = {
    **dict.fromkeys(("run", "submit", "launch", "start", "train"), _RUN),
    **dict.fromkeys(("stop", "kill", "delete"), _END),
    **dict.fromkeys(("ps", "ls"), "`list` shows the runs"),
    **dict.fromkeys(("show", "describe"), "`status` shows a run"),
    **dict.fromkeys(
        ("render", "template"), "`slurm` and `kubernetes` print with --dry-run what they would submit"
    ),
    "validate": "`check` validates jobs",
}


def filled(word: str) -> str:
    """An option's value; raises ArgumentTypeError for an empty one, such as of a shell variable that is not set."""
    if not word.strip():
        raise argparse.ArgumentTypeError("the value is empty")
    return word


def whole(word: str) -> int:
    """An option's value; raises ArgumentTypeError for what is no whole number from 0 to 100,000."""
    if not (word.isascii() and word.isdecimal() and int(word) <= 100_000):
        raise argparse.ArgumentTypeError(f"a whole number from 0 to 100000 is expected, not {word[:40]!r}")
    return int(word)


class Parser(argparse.ArgumentParser):
    groups: list[tuple[str, list[argparse.Action]]] | None = None  # title → its verbs

    def format_help(self) -> str:
        if self.groups is None:
            return super().format_help()
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        flags = [action for action in self._actions if action.option_strings]
        for title, actions in [*self.groups, ("options", flags)]:
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        return formatter.format_help()

    def error(self, message: str) -> NoReturn:
        self.refuse(message, f"see `{self.prog} --help`")

    def refuse(self, message: str, hint: str) -> NoReturn:
        say(f"error: {message}; {hint}" if hint else f"error: {message}")
        raise SystemExit(SpecError.exit_code)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse's own message lists every choice and names none as meant
        if action.choices is not None and value not in action.choices:
            what = str(action.metavar or action.dest).lower()
            if what == "verb" and value in _WORDS:
                self.refuse(f"unknown verb {value!r}", _WORDS[value])
            self.refuse(f"unknown {what} {value!r}", did_you_mean(value, map(str, action.choices)))

    def unknown(self, words: Sequence[str]) -> NoReturn:
        """Refuse words that no argument takes."""
        flag = words[0].partition("=")[0]
        if not flag.startswith("-"):
            self.error(f"unexpected {words[0]!r}")
        if flag in self._option_string_actions:
            self.refuse(f"{flag} stands before the verb", f"write it after: {self.prog} {flag}")
        close = difflib.get_close_matches(flag, self._option_string_actions, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"see `{self.prog} --help`"
        if "--set" in self._option_string_actions and (key := _key_of(flag)):
            hint = f"it is a key of a file: --set {key}=VALUE"
        self.refuse(f"unknown option {flag!r}", hint)


def _key_of(flag: str) -> str:
    """The key of a job, a cluster or a workload's options that an option is called like; '' for none."""
    from launcher import workloads
    from launcher.files import cluster, job, validation

    option = flag.lstrip("-")
    name = option.replace("-", "_")
    models = {"": job.Job, "cluster.": cluster.Cluster, "cluster.slurm.": cluster.Slurm}
    for prefix, model in {**models, "cluster.kubernetes.": cluster.Kubernetes}.items():
        if name in validation.fields(model):
            return f"{prefix}{name}"
    return f"args.{option}" if option in workloads.known() else ""


class Verbs:
    """The verbs of `root`, added group by group; with `only`, that one alone gets its options."""

    def __init__(self, root: Parser, only: str | None = None) -> None:
        self.root, self.only = root, only
        self.table = root.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
        self.groups: list[tuple[str, list[argparse.Action]]] = []
        root.groups = self.groups

    def group(self, title: str) -> None:
        """Start the next group."""
        self.groups.append((title, []))

    def add(
        self,
        name: str,
        what: str,
        function: Callable[[Any], int],
        options: type[Options],
        aliases: Sequence[str] = (),
    ) -> Parser | None:
        """The parser of a verb, which calls `function` with its `options`; None where it needs none."""
        if self.only not in (None, name, *aliases):
            self._name(name, what, aliases)
            return None
        description = f"{what[0].upper()}{what[1:]}."
        verb = self.table.add_parser(
            name, help=what, description=description, aliases=aliases, allow_abbrev=False
        )
        verb.set_defaults(function=function, options=options, parser=verb)
        self.groups[-1][1].append(self.table._choices_actions[-1])
        return verb

    def _name(self, name: str, what: str, aliases: Sequence[str]) -> None:
        """As add_parser does, without a parser: thirty of them take 5 ms."""
        shown = self.table._ChoicesPseudoAction(name, list(aliases), what)
        self.table._choices_actions.append(shown)
        self.groups[-1][1].append(shown)
        self.table.choices |= dict.fromkeys((name, *aliases), self.root)
