"""Lets the Python of a rank write down the stacks of its threads on a signal: the node entry's `sitecustomize`.

stacks.py copies this file to a folder that comes first on the ranks' PYTHONPATH, where every Python but `python -I`,
`-E` and `-S` imports it at its start (https://docs.python.org/3/library/site.html). It runs in the user's Python,
whichever that is: it changes nothing that a program sees, raises nothing, and then imports the `sitecustomize` that
would have been imported without it.

The handler is faulthandler's: C code that neither waits for the interpreter's lock nor for the program.
"""

import os
import sys


def _listen() -> None:
    import faulthandler
    import fcntl

    number, _, folder = os.environ["LAUNCHER_STACKS"].partition(":")
    file = os.open(f"{folder}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        # far from the numbers that a program's own files get, if it ever closes this one
        high = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 700)
    finally:
        os.close(file)
    faulthandler.register(int(number), file=high, all_threads=True, chain=False)


def _next() -> None:
    """Import the sitecustomize that this file hides."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = __file__.rpartition("/")[0]
    sys.path[:] = [path for path in sys.path if path != here]
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


try:  # noqa: SIM105 - a program need not import contextlib
    _listen()
except Exception:
    pass
if __name__ == "sitecustomize":
    _next()
