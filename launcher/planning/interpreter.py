"""What the interpreter of ranks without a container can import, where that is the one that runs this program."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

from launcher.planning import packages

if TYPE_CHECKING:
    from launcher.errors import PlanError
    from launcher.planning.plan import Plan


def refusal(plan: Plan) -> PlanError | None:
    """Why ranks without a container cannot run the plan; None too where their interpreter is not known here."""
    if plan.workspace.python != sys.executable:
        return None
    return packages.in_interpreter(plan, lambda module: importlib.util.find_spec(module) is not None)
