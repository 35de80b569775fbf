"""How a rank imports DeepSpeed: without what it would load and not use."""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def deepspeed() -> None:
    """Import DeepSpeed, so that other modules' `import deepspeed` finds it."""
    with without_mlflow():
        import deepspeed
    with compiled_when_called(), contextlib.suppress(ImportError):
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401


@contextlib.contextmanager
def without_mlflow() -> Iterator[None]:
    """Imports DeepSpeed's way round MLflow: its autotuner, which no rank runs, imports it wherever it is installed.

    That is 1.1 of 2.7 seconds of a processor for `import deepspeed` in every rank, and 1,500 modules
    (deepspeed/autotuning/autotuner.py, 0.19.8).
    """
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["mlflow"]


@contextlib.contextmanager
def compiled_when_called() -> Iterator[None]:
    """Functions that are decorated with `torch.compile` meanwhile load the compiler when they are called first.

    DeepSpeed decorates three functions of Muon so, and imports them for every optimizer, to ask whether it is Muon
    (is_zero_supported_optimizer in deepspeed/runtime/zero/utils.py, 0.19.8). That is 1.1 of 5.2 seconds of a processor
    for three steps of pretraining a tiny LLaMA, and 42 MB of each rank.
    """
    import torch

    compiler = torch.compile

    def decorate(*given: Any, **options: Any) -> Any:
        """What is not `@torch.compile` over a function is the compiler's own: options, a module."""
        if options or len(given) != 1 or not isinstance(given[0], types.FunctionType):
            return compiler(*given, **options)
        return late(given[0])

    def late(function: Callable[..., Any]) -> Callable[..., Any]:
        compiled = functools.cache(lambda: compiler(function))

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            # a compiled function that calls this one compiles it as its own part
            return (function if torch.compiler.is_compiling() else compiled())(*args, **kwargs)

        return call

    torch.compile = decorate
    try:
        yield
    finally:
        torch.compile = compiler
