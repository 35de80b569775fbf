"""`python -m launcher`."""

import gc
import signal
import sys

if sys.version_info < (3, 10):  # noqa: UP036 - an older Python shall say so
    sys.stderr.write("error: the launcher needs Python 3.10 or newer, and %s is older\n" % sys.executable)  # noqa: UP031
    sys.exit(6)

_INTERRUPTED = 130
_early = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else as of nohup, which stays
if _early:  # no traceback while the program is still read
    signal.signal(signal.SIGINT, lambda number, frame: sys.exit(_INTERRUPTED))

from launcher.cli import main as cli  # noqa: E402


def main() -> int:
    """The command line's exit code."""
    if _early:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = cli.main()
    gc.freeze()  # what is left is no garbage, and the interpreter need not look for any while it ends
    return code


if __name__ == "__main__":
    sys.exit(main())
