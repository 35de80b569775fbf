"""The workload's command line is plain argparse: the launcher reads it without torch, and people read its help."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from workloads import options, pretrain

DOCKER = Path(__file__).parents[3] / "docker"
REQUIRED = ["--deepspeed-config=d.json", "--run-dir=run", "--model=gpt2"]


def test_a_parser_needs_the_standard_library_only() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(DOCKER)!r}); from workloads import pretrain; pretrain.parser(); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names))"
    )
    loaded = subprocess.run(
        [sys.executable, "-S", "-I", "-c", program], text=True, capture_output=True, check=True
    )
    assert loaded.stdout.split() == ["__main__", "ending", "heartbeat", "nsys", "tracing", "workloads"]


def test_every_option_is_kebab_case_and_has_help() -> None:
    for action in pretrain.parser()._actions:
        assert action.help, action.option_strings
        assert "%%" not in action.help
        for option in action.option_strings:
            assert re.fullmatch(r"-h|--[a-z][a-z0-9]*(-[a-z0-9]+)*", option)


def test_the_launcher_sets_these() -> None:
    (group,) = [g for g in pretrain.parser()._action_groups if g.title == "set by the launcher"]
    assert [action.option_strings[0] for action in group._group_actions] == [
        "--deepspeed-config",
        "--run-dir",
        "--model",
        "--checkpoint-every",
        "--checkpoint-keep",
        "--checkpoint-async",
        "--checkpoint-mirror",
        "--checkpoint-owner",
        "--checkpoint-local",
        "--checkpoint-local-every",
        "--checkpoint-local-keep",
        "--resume",
    ]


def test_defaults_need_nothing_but_what_the_launcher_sets() -> None:
    args = pretrain.parser().parse_args(REQUIRED)
    assert args.data == ["builtin"]
    assert args.resume is None
    assert args.export is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr=0"], "a number above 0 is expected, not '0'"),
        (["--lr=nan"], "a number above 0 is expected, not 'nan'"),
        (["--max-steps=1.5"], "a whole number of at least 1 is expected, not '1.5'"),
        (["--beta2=1"], "a number from 0 to below 1 is expected, not '1'"),
        (["--fail-code=0"], "an exit code from 1 to 255 is expected, not '0'"),
        (["--log-every=0"], "a whole number of at least 1 is expected, not '0'"),
        (["--checkpoint-keep=-1"], "a whole number of at least 0 is expected, not '-1'"),
        (["--max-step=5"], "unrecognized arguments: --max-step=5"),
    ],
)
def test_wrong_options_are_told_by_rank_0_alone(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as exit_:
            options.parse(pretrain.parser(), [*REQUIRED, *words])
        assert exit_.value.code == 64
        printed = capsys.readouterr()
        assert printed.out == ""
        if rank == "1":
            assert printed.err == ""
        else:
            assert printed.err.startswith("pretrain: error: ")
            assert printed.err.endswith(f"{message}\n")
            assert printed.err.count("\n") == 1
