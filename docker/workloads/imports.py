"""How a rank imports DeepSpeed and Transformers: without what it would load and not use."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.abc
import importlib.machinery
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager


def deepspeed() -> None:
    """Import DeepSpeed, so that other modules' `import deepspeed` finds it."""
    with uncollected(), without_mlflow():
        import deepspeed
    with uncollected(), compiled_when_called(), contextlib.suppress(ImportError):
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Imports without Python's search for garbage, and without a search of what they made afterwards.

    A rank's first step is done after 4.7 processor seconds, not 6.0. Objects of modules live as long as the rank does.
    Once Transformers' models are imported a model may be there too, whose cycles are found as ever.
    """
    collects, models = gc.isenabled(), "transformers.modeling_utils" in sys.modules
    gc.disable()
    try:
        yield
    finally:
        if collects:
            if not models:
                gc.freeze()
            gc.enable()


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


def transformers() -> None:
    """Have whatever imports Transformers later read its models' files once, and search for no garbage meanwhile."""
    if not any(isinstance(finder, Around) for finder in sys.meta_path):
        sys.meta_path.insert(0, Around(AROUND))


class Around(importlib.abc.MetaPathFinder):
    """Runs modules, when they are imported first, inside contexts.

    `contexts` has them by the module's name, or by `PACKAGE.*` for all other modules of a package.
    """

    def __init__(self, contexts: Mapping[str, Callable[[], AbstractContextManager[None]]]) -> None:
        self.contexts = contexts

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's own spec, whose loader has the context; None for modules without one."""
        context = self.contexts.get(fullname) or self.contexts.get(f"{fullname.partition('.')[0]}.*")
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target) if context else None
        if not context or not spec or not spec.loader:
            return None
        execute = spec.loader.exec_module

        def inside(module: types.ModuleType) -> None:
            with context():
                execute(module)

        spec.loader.exec_module = inside  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def names_searched() -> Iterator[None]:
    """`__all__` of each of Transformers' 1,700 files is looked for in its text, not in its lines one after another.

    The lines before its first place have none (fetch__all__, Transformers 5): 0.25 seconds of a processor in each rank.
    """
    with uncollected():
        yield
    utils = sys.modules["transformers.utils.import_utils"]
    if fetch := getattr(utils, "fetch__all__", None):  # another Transformers may do without
        utils.fetch__all__ = lambda text: fetch(text[max(text.find("__all__") - 1, 0) :])  # type: ignore[attr-defined]


@contextlib.contextmanager
def models_read_once() -> Iterator[None]:
    """The table of all models is made of the one that transformers/__init__.py has just made of two thousand files.

    `define_import_structure` keeps that, but transformers/models/__init__.py asks without the prefix (Transformers 5).
    """
    from transformers.utils import import_utils

    define = import_utils.define_import_structure
    top, prefix = Path(import_utils.__file__).parents[1] / "models", "models."

    def again(module_path: str, *more: Any, **named: Any) -> Any:
        if more or named or Path(module_path) != top / "__init__.py":
            return define(module_path, *more, **named)
        return {
            backends: {
                name.removeprefix(prefix): given for name, given in modules.items() if name.startswith(prefix)
            }
            for backends, modules in define(top, prefix=prefix[:-1]).items()
        }

    import_utils.define_import_structure = again
    try:
        yield
    finally:
        import_utils.define_import_structure = define


@contextlib.contextmanager
def matching_when_called() -> Iterator[None]:
    """SciPy's optimizers, of which losses of object detection have one function, are imported when it is called.

    Or at once, where something else wants another of them.
    """
    name = "scipy.optimize"
    late = types.ModuleType(name)

    def real() -> Any:
        if sys.modules.get(name) is late:
            del sys.modules[name]
        return importlib.import_module(name)

    def linear_sum_assignment(*args: Any, **options: Any) -> Any:
        return real().linear_sum_assignment(*args, **options)

    scipy = importlib.machinery.PathFinder.find_spec("scipy")
    folders = (scipy.submodule_search_locations if scipy else None) or ()
    late.__path__ = [f"{folder}/optimize" for folder in folders]
    late.__dict__["linear_sum_assignment"] = linear_sum_assignment
    late.__dict__["__getattr__"] = lambda attribute: getattr(real(), attribute)  # PEP 562
    sys.modules.setdefault(name, late)
    try:
        yield
    finally:
        if sys.modules.get(name) is late:
            del sys.modules[name]


AROUND = {
    "transformers.utils.import_utils": names_searched,
    "transformers.models": models_read_once,
    "transformers.loss.loss_utils": matching_when_called,
    **dict.fromkeys(
        ("torch.*", "transformers.*", "accelerate.*", "datasets.*", "peft.*", "trl.*"), uncollected
    ),
}
