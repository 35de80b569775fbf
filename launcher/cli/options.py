"""What each family of verbs gets from the command line, with types.

Owns names and defaults; which verb has which option, and its help, is main.py's.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence


class Options(argparse.Namespace):
    """An argparse namespace; a class adds the types, and the defaults of options that not every verb has."""


class Files(Options):
    """Which cluster, and what is changed in the files."""

    cluster: str | None = None
    settings: Sequence[str] = ()
    strict: bool = False


class Job(Files):
    """One job or pipeline."""

    job: str
    name: str = ""


class Diff(Job):
    """diff."""

    on: str


class Launch(Job):
    """local, slurm, kubernetes."""

    scheduler: str
    dry_run: bool
    output: str | None
    force: bool
    wait: bool
    after: Sequence[str] = ()
    exclude_bad: bool = False
    sweep: Sequence[str] = ()
    server_dry_run: bool = False
    with_claims: str | None = None
    debug: bool = False

    @property
    def submits(self) -> bool:
        return not (self.dry_run or self.output or self.server_dry_run)


class Plan(Job):
    """plan."""

    json: bool
    max_model: str | None
    min_nodes: bool
    plot: Sequence[str]


class Prove(Job):
    """prove. `scheduler` and `submits` as of Launch."""

    scheduler: str
    kills: int
    steps: int | None
    json: bool
    force: bool
    submits: bool = True


class Tune(Job):
    """tune."""

    on: str
    steps: int
    limit: str
    most: int
    space: Sequence[str]
    dry_run: bool
    wait: bool
    output: str | None
    json: bool
    plot: Sequence[str]


class Check(Files):
    """check."""

    jobs: Sequence[str]
    on: Sequence[str]
    live: bool


class Run(Options):
    """status, logs, cancel, resume, stacks."""

    run: str
    json: bool = False
    follow: bool = False
    rank: int | None = None
    host: str | None = None
    exclude_bad: bool = False
    now: bool = False


class Shell(Options):
    """shell."""

    run: str
    rank: int | None
    host: str | None


class Profile(Options):
    """profile."""

    run: str
    steps: str
    ranks: str
    tool: str
    timeout: str
    json: bool


class Rerun(Options):
    """rerun."""

    run: str
    force: bool
    wait: bool


class Compare(Options):
    """compare."""

    one: str
    other: str
    json: bool


class Report(Options):
    """report."""

    runs: Sequence[str]
    since: str | None
    serve: str | None
    json: bool
    plot: Sequence[str]


class List(Options):
    """list."""

    all: bool
    state: str | None
    json: bool


class Checkpoints(Options):
    """checkpoints."""

    run: str
    verify: bool
    export: str | None
    keep: int | None
    step: int | None
    json: bool


class Fetch(Options):
    """fetch."""

    run: str
    path: str
    dest: str
    force: bool


class Data(Options):
    """data."""

    action: Literal["list", "show", "remove"]
    key: str | None
    cache: str | None
    cluster: str | None
    json: bool


class Cluster(Options):
    """cluster."""

    action: Literal["discover", "probe", "measured", "rbac"]
    subject: str | None  # discover: a scheduler; probe and measured: a cluster
    output: str | None
    force: bool
    update: bool
    probe: bool
    partition: str | None
    context: str | None
    namespace: str | None
    cluster: str | None
    on: str | None
    nodes: int | None
    settings: Sequence[str]

    @property
    def runs(self) -> Sequence[str]:
        """Of --from, which is no name in Python."""
        named: Sequence[str] = getattr(self, "from")
        return named


class Look(Options):
    """hostfile, env, schema, doctor, completion."""

    json: bool = False
    fabric: str | None = None
    hostlist: str | None = None
    slots: int | None = None
    kind: Literal["job", "cluster", "pipeline"]
    cluster: str | None = None
    shell: str = ""
