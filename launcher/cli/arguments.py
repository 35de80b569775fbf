"""argparse with this project's messages: what is wrong, and what was probably meant.

Owns the words for a wrong command line and its exit code; which verbs and options there are is main.py's.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from launcher.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.refuse(message, f"see `{self.prog} --help`")

    def refuse(self, message: str, hint: str) -> NoReturn:
        print(f"error: {message}; {hint}", file=sys.stderr, flush=True)
        raise SystemExit(SpecError.exit_code)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse's own message lists every choice and names none as meant
        if action.choices is not None and value not in action.choices:
            what = str(action.metavar or action.dest).lower()
            self.refuse(f"unknown {what} {value!r}", did_you_mean(value, map(str, action.choices)))

    def unknown(self, words: Sequence[str]) -> NoReturn:
        """Refuse words that no argument takes."""
        flag = words[0].partition("=")[0]
        if not flag.startswith("-"):
            self.error(f"unexpected {words[0]!r}")
        close = difflib.get_close_matches(flag, self._option_string_actions, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"see `{self.prog} --help`"
        self.refuse(f"unknown option {flag!r}", hint)
