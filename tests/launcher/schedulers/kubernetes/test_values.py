"""Names, labels, variables and quantities as text: whatever a person writes arrives unchanged, or is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from launcher.errors import PlanError, SpecError
from launcher.files import cluster, fields, kubernetes_syntax, validation
from launcher.rendering import templates
from launcher.schedulers import kubernetes
from tests.launcher.schedulers.kubernetes import audit, variants

# Any text that a process's environment can hold: no NUL, no lone surrogates.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
_WORDS = [
    "$(HOME)",
    "$$(HOME)",
    "a$$b",
    "$",
    "$$",
    "no",
    "1e3",
    "0x1f",
    "~",
    "",
    " x ",
    "a\nb",
    "- a",
    "{{ x }}",
    "#c",
]
_MARKS = [
    "a: b",
    "\t",
    "'",
    '"',
    "\\",
    "\x85",
    "\u2028",
    "\ufeff",
    "\x7f",
    "😀",
    "é",
    "| a",
    "> a",
    "---",
    "...",
    "!!x",
]
TRICKS = st.sampled_from(_WORDS + _MARKS)
NAME = st.from_regex(fields.NAME, fullmatch=True).filter(lambda n: len(n) <= 40)


def parsed(text: str) -> list[dict[str, Any]]:
    """The documents as libyaml reads them, of which kubectl's YAML library is a port."""
    return list(yaml.load_all(text, yaml.CSafeLoader))


def expanded(text: str, env: dict[str, str]) -> str:
    """What the kubelet makes of a command's word or a variable's value.

    https://github.com/kubernetes/kubernetes/blob/v1.34.0/third_party/forked/golang/expansion/expand.go
    """
    made, at = "", 0
    while at < len(text):
        if text[at] != "$" or at + 1 == len(text):
            made += text[at]
            at += 1
        elif text[at + 1] == "$":
            made += "$"
            at += 2
        elif text[at + 1] == "(" and ")" in text[at:]:
            end = text.index(")", at)
            made += env.get(text[at + 2 : end], text[at : end + 1])
            at = end + 1
        else:
            made += text[at : at + 2]
            at += 2
    return made


@pytest.mark.heavy  # many examples, each a manifest
@given(st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,12}", fullmatch=True), TEXT | TRICKS, max_size=4))
@settings(max_examples=40)
def test_variables_arrive_unchanged(env: dict[str, str]) -> None:
    assume(not env.keys() & {"RUN_DIR", "DEEPSPEED_CONFIG", "HF_TOKEN"})
    text = kubernetes.render(variants.decide({}, {"env": env}))["manifest.yaml"]
    for documents in (list(YAML(typ="safe", pure=True).load_all(text)), parsed(text)):
        assert audit.problems(documents) == []
        given_ = {e["name"]: e.get("value") for e in _container(documents)["env"]}
        for name, value in env.items():
            assert expanded(given_[name], given_) == value


@pytest.mark.heavy  # many examples, each a manifest
@given(st.lists(TEXT | TRICKS, min_size=1, max_size=4))
@settings(max_examples=100)
def test_arguments_arrive_unchanged(values: list[str]) -> None:
    job = {"workload": "/data/train.py", "args": {"names": values}}
    documents = parsed(kubernetes.render(variants.decide({}, job))["manifest.yaml"])
    words = [expanded(word, {}) for word in _container(documents)["command"]]
    script = words[words.index("/data/train.py") + 1 :]
    assert [v for v in values if not any(v in word for word in script)] == []


@pytest.mark.heavy  # many examples, each a manifest
@given(
    NAME,
    st.integers(1, 5000).filter(lambda n: n <= 4096),
    st.sampled_from(variants.KINDS),
    st.from_regex(r"[a-z0-9]{0,12}", fullmatch=True),
)
@settings(max_examples=50)
def test_names_are_names_for_every_kind(name: str, nodes: int, kind: str, suffix: str) -> None:
    plan = variants.decide({"kind": kind}, {"name": name, "nodes": nodes})
    plan = plan._replace(id=f"{plan.id}{suffix}")
    documents = parsed(kubernetes.render(plan)["manifest.yaml"])
    assert audit.problems(documents) == []


LABELS = st.dictionaries(
    st.from_regex(r"([a-z0-9.-]{1,10}/)?[A-Za-z0-9._-]{1,8}", fullmatch=True) | TEXT,
    TEXT | TRICKS,
    max_size=3,
)


@pytest.mark.heavy  # many examples, each a manifest
@given(
    LABELS, LABELS, st.dictionaries(TEXT, TEXT | st.from_regex(r"\d+(\.\d+)?[a-zA-Z]{0,2}", fullmatch=True))
)
@settings(max_examples=100)
def test_labels_and_quantities_are_right_or_refused(
    labels: dict[str, str], selector: dict[str, str], resources: dict[str, str]
) -> None:
    fields = {"labels": labels, "node_selector": selector, "resources": resources}
    kept: dict[str, Any] = {}
    for name, values in fields.items():
        try:
            validation.build(cluster.Kubernetes, {name: values})
            kept[name] = values
        except SpecError:
            continue
    try:
        text = kubernetes.render(variants.decide(kept))["manifest.yaml"]
    except PlanError as error:
        refused = str(error)
        text = ""
    if not text:
        assert re.search("is set by the launcher|a field of its own|slots", refused)
        return
    documents = parsed(text)
    assert audit.problems(documents) == []
    template = documents[-1]["spec"]["template"]
    assert kept.get("labels", {}).items() <= template["metadata"]["labels"].items()
    assert template["spec"].get("nodeSelector", {}) == kept.get("node_selector", {})
    limits = template["spec"]["containers"][0]["resources"]["limits"]
    assert kept.get("resources", {}).items() <= limits.items()


@given(TEXT | st.from_regex(r"[0-9.]{1,4}[a-zA-Z+-]{0,3}[0-9]{0,2}", fullmatch=True))
@settings(max_examples=300)
def test_quantity_agrees_with_the_server(text: str) -> None:
    try:
        kubernetes_syntax.quantity(text)
    except ValueError:
        return
    assert audit._quantity(text)
    assert kubernetes_syntax.number(text) >= 0


def test_quantities_have_their_numbers() -> None:
    numbers = {
        "2": 2,
        "500m": 0.5,
        "1.5": 1.5,
        "64Gi": 64 * 2**30,
        "1e3": 1000,
        "2E": 2e18,
        "2Ei": 2 * 2**60,
        "3k": 3e3,
    }
    assert {text: kubernetes_syntax.number(text) for text in numbers} == numbers


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=200)
def test_files_of_the_config_map_arrive_unchanged(text: str) -> None:
    """Whether as a block or as JSON, every file in the ConfigMap is what was written."""
    made = f"data:\n  x: {templates.block(text)}\n"
    assert YAML(typ="safe", pure=True).load(made) == {"data": {"x": text}}
    assert parsed(made) == [{"data": {"x": text}}]


def _container(documents: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = documents[-1]["spec"]["template"]["spec"]["containers"][0]
    return found
