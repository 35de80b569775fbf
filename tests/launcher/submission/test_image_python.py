"""A foreign image without a Python, or with an old one, is refused before it is submitted where that can be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from launcher.images import registry
from launcher.submission import image_python
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path


def said(image: object, runtime: str = "charliecloud", **fields: Any) -> str:
    plan = samples.decided(image=str(image), slurm={"container": runtime}, **fields)
    return str(image_python.problem(plan, "slurm", ask=True) or "")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An unpacked image: /usr/bin/python3 → /opt/py/bin/python3, an absolute link of the image → python3.12."""
    for name in ("usr/bin", "opt/py/bin"):
        (tmp_path / "image/rootfs" / name).mkdir(parents=True)
    made = tmp_path / "image/rootfs"
    (made / "bin").symlink_to("usr/bin")
    (made / "opt/py/bin/python3.12").touch()
    (made / "opt/py/bin/python3").symlink_to("python3.12")
    (made / "usr/bin/python3").symlink_to("/opt/py/bin/python3")
    return made


def test_links_start_at_the_image(root: Path) -> None:
    assert said(root) == said(root.parent, "oci") == ""
    (root / "opt/py/bin/python3.12").rename(root / "opt/py/bin/python3.8")
    (root / "opt/py/bin/python3").unlink()
    (root / "opt/py/bin/python3").symlink_to("../../../opt/py/bin/python3.8")
    assert "has Python 3.8, and the node entry needs 3.10 or newer; install a newer one" in said(root)


def test_no_python(root: Path) -> None:
    (root / "usr/bin/python3").unlink()
    assert "has no python3; name the path of its Python: `image_python: PATH`" in said(root)
    assert said(root, image_python="/opt/py/bin/python3") == ""
    assert "has no /usr/bin/python" in said(root, image_python="/usr/bin/python")
    assert said(root, mounts={"/usr": "/usr"}, fabric="tcp") == "", "a mount may bring it"
    (root / "usr/bin/python3").symlink_to("python3")
    assert "has no python3" in said(root), "a link to itself"


def test_an_image_that_is_not_here_or_is_ours(tmp_path: Path) -> None:
    assert said(tmp_path / "absent") == ""
    assert said(tmp_path / "deepspeed-train") == ""
    (tmp_path / "deepspeed-train").mkdir()
    assert said(tmp_path / "deepspeed-train") == ""


def test_what_a_registry_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def variables(name: str) -> dict[str, str]:
        return {"PYTHON_VERSION": name.rpartition(":")[2]}

    monkeypatch.setattr(registry, "variables", variables)
    assert "has Python 3.9, and the node entry needs 3.10" in said("docker.io/library/python:3.9.21", "pyxis")
    assert said("docker.io/library/python:3.12.1", "pyxis") == ""
    assert said("docker.io/library/python:3.9.21", "pyxis", image_python="/opt/conda/bin/python") == ""
