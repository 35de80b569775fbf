"""What a family's layers save, measured and solved: how a family gets its terms in launcher/sizing/saved.json.

Owns the counting of saved tensors in transformers' own models, and the fit.

    python -m tests.launcher.sizing.fitting falcon mpt        # prints a line of saved.json for each
    python -m tests.launcher.sizing.fitting --check falcon    # how far off the terms there are, at fresh sizes

Models of a family with random sizes make a forward pass each. What autograd keeps then, less what activations.py counts
in every family, is a sum of products of sizes times whole numbers of bytes: those are solved for by least squares, and
held against fresh sizes. A term is a product that some tensor of the family has as a dimension, or one of `ALWAYS`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import json
import random
import re
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.sizing import activations, families, models, saved, setup
from launcher.sizing.architecture import Architecture
from tests import model_families
from tests.launcher.sizing import test_families

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MICRO = 2
BATCH = 7  # no size is a multiple, so that what has the batch as a dimension is told from the rest
ALWAYS = ("1", "hidden", "heads", "kv", "heads*head", "kv*head", "heads*v", "ffn")
MIXTURES = ("active", "experts", "active*hidden", "active*expert")
MLPS, OF_MLPS = (
    ("dense", "sparse"),
    ("1", "hidden"),
)  # kinds that differ in the MLP alone, and what else it may save
LINEAR = ("linear_v_heads*linear_k", "linear_v_heads*linear_k*linear_v")
SAMPLES = 9, 14, 20  # configurations that are measured, more where fewer do not tell the terms
PARTS = 64  # what a state of linear attention takes is by the chunk of 64 positions
MOST, BEAM = 12, 60  # terms, and sets of them that the search goes on with


class Sample(NamedTuple):
    """A configuration of random sizes, and the bytes that a pass saves for a token: in bf16 and in fp32."""

    config: dict[str, Any]
    sequence: int
    low: float
    high: float


def saved_bytes(
    config: dict[str, Any], low: bool, micro: int = MICRO, sequence: int = 128, **how: Any
) -> int:
    """Bytes of the distinct storages that autograd keeps after a forward pass with loss, parameters left out.

    `how`: `attention` as transformers calls it, and `checkpointing`.
    """
    import torch

    gc.freeze()  # so that what is collected below is looked for among the model's objects alone
    model = build(config, how.get("attention")).to(torch.bfloat16 if low else torch.float32)
    if how.get("checkpointing"):
        model.activation_checkpointing_enable()
    size = sum(nbytes for _, nbytes in storages(model, micro, sequence))
    del model
    gc.collect()  # modules refer to each other, and gigabytes are few objects
    return size


def storages(model: Any, micro: int, sequence: int) -> list[tuple[int, int]]:
    """Elements and bytes of what autograd keeps after a forward pass with loss, each storage once."""
    import torch

    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    found: dict[int, tuple[Any, int]] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = (
                storage,
                tensor.element_size(),
            )  # held, so that no address is used twice
        return tensor

    ids = torch.randint(0, model.config.get_text_config().vocab_size, (micro, sequence))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), narrow_values():
        model(input_ids=ids, labels=ids)
    sizes = [(storage.nbytes() // width, storage.nbytes()) for storage, width in found.values()]
    found.clear()
    return sizes


@contextlib.contextmanager
def narrow_values() -> Iterator[None]:
    """Attention with values narrower than keys keeps what a GPU's fused kernels do; a CPU has only one with scores."""
    import torch

    whole = torch.nn.functional.scaled_dot_product_attention

    class Fused(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any, named: dict[str, Any]) -> Any:
            out = whole(query, key, value, **named)
            ctx.save_for_backward(
                query, key, value, out, query.new_empty(query.shape[:3], dtype=torch.float32)
            )
            return out

    def attend(query: Any, key: Any, value: Any, **named: Any) -> Any:
        if key.shape[-1] == value.shape[-1]:
            return whole(query, key, value, **named)
        return Fused.apply(query, key, value, named)

    torch.nn.functional.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = whole


def build(config: dict[str, Any], attention: str | None = None) -> Any:
    """transformers' model of a configuration in fp32, with random weights."""
    import transformers

    family = config["model_type"]
    options = {key: value for key, value in config.items() if key != "model_type"}
    how = {"attn_implementation": attention} if attention else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = transformers.AutoConfig.for_model(
            model_families.HUBS_OWN.get(family, family), use_cache=False, **options
        )
        return transformers.AutoModelForCausalLM.from_config(made, **how).train()


# Families whose heads must be the hidden size together.
SQUARE = {"helium"}
# Families whose classes map `num_experts` to a name that they do not have.
EXPERTS = {"kolibri1", "mellum", "qwen3_moe"}


def configuration(family: str, sizes: dict[str, int], changed: Iterable[str] = ()) -> dict[str, Any]:
    """A configuration of the family with these sizes and without dropout.

    Switches are off and sizes that may be null are there, but for those that are `changed`.
    """
    if family in SQUARE:
        sizes = sizes | {"head": sizes["hidden"] // sizes["heads"]}
    config = {"model_type": family, **test_families.small(family, False, sizes)}
    kind = test_families.kind_of(family)
    config |= {key: 0.0 for key in dir(kind) if re.search("drop(out)?(_prob)?$", key)}
    # experts in one group, so that any number of them will do
    config |= {key: 1 for key in ("n_group", "topk_group") if hasattr(kind, key)}
    if family == "falcon" and "new_decoder_architecture" not in changed:
        del config["num_kv_heads"]  # only those have groups of heads
    if family in EXPERTS:
        config["num_experts"] = sizes["experts"]
    if family == "gpt_neo":
        config["attention_types"] = [[["global"], sizes["layers"]]]
    for key in changed:
        config[key] = None if config.get(key) else True
    if config.get("new_decoder_architecture"):
        config["parallel_attn"] = True  # the others of these have no norms
    return config


def conditions(family: str) -> list[str]:
    """Keys of a configuration that decide what is saved and which tensors there are: switches, optional sizes."""
    row, found = families.description(family), saved.terms(family)
    switches = {**families.table()["switches"], **row.get("switches", {})}
    lines = [*_lines(row), *(term.split() for term in found if isinstance(found, dict))]
    named = {w.lstrip("?-") for words in lines for w in words if w.startswith("?") and "=" not in w}
    keys = {switches.get(name, name) for name in named} - set(families.size_keys(family))
    return sorted(
        key for key in keys if isinstance(key, str) and _changes(test_families.kind_of(family), key)
    )


def _changes(kind: Any, key: str) -> bool:
    """Whether a configuration of the class may have it changed: it is a switch, or a size that may be null."""
    if not test_families._settable(kind, key):
        return False
    name = kind.attribute_map.get(key, key)
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    return isinstance(getattr(kind, name), bool) or "None" in types.get(name, "None")


def random_sizes(rng: random.Random, layers: int) -> dict[str, int]:
    """Sizes that a model of any family can have: heads divide, rows of bf16 are whole 16 bytes, none is of sevens."""

    def eights(low: int, high: int) -> int:
        return 8 * rng.choice([n for n in range(low, high + 1) if n % BATCH])

    kv = rng.choice([2, 4])
    heads = kv * rng.choice([1, 2, 3])
    return {
        **{"hidden": heads * eights(2, 8), "layers": layers, "heads": heads, "kv": kv, "kvn": kv},
        **{"head": eights(1, 6), "v": eights(1, 6), "vocab": eights(8, 20), "positions": 512, "window": 512},
        **{"ffn": eights(4, 30), "dense_ffn": eights(4, 30), "experts": rng.choice([4, 5, 6, 8, 9])},
        **{"active": rng.randint(1, 4), "expert": eights(2, 20), "shared": rng.randint(1, 3)},
        **{"shared_ffn": eights(2, 20), "q_rank": eights(2, 20), "kv_rank": eights(2, 20)},
        **{"rope": eights(1, 6), "nope": eights(1, 6), "word": eights(2, 8)},
        **{"index_heads": rng.randint(1, 4), "index_head": eights(6, 9), "linear_k": eights(1, 6)},
        **{"linear_k_heads": kv, "linear_v_heads": heads, "linear_v": eights(1, 6), "linear_kernel": 4},
        **{"rotary": rng.choice([8, 16])},
    }


def sample(family: str, seed: int) -> Sample:
    """Random sizes, and what they save. What does not grow with the batch is left out."""
    rng = random.Random(seed)
    sizes = random_sizes(
        rng, rng.randint(4, 5) if families.description(family).get("choices") else rng.randint(1, 3)
    )
    sequence = 64 * rng.randint(1, 2)
    config = configuration(family, sizes, [key for key in conditions(family) if rng.random() < 0.5])
    low, high = (
        sum(nbytes for number, nbytes in kept if number % BATCH == 0) / BATCH / sequence
        for kept in in_both(config, BATCH, sequence)
    )
    return Sample(config, sequence, low, high)


def in_both(config: dict[str, Any], micro: int, sequence: int) -> list[list[tuple[int, int]]]:
    """What autograd keeps in bf16 and in fp32, as `storages` has it."""
    import torch

    model = build(config)
    return [storages(model.to(dtype), micro, sequence) for dtype in (torch.bfloat16, torch.float32)]


def planned(config: dict[str, Any], sequence: int, low: bool) -> float:
    """Bytes of a token by the planner."""
    model = models.from_config(config)
    assert isinstance(model, Architecture)
    there = setup.Setup(world=1, slots=1, micro=MICRO, sequence=sequence)
    bytes_ = activations.moments(model, there, 2 if low else 4).saved
    return bytes_ / (MICRO * sequence) + model.vocab * activations.FLOAT  # and the log-softmax


@contextlib.contextmanager
def terms(family: str, those: saved.Terms) -> Iterator[None]:
    """The family has these terms within the block."""
    table = saved.table()
    before = table[family]
    table[family] = those
    try:
        yield
    finally:
        table[family] = before


def candidates(family: str) -> list[str]:
    """Terms that the family may have: common ones first, then those of single kinds of layers."""
    row = families.description(family)
    kinds = [kind for *_, options in row.get("choices", ()) for kind in options]
    products = dict.fromkeys([*ALWAYS, *_dimensions(row)])
    if any("experts" in part for part in products):
        products |= dict.fromkeys(MIXTURES)
    if any("linear_k" in part for part in products):
        products |= dict.fromkeys(LINEAR)
    if "rotary" in row["sizes"]:
        products["heads*rotary"] = None
    if not row.get("fused", True):
        products["heads*length"] = None
    narrow = [name for name in products if name in ALWAYS]
    return [
        *products,
        *(f"{product} @{kind}" for kind in kinds for product in (OF_MLPS if kind in MLPS else products)),
        *(f"{product} ?{key}" for key in conditions(family) for product in narrow),
        *(f"{product} @{saved.OUTSIDE}" for product in ("hidden", "vocab", "1")),
    ]


def _dimensions(row: dict[str, Any]) -> Iterator[str]:
    """Products of sizes in the family's tensors, without the numbers before them."""
    for words in _lines(row):
        for word in words:
            if not word.startswith(("+", "?")):
                yield from (re.sub(r"^[0-9]+\*", "", part) for part in word.split("+"))


def _lines(row: dict[str, Any]) -> Iterator[list[str]]:
    """The words after a tensor's name, of each tensor of any kind of layer."""
    choices = [block for *_, options in row.get("choices", ()) for kind in options.values() for block in kind]
    for block in [*row["layer"], *choices]:
        for line in [block] if " " in block else families.table()["blocks"][block]:
            yield line.split()[1:]


def columns(family: str, names: Iterable[str], samples: list[Sample]) -> dict[str, list[float]]:
    """What one byte of each term comes to in each sample; terms that are like one before are left out."""
    with terms(family, {}):
        nothing = [planned(one.config, one.sequence, low=True) for one in samples]
    kept: dict[tuple[float, ...], str] = {}
    for name in names:
        with terms(family, {name: (1, 1)}):
            column = [
                planned(one.config, one.sequence, low=True) - base
                for one, base in zip(samples, nothing, strict=True)
            ]
        if any(column):
            kept.setdefault(tuple(round(number, 3) for number in column), name)
    return {name: list(column) for column, name in kept.items()}


def search(family: str) -> saved.Terms:
    """The terms of a family, by as few samples as they take. Raises ValueError where no whole numbers do."""
    samples: list[Sample] = []
    for number in SAMPLES:
        samples += [sample(family, seed) for seed in range(len(samples), number)]
        with contextlib.suppress(ValueError):
            return fit(family, samples)
    return fit(family, samples)


def fit(family: str, samples: list[Sample]) -> saved.Terms:
    """The terms that make what is planned what is measured. Raises ValueError where no whole numbers do."""
    with terms(family, {}):
        rest = [
            [one.low - planned(one.config, one.sequence, low=True) for one in samples],
            [one.high - planned(one.config, one.sequence, low=False) for one in samples],
        ]
    found = solve(columns(family, candidates(family), samples), rest)
    return {name: (low, high) for name, (low, high) in found.items()}


def solve(named: dict[str, list[float]], rest: list[list[float]]) -> dict[str, list[float]]:
    """The fewest terms whose columns come to each of `rest`, times whole numbers or halves, as many for each.

    Raises ValueError where there are none. The search keeps the best sets of terms, and adds one more to each.
    """
    import numpy

    wanted = numpy.array(rest).T
    sets: list[tuple[str, ...]] = [()]
    for _ in range(min(MOST, len(wanted) - 3) + 1):
        tried = {}
        for names in sets:
            matrix = numpy.array([named[name] for name in names]).T.reshape(len(wanted), len(names))
            scale = numpy.linalg.norm(matrix, axis=0)
            values = (numpy.linalg.lstsq(matrix / scale, wanted, rcond=None)[0].T / scale).T
            parts = numpy.array([[PARTS if name.count("*") > 1 else 2] for name in names]).reshape(-1, 1)
            rounded = numpy.round(values * parts) / parts
            if numpy.abs(matrix @ rounded - wanted).max() < 0.5:
                return {
                    name: [*map(_short, each)]
                    for name, each in zip(names, rounded.tolist(), strict=True)
                    if any(each)
                }
            tried[names] = float(numpy.linalg.norm(matrix @ values - wanted))
        best = sorted(tried, key=tried.__getitem__)[:BEAM]
        order = {name: place for place, name in enumerate(named)}
        grown = {tuple(sorted({*names, name}, key=order.__getitem__)) for names in best for name in named}
        sets = sorted(names for names in grown if len(names) > len(best[0])) or sets
    raise ValueError(
        f"no whole numbers: {tried[best[0]]:.1f} bytes of a token are left with {', '.join(best[0])}"
    )


def _short(number: float) -> float:
    return int(number) if number == int(number) else number


def error(family: str, one: Sample) -> float:
    """By which share the plan is above what was measured, the worse of bf16 and fp32."""
    sides = ((True, one.low), (False, one.high))
    return max((planned(one.config, one.sequence, low) / seen - 1 for low, seen in sides), key=abs)


def known(family: str) -> saved.Terms:
    """The terms of saved.json. Raises ValueError where it has none."""
    found = saved.terms(family)
    if isinstance(found, str):
        raise ValueError(found)
    return found


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", nargs="+", help="as families.json calls it")
    parser.add_argument("--check", action="store_true", help="do not fit: how far off are the terms there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for family in given.family:
        try:
            found = known(family) if given.check else search(family)
        except Exception as error_:
            print(f"{family}: {type(error_).__name__}: {error_}", flush=True)
            continue
        with terms(family, found):
            worst = max((error(family, sample(family, 1000 + n)) for n in range(2)), key=abs)
        print(f' "{family}": {json.dumps(found)}, {worst:+.2%} at most', flush=True)


if __name__ == "__main__":
    main()
