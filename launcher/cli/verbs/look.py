"""diff, hostfile, env, schema, doctor: verbs that look and change nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from launcher.cli.verbs.shared import JOB_FAILED, OK, plan_job
from launcher.errors import did_you_mean

if TYPE_CHECKING:
    import argparse


def diff(args: argparse.Namespace) -> int:
    from launcher.schedulers import kubernetes

    changes = kubernetes.diff(plan_job(args))
    print(changes, end="")
    return JOB_FAILED if changes else OK  # as diff and `kubectl diff` do


def hostfile(args: argparse.Namespace) -> int:
    from launcher.cli.verbs import allocation
    from launcher.rendering import hostfile as hostfiles

    text = sys.stdin.read() if args.hostlist == "-" else args.hostlist
    hosts = hostfiles.expand(text) if text is not None else allocation.hosts()
    print(hostfiles.text(hosts, args.slots if args.slots is not None else allocation.slots()), end="")
    return OK


def fabric_env(args: argparse.Namespace) -> int:
    from launcher.errors import SpecError
    from launcher.fabrics import FABRICS, environment
    from launcher.reports import tables

    if args.fabric is None:
        print(tables.fabrics(args.json))
        return OK
    if args.fabric not in FABRICS:
        raise SpecError(f"unknown fabric {args.fabric!r}", hint=did_you_mean(args.fabric, FABRICS))
    fabric = FABRICS[args.fabric]
    variables = environment.environment(fabric, gpu=True, interface=None)
    print(
        tables.variables_json(variables)
        if args.json
        else environment.text(variables, fabric.script).rstrip("\n")
    )
    return OK


def schema(args: argparse.Namespace) -> int:
    import json

    if args.kind == "pipeline":
        from launcher.files import pipeline

        made = pipeline.schema()
    else:
        from launcher.files import schema as files_schema

        made = files_schema.schema(args.kind)
    print(json.dumps(made, indent=2))
    return OK


def doctor(args: argparse.Namespace) -> int:
    from launcher import doctor as checks

    print(checks.report_json() if args.json else checks.report())
    return OK
