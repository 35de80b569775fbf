"""What runs in every rank, and what the node entry is told of it.

Owns the options that follow from the plan; the workload's own are checked by `workloads`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from launcher import units, workloads
from launcher.planning import data_cache, notification, own_program, ranks_environment, tiers, weights
from launcher.rendering import containers, own_image, templates

if TYPE_CHECKING:
    from launcher.planning.plan import Plan

TRIALS = "trials.json"
_DECIDING = ("name", "group", "micro", "bound", "less", "config")


def ranks(plan: Plan, folder: str, config: str, code: str = "") -> list[str]:
    """Python's arguments, `-m workloads.NAME` or the user's own file, or the words of a command; then options.

    `folder` is the run folder, `config` the DeepSpeed configuration and `code` the folder of the user's code (default:
    below `folder`), all as the ranks see them.
    """
    job = plan.job
    if plan.tuning:
        run, beside = folder.rpartition("/")[2], config.rpartition("/")[0]
        return ["-m", "tune", f"--trials={beside}/{TRIALS}", f"--folder={folder}", f"--run={run}"]
    if job.command is not None:
        return [*job.command, *workloads.command_line(plan.args)]
    if workloads.is_script(job.workload):
        own = plan.code and f"{code or f'{folder}/{own_image.CODE}'}/{plan.code.program}"
        return [own or job.workload, *workloads.command_line(plan.args)]
    ours = {
        "deepspeed-config": config,
        "run-dir": folder,
        "model": job.model,
        "checkpoint-every": job.checkpoint.every,
        "checkpoint-keep": job.checkpoint.keep,
        "checkpoint-async": job.checkpoint.async_ or None,
        **tiers.mirror(plan),
        **tiers.own_disk(plan),
        "resume": own_program.resume_folder(job.checkpoint.resume, folder.rpartition("/")[0]),
    }
    known = workloads.options(job.workload)
    launcher_options = workloads.command_line({k: v for k, v in ours.items() if k in known})
    return ["-m", f"workloads.{job.workload}", *launcher_options, *workloads.command_line(plan.args)]


def trials(plan: Plan) -> str:
    """What docker/tune.py reads: each candidate's configuration and what its ranks run; '' for any other run."""
    if plan.tuning is None:
        return ""
    entries = []
    for entry in plan.tuning.trials:
        ours = {"model": plan.job.model} if "model" in workloads.options(plan.job.workload) else {}
        words = workloads.command_line({**ours, **entry.args})
        facts = {key: getattr(entry, key) for key in _DECIDING}
        entries.append({**facts, "words": ["-m", f"workloads.{plan.job.workload}", *words]})
    head = {"steps": plan.tuning.steps, "limit": plan.tuning.limit}
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
    return f'{json.dumps(head)[:-1]}, "trials": [\n{lines}\n]}}'


def script_values(plan: Plan, scheduler: Literal["local", "slurm"]) -> dict[str, Any]:
    """What the template of either script gets of the plan."""
    runtime, secrets = plan.runtime(scheduler), getattr(plan.cluster, scheduler).secrets
    caches = ranks_environment.caches(plan, plan.image if containers.inside(runtime) else "")
    return {
        "plan": plan,
        "command": ranks(plan, plan.folder, f"{plan.folder}/ds_config.json"),
        "config": json.dumps(plan.config, indent=1),
        "trials": trials(plan),
        "environment": ranks_environment.document(plan),
        "sizes": [_size(plan.on(size)) for size in plan.sizes],
        "carrier": templates.Code(ranks_environment.CARRIER),
        "caches": [*caches, *options(plan, runtime, stops=scheduler == "slurm")],
        "data_cache": data_cache.on_host(plan.cluster),
        "secrets": templates.home(secrets),
        "secrets_named": secrets,
        "carried": own_image.folders(plan, scheduler),
    }


def _size(plan: Plan) -> dict[str, Any]:
    """What a script writes anew when the number of hosts is another."""
    config, environment = json.dumps(plan.config, indent=1), ranks_environment.document(plan)
    return {"nodes": plan.nodes, "config": config, "environment": environment}


def options(plan: Plan, runtime: str, stops: bool = False) -> list[str]:
    """What the node entry is told of them: nothing of most workloads of ours on their own Python.

    `stops`: the scheduler sends a signal before the walltime, and puts a job back into its queue.
    """
    job, words = plan.job, list[str]()
    if plan.tuning:  # no word of its command holds a name that is replaced
        words += ["--processes=host", f"--names-from={len(ranks(plan, '', ''))}"]
    if workloads.is_script(job.workload):
        words += ["--program", "--names-from=0"] if job.command is not None else ["--names-from=1"]
    if job.processes == "host":
        words.append("--processes=host")
    if job.profile.nsys:
        words.append("--nsys")
    if job.signal != "USR2":
        words.append(f"--signal={job.signal}")
    if plan.cluster.python and not containers.inside(runtime):
        words.append(f"--python={plan.cluster.python}")
    if job.checkpoint.requeue and stops:
        words.append(f"--requeue-after={own_program.stop_after(plan)}")
    if (stall := _stall(plan, runtime)) != "auto":
        words.append(f"--stall={stall}")
    if plan.cluster.metrics_port:
        words.append(f"--metrics-port={plan.cluster.metrics_port}")
    return words + weights.fetched(plan).options + notification.option(job, plan.cluster)


def _stall(plan: Plan, runtime: str) -> str:
    """The node entry's word for `watch.stall`. What serves on Kubernetes waits for as long as nobody asks."""
    said = "off" if plan.tuning else plan.job.watch.stall  # each trial has a watch of its own
    if said == "auto" and runtime == "kubernetes" and plan.cluster.kubernetes.kind == "leaderworkerset":
        return "off"
    return said if said in {"auto", "off"} else str(units.seconds(said))
