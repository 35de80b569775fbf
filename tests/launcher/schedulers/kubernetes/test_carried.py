"""The ConfigMaps that bring the user's code and the node entry into pods: keys, paths, bytes, and what does not fit."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from launcher.errors import PlanError
from launcher.planning.code import Code, File
from launcher.schedulers import kubernetes
from launcher.schedulers.kubernetes import carried
from tests.launcher.schedulers.kubernetes import configmaps_there, variants

if TYPE_CHECKING:
    from launcher.planning.plan import Plan

WEIRD = 'it\'s $(HOME) $$x `y`\n"z" é\t\r\n\u2028---\n\n'


def file(path: str, content: bytes, **more: Any) -> File:
    return File(path, f"/x/{path}", len(content), content=content, **more)


def planned(*files: File, kind: str = "job", **cluster: Any) -> Plan:
    plan = variants.decide({"kind": kind}, {"workload": "./train.py", "nodes": 2})
    return plan._replace(code=Code("/home/me/it's code", "train.py", files))


def foreign(job: dict[str, Any]) -> Plan:
    plan = variants.decide({}, job)
    cluster = dataclasses.replace(plan.cluster, image="python:3.12")
    return plan._replace(image="python:3.12", cluster=cluster)


def objects(plan: Plan) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(kubernetes.render(plan)["manifest.yaml"]))


def configmap(documents: list[dict[str, Any]], volume: str) -> dict[str, Any]:
    (found,) = [d for d in documents if d["metadata"]["name"].endswith(f"-{volume}")]
    return found


def contents(documents: list[dict[str, Any]], volume: str = "code") -> dict[str, bytes]:
    """Path → bytes, as the kubelet makes them of ConfigMaps and the volume's items."""
    spec = documents[-1]["spec"]["template"]["spec"]
    (source,) = [v for v in spec["volumes"] if v["name"] == volume]
    return configmaps_there.contents(documents, source)


def test_every_file_arrives_byte_for_byte() -> None:
    files = {
        "train.py": b"print(1)\n",
        "a b/it's $(x).py": WEIRD.encode(),
        "pkg/__init__.py": b"",
        "bin": b"\xff\xfe",
        "nul": b"a\0b",
        "pkg.py": b"no end",
    }
    documents = objects(planned(*(file(path, content) for path, content in files.items())))
    assert contents(documents) == files
    made = configmap(documents, "code")
    assert made["immutable"] is True
    assert set(made["binaryData"]) == {"3-bin", "4-nul"}
    pod = documents[-1]["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "code", "mountPath": "/code", "readOnly": True} in pod["volumeMounts"]
    words = pod["command"]
    assert words[words.index("--code") + 1] == "/code"
    assert words[words.index("--", words.index("--hostfile")) + 1] == "/code/train.py"


@pytest.mark.parametrize("kind", variants.KINDS)
@pytest.mark.heavy
def test_every_kind_brings_it(kind: str) -> None:
    documents = objects(planned(file("train.py", b"1"), kind=kind))
    assert configmap(documents, "code")["data"] == {"0-train.py": "1"}
    assert "/code/train.py" in str(documents[-1]) + str(documents[-2])


def test_modes_and_links() -> None:
    files = (
        file("train.py", b"1"),
        file("run.sh", b"2", executable=True),
        file("pkg/a.py", b"3"),
        File("lib/own", "/x/lib/own", 0, link="../pkg"),
        File("same.py", "/x/same.py", 0, link="train.py"),
    )
    plan = planned(*files)
    assert contents(objects(plan))["lib/own/a.py"] == b"3"
    assert contents(objects(plan))["same.py"] == b"1"
    (code,) = carried.of(plan)
    assert {"key": "1-run.sh", "path": "run.sh", "mode": 0o755} in code.maps[0].items


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            [file("train.py", b"1"), *(file(f"data-{n}.bin", bytes(2**20)) for n in range(4))],
            r"4,194,353 bytes, and a run may bring 4,194,304; the largest: data-0\.bin \(1,048,576 bytes\)",
        ),
        (
            [file("train.py", b"1"), file("data.bin", bytes(2**20 + 1))],
            r"the code's file data\.bin has 1,048,577 bytes, and a ConfigMap holds 1,048,576",
        ),
        ([file(f"{n}.py", b"") for n in range(2001)], "2,001 files, and a pod takes 2,000"),
        ([file("a\nb.py", b"")], r"the code's file 'a\\nb\.py': Kubernetes takes no such name"),
        ([file("..a.py", b"")], r"the code's file '\.\.a\.py': Kubernetes takes no such name"),
        ([file("\udcff.py", b"")], "Kubernetes takes no such name"),
    ],
)
def test_what_does_not_fit(files: list[File], words: str) -> None:
    with pytest.raises(PlanError, match=words) as caught:
        kubernetes.render(planned(*files))
    assert caught.value.exit_code == 3


@pytest.mark.heavy
def test_a_foreign_image_is_given_the_node_entry() -> None:
    assert carried.of(variants.decide({}, {"workload": "/opt/train.py"})) == []
    documents = objects(foreign({"workload": "/opt/train.py"}))
    programs = contents(documents, "programs")
    assert {"node.py", "preflight.py", "allreduce.py", "exit_codes.json"} <= set(programs)
    assert not [path for path in programs if path.startswith("workloads/")]
    words = documents[-1]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert words[:2] == ["/bin/sh", "-c"]
    assert words[3:6] == ["sh", "python3", "/opt/launcher/preflight.py"]
    assert '$$("$$1" --version' in words[2], "Kubernetes would read $( as a reference"
    trained = contents(objects(foreign({})), "programs")
    assert "workloads/pretrain.py" in trained


def link(path: str, to: str) -> File:
    return File(path, f"/home/me/{path}", 0, link=to)


def test_links_to_links_arrive() -> None:
    files = [file("train.py", b"1"), file("lib/v2/mod.py", b"2"), file("data/words", b"3")]
    links = [
        link("a-first", "current/mod.py"),  # through a link that comes later
        link("current", "lib/latest"),
        link("lib/latest", "v2"),
        link("lib/v2/words", "../../data/words"),  # within a folder that links lead to
    ]
    arrived = contents(objects(planned(*files, *links)))
    wanted = {"current/mod.py": b"2", "lib/latest/mod.py": b"2", "a-first": b"2", "current/words": b"3"}
    assert {path: arrived.get(path) for path in wanted} == wanted


@pytest.mark.heavy
def test_links_in_a_circle_of_folders_are_refused() -> None:
    files = [file(f"{name}/f", b"1") for name in "ab"]
    code = planned(*files, link("a/x", "../b"), link("b/y", "../a")).code
    assert code
    with pytest.raises(PlanError, match="and links to them"):
        objects(planned(*code.files))


def test_a_link_to_the_whole_code_arrives_once() -> None:
    arrived = contents(objects(planned(file("train.py", b"1"), link("first", "train.py"), link("here", "."))))
    assert set(arrived) == {"train.py", "first", "here/train.py", "here/first"}


def test_a_link_to_a_folder_above_itself_arrives_once() -> None:
    arrived = contents(objects(planned(file("train.py", b"1"), file("d/f", b"2"), link("d/up", ".."))))
    assert set(arrived) == {"train.py", "d/f", "d/up/train.py", "d/up/d/f"}
