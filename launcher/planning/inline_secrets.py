"""Tokens that a job or a cluster file writes out, although its run folder and its objects then hold them.

Owns what looks like a token; how a secret reaches the ranks is `rendering`'s.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.cluster import Cluster
    from launcher.files.job import Job

# The starts that services give their tokens, so that they are found where they do not belong: Hugging Face, GitHub,
# GitLab, OpenAI, Slack, AWS' key ids, NVIDIA NGC.
_TOKEN = re.compile(r"(?:hf_|gh[opsu]_|github_pat_|glpat-|sk-|xox[abp]-|AKIA|nvapi-)[A-Za-z0-9_-]{12,}")
_NAME = re.compile(r"(?:^|_)(?:TOKEN|API_?KEY|SECRET|PASSWORD|ACCESS_KEY)$")
_LEAST = 8  # characters: a shorter value is a switch or a name


def warnings(job: Job, cluster: Cluster) -> Iterator[Problem]:
    """One for each variable whose value looks like a token, or that is called like one."""
    for name, variable in {**cluster.env, **job.env}.items():
        if looks_secret(name, variable.value or ""):
            file = "job" if name in job.env else "cluster"
            what = f"env {name} looks like a secret, and stands in the run's files"
            hint = f"keep it in a file or a Secret: {name}: {{secret: NAME}}"
            yield Problem(what, hint, about=(file, "env", name))


def looks_secret(name: str, value: str) -> bool:
    """Whether variable `name` with `value` looks like a token, or is called like one."""
    named = _NAME.search(name) and len(value) >= _LEAST and not value.startswith(("/", "~"))
    return bool(named or _TOKEN.search(value))
