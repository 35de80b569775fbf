"""Which state of docker/, the node entry and our workloads, the ranks of a run have.

Owns its word in lock.json: of an image git's hash of docker/, which is its tag too, else a hash of the files here.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from launcher import ROOT
from launcher.images import registry
from launcher.planning import image_check
from launcher.rendering import own_image
from launcher.runs import fingerprints

if TYPE_CHECKING:
    from launcher.planning.plan import Plan

_HASH = 12  # digits of a tag's hash


def of(plan: Plan, scheduler: str) -> str:
    """That of the image where ranks start its programs; '' where nothing says which it has."""
    if not image_check.used(plan, scheduler) or own_image.carries(plan, scheduler):
        return _files_here()
    facts = plan.image_facts or registry.facts(plan.image)[0]
    if facts and facts.revision:
        return facts.revision[:_HASH]
    if plan.image != plan.cluster.image:  # the plan gave it the tag of docker/ here
        return plan.workspace.image_tag
    tag = re.search(rf":([0-9a-f]{{{_HASH}}})-[a-z]+(?:@|$)", plan.image)
    return tag[1] if tag else ""


@functools.cache  # a sweep asks for each of its points
def _files_here() -> str:
    return fingerprints.folder_hash(ROOT / "docker", (".py", ".json")) or ""
