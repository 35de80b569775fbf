"""Takes the build host out of DeepSpeed's op builders: -march=native, its SIMD define, and debug information.

DeepSpeed 0.19 asks the machine that compiles which instructions to use, and neither CFLAGS nor an environment
variable overrides that: an op built where AVX-512 exists dies with SIGILL where it does not
(https://github.com/deepspeedai/DeepSpeed/issues/1886). Every edit counts what it replaced, so that a DeepSpeed
whose text has changed stops the build instead of going back to the host's own flags. Which flags are right is
ops.py's matter.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path


class TextChanged(Exception):
    """DeepSpeed's source is not the text these edits were written for."""


def patch(builder: str, cpu_builder: str, march: str, simd: str) -> tuple[str, str]:
    """Return op_builder/builder.py and op_builder/cpu/builder.py with `march`, `-D__{simd}__` and no `-g`.

    Raises TextChanged when an edit finds more or fewer places than DeepSpeed 0.19 has.
    """
    native = r"""return (['"])-march=native\1"""
    builder = _replace(native, f"return '-march={march}'", builder, what="-march=native", expected=3)
    builder = _replace(
        r"(    def simd_width\(self\):\n)(?:        .*\n|\n)+(?=    def )",
        rf"\1        return '-D__{simd}__'\n\n",
        builder,
        what="simd_width()",
    )
    builder = _replace(r"'-g', ", "", builder, what="'-g' of builder.py")
    return builder, _replace(r"'-g', ", "", cpu_builder, what="'-g' of cpu/builder.py")


def _replace(pattern: str, new: str, text: str, *, what: str, expected: int = 1) -> str:
    text, count = re.subn(pattern, new, text)
    if count != expected:
        raise TextChanged(
            f"{what}: found {count} times, expected {expected}; this DeepSpeed needs another patch"
        )
    return text


def main(argv: list[str] | None = None) -> int:
    """Patch the op_builder folder that is named; return 1 and say why when its text has changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--march", required=True)
    parser.add_argument("--simd", required=True)
    parser.add_argument("op_builder", type=Path)
    args = parser.parse_args(argv)
    files = (args.op_builder / "builder.py", args.op_builder / "cpu" / "builder.py")
    try:
        patched = patch(files[0].read_text(), files[1].read_text(), args.march, args.simd)
    except TextChanged as error:
        print(f"patch: {error}", file=sys.stderr)
        return 1
    for file, text in zip(files, patched, strict=True):
        file.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
