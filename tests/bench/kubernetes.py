"""What rendering manifests costs: `python -m tests.bench.kubernetes`, or its functions from elsewhere.

Owns the measuring, in CPU seconds of this process; nothing here is a test, since a busy machine would make it fail.
"""

from __future__ import annotations

import time

from launcher.schedulers import kubernetes
from tests.launcher.schedulers.kubernetes import variants


def render(kind: str, count: int = 1000) -> float:
    """CPU seconds to render one of `count` different jobs of `kind`, once the templates are loaded."""
    plans = [
        variants.decide(
            {"kind": kind}, {"name": f"job-{n}", "nodes": 1 + n % 16, "args": {"lr": 1e-4 * (n + 1)}}
        )
        for n in range(count)
    ]
    kubernetes.render(plans[0])
    start = time.process_time()
    for plan in plans:
        kubernetes.render(plan)
    return (time.process_time() - start) / count


def largest(kind: str) -> tuple[float, int]:
    """(CPU seconds, bytes) of a manifest for 4,096 hosts."""
    plan = variants.decide({"kind": kind}, {"nodes": 4096})
    kubernetes.render(plan)
    start = time.process_time()
    text = kubernetes.render(plan)["manifest.yaml"]
    return time.process_time() - start, len(text.encode())


def main() -> None:
    for kind in variants.KINDS:
        seconds, size = largest(kind)
        print(
            f"{kind:16} {render(kind) * 1e3:.2f} ms each; 4,096 hosts {seconds * 1e3:.0f} ms, {size:,} bytes"
        )


if __name__ == "__main__":
    main()
