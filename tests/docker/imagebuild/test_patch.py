"""Traps 3 and 4: the CPU of the build host and debug information, taken out of DeepSpeed's op builders.

The text that is patched is that of the DeepSpeed which the image builds: when it changes, these fail.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import pytest
from imagebuild import check, patch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs the train extra: DeepSpeed's source text"
)


@pytest.fixture(scope="module")
def op_builder() -> Path:
    spec = importlib.util.find_spec("deepspeed")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "ops" / "op_builder"


def texts(folder: Path) -> tuple[str, str]:
    return (folder / "builder.py").read_text(), (folder / "cpu" / "builder.py").read_text()


def test_the_text_here_is_the_text_that_is_built() -> None:
    locked = check.pins(check.HERE / "requirements" / "deepspeed.txt")["deepspeed"]
    assert importlib.metadata.version("deepspeed") == locked


def test_unpatched_it_takes_the_hosts_cpu_and_debug_information(op_builder: Path) -> None:
    builder, cpu = texts(op_builder)
    assert builder.count("march=native") > 0
    assert "'-g'" in builder
    assert "'-g'" in cpu


def test_patched_it_takes_neither(op_builder: Path) -> None:
    builder, cpu = patch.patch(*texts(op_builder), "x86-64-v3", "AVX256")
    code = "\n".join(line for line in builder.splitlines() if "will fall back to" not in line)
    assert "native" not in code.replace("-mcpu=native", "")
    assert builder.count("-march=x86-64-v3") == 3
    assert "'-g'" not in builder + cpu
    namespace: dict[str, object] = {}
    body = builder[builder.index("    def simd_width") : builder.index("    def command_exists")]
    exec("class Probe:\n" + body, namespace)
    assert namespace["Probe"]().simd_width() == "-D__AVX256__"  # type: ignore[operator]
    compile(builder, "builder.py", "exec")
    compile(cpu, "cpu/builder.py", "exec")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return '-march=native'", "return host_march()"),
        ("def simd_width(self):", "def vector_width(self):"),
        ("'-g', ", "'-ggdb', "),
    ],
)
def test_another_deepspeed_stops_the_build(op_builder: Path, old: str, new: str) -> None:
    builder, cpu = texts(op_builder)
    assert old in builder
    with pytest.raises(patch.TextChanged, match="this DeepSpeed needs another patch"):
        patch.patch(builder.replace(old, new), cpu, "x86-64-v3", "AVX256")


def test_the_files_of_a_source_tree_are_patched_in_place(
    op_builder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in zip(("builder.py", "cpu/builder.py"), texts(op_builder), strict=True):
        (tmp_path / name).write_text(text)
    arguments = ["--march", "x86-64-v2", "--simd", "SCALAR", str(tmp_path)]
    assert patch.main(arguments) == 0
    assert "-march=x86-64-v2" in (tmp_path / "builder.py").read_text()
    assert patch.main(arguments) == 1
    assert "patch: -march=native: found 0 times, expected 3" in capsys.readouterr().err
