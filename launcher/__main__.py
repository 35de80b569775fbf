"""`python -m launcher`."""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - an older Python shall say so
    sys.stderr.write("error: the launcher needs Python 3.10 or newer, and %s is older\n" % sys.executable)  # noqa: UP031
    sys.exit(6)

from launcher.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
