"""Tokens that are written out are warned of, and nothing else is."""

from __future__ import annotations

import pytest

from tests import samples

TOKEN = "hf_" + "a" * 34


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", TOKEN),
        ("HF_TOKEN", "not-a-known-form"),
        ("ANYTHING", TOKEN),
        ("ARGS", f"--token={TOKEN}"),
        ("WANDB_API_KEY", "0123456789abcdef"),
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMIK7MDENGbPx"),
        ("DB_PASSWORD", "correct horse"),
    ],
)
def test_what_looks_like_a_secret(name: str, value: str) -> None:
    (warning,) = samples.decided({"env": {name: value}}).warnings
    assert warning.message == f"env {name} looks like a secret, and stands in the run's files"
    assert value not in str(warning)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "false-for-now"),
        ("HF_TOKEN_PATH", "/shared/token"),
        ("HF_TOKEN", "/shared/token"),
        ("HF_TOKEN", ""),
        ("USE_TOKEN", "1"),
        ("TASK", "sk-learn"),
        ("A", "hf_home"),
    ],
)
def test_what_does_not(name: str, value: str) -> None:
    assert samples.decided({"env": {name: value}}).warnings == ()


def test_a_secret_by_its_name_is_none_of_these() -> None:
    assert samples.decided({"env": {"HF_TOKEN": {"secret": "hf-token"}}}).warnings == ()
