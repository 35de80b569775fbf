"""A job's args and the workload's own parser agree on what fits and what arrives."""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher import ROOT, workloads

# What the launcher sets, so that the real parsers have what they require.
OURS = {"deepspeed-config": "ds.json", "run-dir": "/runs/a", "model": "byte-gpt"}
OPTIONS = {name: workloads._options(workloads.parser(name))[1] for name in workloads.names()}
# What the job must set itself.
REQUIRED = {
    name: {option: ["x"] if action.nargs else "x" for option, action in actions.items() if action.required}
    for name, actions in OPTIONS.items()
}

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
ITEMS = st.one_of(
    TEXT,
    st.integers(-3, 10**6),
    st.floats(),
    st.sampled_from(["bytes", "builtin", "1e-4", "0", "true", "--help", "-1", " 5 "]),
)
VALUES = st.one_of(st.none(), st.booleans(), ITEMS, st.lists(ITEMS, max_size=3))


def parsed(name: str, args: dict[str, Any]) -> argparse.Namespace:
    ours = {option: OURS[option] for option in workloads.required(name)}
    return workloads.parser(name).parse_args(workloads.command_line({**ours, **REQUIRED[name], **args}))


def problems(name: str, args: dict[str, Any]) -> list[str]:
    return [str(problem) for _, problem in workloads.problems(name, args)]


@pytest.mark.heavy  # many examples
@pytest.mark.hypothesis
@pytest.mark.parametrize("name", workloads.names())
def test_what_has_no_problem_is_parsed(name: str) -> None:
    default = vars(parsed(name, {}))

    @given(st.dictionaries(st.sampled_from(sorted(OPTIONS[name])), VALUES, max_size=5))
    def fits(args: dict[str, Any]) -> None:
        args = {**REQUIRED[name], **args}
        bad = {key for key, _ in workloads.problems(name, args)}
        good = {key: value for key, value in args.items() if key not in bad}
        made = vars(parsed(name, good))  # argparse would exit
        for key, value in args.items():
            field = key.replace("-", "_")
            if key in bad or value is None:
                assert made[field] == default[field]
            elif isinstance(value, list):
                assert [str(item) for item in made[field]] == [str(item) for item in value]
            elif isinstance(made[field], (bool, int, float)):
                assert made[field] == type(made[field])(value)
            else:
                assert made[field] == str(value)

    fits()


@pytest.mark.parametrize("name", workloads.names())
def test_what_a_workload_needs_is_missed(name: str) -> None:
    needed = REQUIRED[name]
    assert [key for key, _ in workloads.problems(name, {})] == list(needed)
    assert [key for key, _ in workloads.problems(name, dict.fromkeys(needed))] == list(needed)
    assert problems(name, needed) == []


@pytest.mark.parametrize("name", workloads.names())
def test_what_the_launcher_sets_is_an_option(name: str) -> None:
    ours = workloads.options(name)
    assert workloads.required(name) <= ours
    assert not ours & set(OPTIONS[name])
    assert {
        key for key, _ in workloads.problems(name, {**REQUIRED[name], **dict.fromkeys(ours, "x")})
    } == ours


def test_no_parser_needs_torch_and_no_description_of_a_workload() -> None:
    code = (
        "import sys; from launcher import workloads\n"
        "for name in workloads.names(): workloads.parser(name); workloads.traits(name)\n"
        "print({'torch', 'deepspeed', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_names_are_files_with_a_parser() -> None:
    assert "pretrain" in workloads.names()
    assert "options" not in workloads.names()
    assert workloads.is_script("mine.py")
    assert workloads.is_script("/opt/mine")
    assert not workloads.is_script("pretrain")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"lr": 1e-5}, ["--lr=1e-05"]),
        ({"lr": 0.1}, ["--lr=0.1"]),
        ({"steps": 10}, ["--steps=10"]),
        ({"on": True, "off": False, "out": None}, ["--on", "--no-off"]),
        ({"data": ["a b", "c"]}, ["--data", "a b", "c"]),
        ({"text": "--x $(y) 'z'"}, ["--text=--x $(y) 'z'"]),
        ({"text": ""}, ["--text="]),
        ({}, []),
    ],
)
def test_command_line(args: dict[str, Any], words: list[str]) -> None:
    assert list(workloads.command_line(args)) == words


@given(st.floats(allow_nan=False))
def test_numbers_arrive_exactly(value: float) -> None:
    (word,) = workloads.command_line({"lr": value})
    assert float(word.removeprefix("--lr=")) == value


# Each kind of option that argparse has


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    made = argparse.ArgumentParser(prog="kinds")
    made.add_argument("--whole", type=int)
    made.add_argument("--number", type=float)
    made.add_argument("--text")
    made.add_argument("--choice", choices=("adam", "lion"))
    made.add_argument("--size", type=int, choices=(1, 2))
    made.add_argument("--some", nargs="+")
    made.add_argument("--any", nargs="*")
    made.add_argument("--pair", nargs=2, type=int)
    made.add_argument("--maybe", nargs="?")
    made.add_argument("--switch", action="store_true")
    made.add_argument("--both", action=argparse.BooleanOptionalAction)
    monkeypatch.setattr(workloads, "parser", lambda name: made)


@pytest.mark.usefixtures("kinds")
@pytest.mark.parametrize(
    "args",
    [
        {"whole": 5},
        {"whole": "5"},
        {"number": 5},
        {"number": 1e-4},
        {"text": 5},
        {"text": "-x"},
        {"text": ""},
        {"choice": "lion"},
        {"size": 2},
        {"some": ["a"]},
        {"any": []},
        {"pair": [1, 2]},
        {"maybe": "x"},
        {"switch": True},
        {"both": True},
        {"both": False},
        dict.fromkeys(["whole", "choice", "some", "switch", "both"]),
    ],
    ids=str,
)
def test_fits(args: dict[str, Any]) -> None:
    assert problems("kinds", args) == []
    workloads.parser("kinds").parse_args(workloads.command_line(args))


@pytest.mark.usefixtures("kinds")
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("whole", 1.5, "1.5 is not a whole number"),
        ("whole", "five", "'five' is not a whole number"),
        ("whole", [5], "one value is expected, not [5]"),
        ("whole", True, "a value is expected, not true"),
        ("number", "fast", "'fast' is not a number"),
        ("choice", "sgd", "'sgd' is not one of adam, lion"),
        ("size", 3, "3 is not one of 1, 2"),
        ("some", "a", "a list is expected, not 'a'"),
        ("some", [], "a list with at least one value is expected, not []"),
        ("some", ["-a"], "an item of a list cannot start with '-': [\"-a\"]"),
        ("any", ["a", "--b"], 'an item of a list cannot start with \'-\': ["a", "--b"]'),
        ("pair", 1, "a list is expected, not 1"),
        ("pair", [1], "a list of 2 is expected, not [1]"),
        ("pair", ["a", 1], "'a' is not a whole number"),
        ("switch", 1, "true or false is expected, not 1"),
        ("switch", False, "it can be turned on alone; leave it out"),
        ("both", "yes", "true or false is expected, not 'yes'"),
        ("no-both", True, "workload 'kinds' has no option 'no-both'; did you mean 'both'?"),
        ("swich", True, "workload 'kinds' has no option 'swich'; did you mean 'switch'?"),
        ("help", True, "workload 'kinds' has no option 'help'; it can be any, both, "),
    ],
)
def test_does_not_fit(key: str, value: Any, message: str) -> None:
    (problem,) = problems("kinds", {key: value})
    assert message in problem


# What a workload says that it is


def test_what_is_estimated_trains_in_steps_and_has_a_model() -> None:
    chat = ["chat_dpo", "chat_ppo", "chat_reward", "chat_rl", "chat_sft"]
    assert workloads.estimated() == [*chat, "finetune", "pretrain"]
    for name in workloads.estimated():
        assert workloads.steps(name)
        assert "model" in workloads.required(name)
        assert not workloads.traits(name).serves


def test_a_program_of_the_users_own_may_resolve_auto() -> None:
    assert workloads.traits("./train.py").resolves_auto
    assert not workloads.traits("./train.py").estimated


@pytest.mark.heavy
def test_the_launcher_knows_no_workload_by_name() -> None:
    """What a workload is stands in its own module; `pretrain` alone is named, as the default of a job file."""
    named = []
    for path in sorted((ROOT / "launcher").rglob("*.py")):
        words = [n.value for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Constant)]
        named += [(path, word) for word in words if isinstance(word, str) and word in UNMISTAKABLE]
    assert named == []


UNMISTAKABLE = set(workloads.names()) - {"pretrain", "probe", "serve", "zero", "startup", "generate"}


@pytest.mark.parametrize(
    "path",
    [
        "a.py",
        "./a.py",
        "/data/a.py",
        "/work/train",
        "./pkg",
        "/my data/a.py",
        "./my train.py",
        "../x/a.py",
        "~/a.py",
    ],
)
def test_paths_that_python_runs(path: str) -> None:
    assert workloads.is_script(path)
    assert workloads.script_problem(path) == ("", "")


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("torchrun a.py", "is a command line"),
        ("python ./a.py", "is a command line"),
        ("./a.py --lr 1", "is a command line"),
        ("a.py x", "is a command line"),
        ("./a.sh", "is no Python program"),
        ("/x/a.ipynb", "is no Python program"),
        ("/", "is a folder"),
        ("./", "is a folder"),
        ("../..", "is a folder"),
        ("-c/x", "would be an option of Python's"),
        ("-m.py", "would be an option of Python's"),
        ("https://x/a.py", "is an address"),
        ("hf://x/a.py", "is an address"),
    ],
)
def test_paths_that_python_does_not_run(path: str, what: str) -> None:
    assert workloads.script_problem(path)[0] == what


def test_adapters_are_converted_for_other_ranks_but_not_on_weights_in_4_bit() -> None:
    assert workloads.converts("finetune", {"lora-rank": 4})
    assert not workloads.converts("finetune", {"lora-rank": 4, "lora-4bit": True})
    assert not workloads.converts("chat_rl", {})
