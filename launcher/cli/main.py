"""From the words on the command line to an exit code.

Owns the exit code of every failure; verbs and options are in cli/commands/, what a verb does in cli/verbs/.
"""

from __future__ import annotations

import gc
import os
import sys
import warnings
from typing import TYPE_CHECKING

from launcher import ROOT
from launcher.cli import completion, streams
from launcher.cli.commands import parser
from launcher.cli.streams import say, say_problems
from launcher.errors import LauncherError, ToolMissingError

if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE, BUG, INTERRUPTED = 2, 70, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; see errors.py for what each means."""
    # imports make many objects and no garbage: looking for some is 5% of a command's time
    gc.set_threshold(100_000)
    streams.protect_stderr()
    streams.use_utf8()
    # a library's are for who writes the launcher: `python -W default -m launcher` shows them
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    try:
        return _run(argv)
    except LauncherError as error:
        return say_problems(error)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has gone
        streams.drop_output()
        return 0
    except OSError as error:  # a full disk, a quota, a folder that may not be entered
        streams.drop_output()
        say(f"error: {_unusable(error)}")
        return USAGE
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and not (error.name or "launcher").startswith("launcher"):
            return say_problems(_not_installed(str(error.name)))
        import traceback

        traceback.print_exc()
        say("this is a bug in the launcher: please report it with the lines above")
        return BUG


def _run(argv: Sequence[str] | None) -> int:
    if "_ARGCOMPLETE" in os.environ:
        completion.answer(parser())
    words = sys.argv[1:] if argv is None else list(argv)
    verb = next(
        (word for word in words if not word.startswith("-")), ""
    )  # the options before it take no values
    try:
        args, unknown = parser(verb).parse_known_args(words)
        if unknown:
            args.parser.unknown(unknown)
        code = int(args.function(args.options(**vars(args))))
    except SystemExit:  # of --help and --version
        _flush()
        raise
    _flush()
    return code


def _flush() -> None:
    # what goes wrong with it goes wrong here, not at exit
    if sys.stdout:
        sys.stdout.flush()


def _unusable(error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and not error.filename:  # of os.getcwd()
        return "the folder that this command runs in no longer exists; change to another one"
    return f"{error.filename or 'output'}: {error.strerror or error}"


def _not_installed(package: str) -> ToolMissingError:
    here = f"in {ROOT}: make install, then . .venv/bin/activate"
    hint = here if (ROOT / "Makefile").exists() else "install this package with its dependencies"
    return ToolMissingError(f"{sys.executable} has no package {package!r}", hint=hint)
