"""What a rank imports with DeepSpeed and Transformers, and what is there all the same when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.docker.workloads.ranks import DOCKER

pytestmark = pytest.mark.heavy  # reads torch and DeepSpeed in an interpreter of its own

PROGRAM = """
import gc
import sys
import torch
from workloads import imports

calls, compiler = [], torch.compile

def recorded(function):
    calls.append(function.__name__)
    return lambda *words, **named: (function.__name__, words, named)

torch.compile = lambda *given, **options: (given, options)
with imports.compiled_when_called():
    assert torch.compile(dynamic=True) == ((), {"dynamic": True})
    assert torch.compile(recorded, fullgraph=True) == ((recorded,), {"fullgraph": True})
    module = torch.nn.Identity()
    assert torch.compile(module) == ((module,), {})
torch.compile = recorded
imports.deepspeed()
assert torch.compile is recorded
assert gc.isenabled()
assert gc.get_freeze_count() > 100_000, "what modules made is not searched for garbage"
read = {name.partition(".")[0] for name in sys.modules}
assert "deepspeed" in read
assert "mlflow" not in read
assert "torch._inductor.lowering" not in sys.modules

from deepspeed.runtime.zero import utils
from deepspeed.runtime.zero.muon import muon_optimizer, original_muon

utils.dist.get_rank = lambda: 0
assert utils.is_zero_supported_optimizer(torch.optim.AdamW([torch.zeros(1)]))
assert not calls
assert muon_optimizer.MuonWithAuxAdam in utils.ZERO_SUPPORTED_OPTIMIZERS
assert original_muon.muon_update(1, beta=2) == ("muon_update", (1,), {"beta": 2})
assert original_muon.muon_update(3) == ("muon_update", (3,), {})
assert calls == ["muon_update"], "compiled once, when it is called"
torch.compiler.is_compiling = lambda: True
matrix = torch.eye(3)
inlined = original_muon.zeropower_via_newtonschulz5(matrix, 5)
assert inlined.shape == (3, 3)
assert calls == ["muon_update"], "what is compiled takes a part of it as it is written"

from mlflow import MlflowClient

imports.transformers()
frozen = gc.get_freeze_count()
import transformers.models.gpt2.modeling_gpt2
assert gc.isenabled()
assert gc.get_freeze_count() > frozen + 10_000
frozen = gc.get_freeze_count()
import transformers.models.llama.modeling_llama
assert gc.get_freeze_count() <= frozen, "a model may be there by now"
with imports.uncollected():
    assert not gc.isenabled()
    with imports.uncollected():
        pass
    assert not gc.isenabled(), "as it was"
assert gc.isenabled()
from transformers.loss import loss_for_object_detection
from transformers.utils import import_utils

assert "scipy.optimize" not in sys.modules
rows, columns = loss_for_object_detection.linear_sum_assignment([[2, 1], [1, 2]])
assert columns.tolist() == [1, 0]
models = transformers.models
table = import_utils.define_import_structure.__wrapped__(models.__file__)
again = import_utils._LazyModule(models.__name__, models.__file__, table, module_spec=models.__spec__)
assert models._import_structure == again._import_structure
assert set(models.__all__) == set(again.__all__)
"""


OTHERS = """
import contextlib
import sys
from workloads import imports

entered = []
@contextlib.contextmanager
def noted():
    entered.append(1)
    yield

sys.meta_path.insert(0, imports.Around({"wsgiref.*": noted}))
import wsgiref.util
assert len(entered) == 2, "a package and its module"

with imports.matching_when_called():
    from scipy.optimize import linear_sum_assignment
    late = sys.modules["scipy.optimize"]
    import scipy.optimize._zeros_py
    from scipy.optimize import minimize
assert sys.modules["scipy.optimize"] is not late
assert sys.modules["scipy.optimize"].minimize is minimize
assert linear_sum_assignment([[2, 1], [1, 2]])[1].tolist() == [1, 0]
with imports.matching_when_called():
    assert sys.modules["scipy.optimize"].minimize is minimize
assert sys.modules["scipy.optimize"].minimize is minimize
"""


NAMES = r"""
from workloads import imports

imports.transformers()
from pathlib import Path
from transformers.utils import import_utils

fetch = import_utils.fetch__all__
assert fetch.__module__ == "workloads.imports"
original = fetch.__closure__[0].cell_contents
assert original.__module__ == "transformers.utils.import_utils"
models = [path.read_text() for path in (Path(import_utils.__file__).parents[1] / "models/llama").glob("*.py")]
first, later, none = "__all__ = ['a']", "# __all__\n__all__ = [\n'a',\n'b',\n]\nx = 1", "print(__all__)"
for text in (first, later, f"\n{first}", f"x{first}", f"y\r\n{later}\n{first}", none, "", *models):
    assert fetch(text) == original(text), text
assert any(map(fetch, models))
"""


@pytest.mark.parametrize("program", [PROGRAM, OTHERS, NAMES], ids=["both", "others", "names"])
def test_both_are_imported_without_what_a_rank_does_not_use(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(DOCKER), "DS_ACCELERATOR": "cpu", "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
