"""The table of fabrics: what a job must set, mount and ask for on each network between hosts.

Owns the values, each with its reason and its source; what is done with them is `launcher.fabrics.environment`'s.
A new fabric is one entry in the module of its provider.

Only what a source asks for is set. Everything else is left to NCCL, which chooses by the hardware it finds:
a value carried over from another network is worse than none.
"""

from __future__ import annotations

from launcher.fabrics import aws, azure, gcp, generic, model, oracle

FABRICS: dict[str, model.Fabric] = {
    fabric.name: fabric for provider in (generic, aws, azure, gcp, oracle) for fabric in provider.FABRICS
}
