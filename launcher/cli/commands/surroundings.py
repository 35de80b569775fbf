"""Verbs for what is around runs: clusters, hosts and networks, prepared texts, schemas, the shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli import arguments, completion, options
from launcher.cli.arguments import filled
from launcher.cli.commands import shared
from launcher.cli.verbs import cluster, data, look

if TYPE_CHECKING:
    import argparse


def add_cluster(verbs: arguments.Verbs) -> None:
    """Add the verbs."""
    verbs.group("cluster")
    what = "write the cluster file of what is there, measure its hosts, or print the Role that the launcher needs"
    if verb := verbs.add("cluster", what, cluster.cluster, options.Cluster):
        actions = ("discover", "probe", "measured", "rbac")
        what = "discover, probe (measure the hosts, a minute), measured (keep what runs took) or rbac"
        verb.add_argument("action", choices=actions, metavar="ACTION", help=what)
        what = (
            "discover: slurm, kubernetes or local, default: what this machine has; probe, measured: a cluster"
        )
        subject = verb.add_argument("subject", nargs="?", type=filled, metavar="SCHEDULER|CLUSTER", help=what)
        subject.completer = completion.clusters  # type: ignore[attr-defined]
        _discover_options(verb)
        what = "rbac: only what runs on this cluster need; default: of every kind"
        option = verb.add_argument("--cluster", type=filled, metavar="NAME|FILE", help=what)
        option.completer = completion.clusters  # type: ignore[attr-defined]
        what = "probe: slurm, kubernetes or local; default: what this machine has"
        verb.add_argument("--on", choices=shared.SCHEDULERS, metavar="SCHEDULER", help=what)
        what = "probe: how many hosts; default: two, of one that there is, or on this machine, one"
        verb.add_argument("--nodes", type=int, metavar="N", help=what)
        what = "probe: change a field of jobs/probe.yaml or of the cluster file: args.rounds=3"
        shared.repeated(verb, "--set", dest="settings", metavar="KEY=VALUE", what=what)
        what = "measured: this run; default: each here that ran on the cluster and has ended well"
        shared.repeated(verb, "--from", dest="from", metavar="RUN", what=what)

    what = "DeepSpeed's hostfile of a host list or allocation"
    if verb := verbs.add("hostfile", what, look.hostfile, options.Look):
        verb.add_argument("hostlist", nargs="?", metavar="HOSTLIST|-", help="node[1-4,7]; - reads stdin")
        verb.add_argument("--slots", type=int, metavar="N", help="ranks per host")

    what = "a fabric's NCCL environment as export lines, each with its reason"
    if verb := verbs.add("env", what, look.fabric_env, options.Look):
        verb.add_argument("fabric", nargs="?", metavar="FABRIC", help="without it: all fabrics are listed")
        shared.json_option(verb)

    if verb := verbs.add("doctor", "what this machine has and lacks", look.doctor, options.Look):
        verb.add_argument("--cluster", metavar="NAME|FILE", help="also its `python:`, as ranks would have it")
        shared.json_option(verb)


def _discover_options(verb: argparse.ArgumentParser) -> None:
    what = "write to FILE instead of standard output"
    verb.add_argument("-o", dest="output", type=filled, metavar="FILE", help=what)
    shared.flag(verb, "--force", "overwrite FILE")
    what = "discover: show how FILE would change, and write nothing; exit code 1 if it would"
    shared.flag(verb, "--update", what)
    what = "discover: then measure the hosts, and put interface, devices, memory and bandwidth into FILE"
    shared.flag(verb, "--probe", what)
    what = "discover slurm: the hosts of this partition; default: Slurm's own default"
    verb.add_argument("--partition", type=filled, metavar="NAME", help=what)
    what = "discover kubernetes: of the kubeconfig; default: the current one"
    verb.add_argument("--context", type=filled, metavar="NAME", help=what)
    what = "of Kubernetes; default: that of the context, or of the cluster file"
    verb.add_argument("--namespace", type=filled, metavar="NAME", help=what)


def add_data(verbs: arguments.Verbs) -> None:
    """Add the verbs."""
    verbs.group("data")
    what = "the tokenized texts that runs share: list them, show one, remove one"
    if verb := verbs.add("data", what, data.data, options.Data):
        actions = ("list", "show", "remove")
        verb.add_argument("action", choices=actions, metavar="ACTION", help="list, show or remove")
        verb.add_argument("key", nargs="?", metavar="KEY", help="a text's key, or the start of it")
        what = "the folder to look in; default: $DATA_CACHE, else data/ of each run here"
        either = verb.add_mutually_exclusive_group()
        either.add_argument("--cache", type=filled, metavar="DIR", help=what)
        what = "the `data_cache` of this cluster"
        option = either.add_argument("--cluster", type=filled, metavar="NAME|FILE", help=what)
        option.completer = completion.clusters  # type: ignore[attr-defined]
        shared.json_option(verb)


def add_files(verbs: arguments.Verbs) -> None:
    """Add the verbs."""
    verbs.group("files and shell")
    what = "the JSON Schema of a job, cluster or pipeline file"
    if verb := verbs.add("schema", what, look.schema, options.Look):
        verb.add_argument("kind", choices=("job", "cluster", "pipeline"), help="of which file")

    what = "a shell's completion of verbs, options, runs and jobs"
    if verb := verbs.add("completion", what, look.completion, options.Look):
        what = 'which one; bash: eval "$(launcher completion bash)"'
        verb.add_argument("shell", choices=completion.SHELLS, help=what)
