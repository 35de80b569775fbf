"""Stacks to a sentence: the words of frames.json over what faulthandler wrote, and whom the others wait for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import verdict
from verdict import Frame, Stack

SITE = "/opt/venv/lib/python3.12/site-packages"
ENGINE = Frame(f"{SITE}/deepspeed/runtime/engine.py", 2104, "allreduce_gradients")
REDUCE = (
    Frame(f"{SITE}/torch/distributed/distributed_c10d.py", 3252, "all_reduce", "work.wait()"),
    Frame(f"{SITE}/torch/distributed/c10d_logger.py", 83, "wrapper"),
    Frame(f"{SITE}/deepspeed/comm/torch.py", 12, "all_reduce"),
    Frame(f"{SITE}/deepspeed/comm/comm.py", 500, "all_reduce"),
    ENGINE,
    Frame("/code/train.py", 40, "main"),
)
GATHER = (
    Frame(f"{SITE}/torch/distributed/distributed_c10d.py", 9, "all_gather_into_tensor"),
    Frame("/code/train.py", 7, "f"),
)
LOADER = (
    Frame("/usr/lib/python3.12/queue.py", 180, "get", "self.not_empty.wait(remaining)"),
    Frame(f"{SITE}/torch/utils/data/dataloader.py", 1243, "_try_get_data"),
    Frame("/code/text.py", 88, "batches"),
)
SPIN = (Frame("/code/train.py", 66, "spin", "while True: pass"),)
DUMP = f"""Thread 0x00007f1 [worker] (most recent call first):
  File "/usr/lib/python3.12/threading.py", line 359 in wait
  File "/usr/lib/python3.12/threading.py", line 1032 in _bootstrap

Current thread 0x00007f2 (most recent call first):
  File "{SITE}/torch/distributed/distributed_c10d.py", line 3252 in all_reduce
  File "/code/a, b "c".py", line 40 in <lambda>
"""


def ranks(*main: tuple[Frame, ...], step: int | None = 412) -> list[Stack]:
    return [Stack(rank, "ab"[rank % 2], step, "S", threads=(frames,)) for rank, frames in enumerate(main)]


def test_faulthandlers_words() -> None:
    main, worker = verdict.parse(DUMP)
    assert main == (
        Frame(f"{SITE}/torch/distributed/distributed_c10d.py", 3252, "all_reduce"),
        Frame('/code/a, b "c".py', 40, "<lambda>"),
    )
    assert [frame.line for frame in worker] == [359, 1032]


@pytest.mark.parametrize(
    "text",
    ["", "\0\n", '  File "x", line 3 in f\n', "Thread 0x1 (most recent call first):\n  <no Python frame>\n"],
)
def test_what_is_no_stack_has_no_threads(text: str) -> None:
    assert verdict.parse(text) == ()


def test_the_others_wait_for_the_one_that_loads_data() -> None:
    found = verdict.judge(ranks(REDUCE, LOADER, REDUCE, REDUCE))
    assert found.text == (
        "3 of 4 ranks wait in all_reduce (engine.py:2104, step 412); "
        "rank 1 on b is in data loading (text.py:88, step 412)"
    )
    assert (found.rank, found.host, found.of_host, found.waits) == (1, "b", False, True)


def test_ops_that_are_compiled_as_ranks_meet() -> None:
    """DeepSpeed compiles shm_comm inside init_distributed; the other ranks of the host wait for its lock."""
    meet = (
        Frame(f"{SITE}/torch/utils/cpp_extension.py", 2400, "_jit_compile"),
        Frame(f"{SITE}/deepspeed/ops/op_builder/builder.py", 613, "jit_load"),
        Frame(f"{SITE}/deepspeed/comm/torch.py", 51, "build_shm_op"),
        Frame(f"{SITE}/deepspeed/comm/comm.py", 880, "init_distributed"),
        Frame("/code/train.py", 9, "main"),
    )
    compiling = (Frame("/usr/lib/python3.12/subprocess.py", 1196, "communicate"), *meet)
    locked = (Frame(f"{SITE}/torch/utils/file_baton.py", 50, "wait", "time.sleep(self.wait_seconds)"), *meet)
    found = verdict.judge(ranks(locked, compiling, step=None))
    assert found.text == (
        "rank 0 on a waits for another process to compile an op (train.py:9); "
        "rank 1 on b is compiling an op (train.py:9)"
    )
    assert not found.waits, "nobody is waited for in vain"


def test_different_collectives() -> None:
    found = verdict.judge(ranks(REDUCE, GATHER, REDUCE))
    assert found.text == (
        "ranks are in different collectives: 2 of 3 ranks wait in all_reduce (engine.py:2104, step 412); "
        "rank 1 on b waits in all_gather_into_tensor (train.py:7, step 412)"
    )
    assert found.rank == 1
    assert verdict.judge(ranks(REDUCE, GATHER)).rank == -1  # nobody knows which of the two is wrong


def test_all_in_one_collective() -> None:
    found = verdict.judge(ranks(REDUCE, REDUCE))
    assert found.text == (
        "all 2 ranks wait in all_reduce (engine.py:2104, step 412): the network or a GPU does not answer"
    )
    assert (found.rank, found.of_host, found.waits) == (-1, False, True)


@pytest.mark.parametrize(
    ("state", "words"), [("T", "is stopped (SIGSTOP)"), ("D", "hangs in the kernel (nfs_wait_bit): ")]
)
def test_the_kernel_knows_better(state: str, words: str) -> None:
    """Whatever its stack says; and it is the host's fault."""
    stacks = ranks(REDUCE, REDUCE)
    stacks[1] = Stack(1, "b", 412, state, "nfs_wait_bit", stacks[1].threads)
    found = verdict.judge(stacks)
    assert f"rank 1 on b {words}" in found.text
    assert (found.rank, found.host, found.of_host) == (1, "b", True)


@pytest.mark.parametrize("wchan", ["nfs_wait_bit", "folio_wait_bit_common", ""])
def test_no_host_is_to_blame_for_a_file_system_that_several_wait_for(wchan: str) -> None:
    stacks = ranks(REDUCE, REDUCE, REDUCE)
    for rank in (0, 1):
        stacks[rank] = Stack(rank, "ab"[rank], 412, "D", wchan, stacks[rank].threads)
    found = verdict.judge(stacks)
    assert (found.rank, found.host, found.of_host) == (0, "a", False)
    stacks[0] = Stack(0, "b", 412, "D", wchan, stacks[0].threads)
    assert verdict.judge(stacks).of_host


def test_a_whole_host_that_hangs() -> None:
    stacks = [Stack(rank, "b", 3, "D", "nfs_wait_bit") for rank in range(2)]
    found = verdict.judge(stacks)
    assert (found.rank, found.host, found.of_host) == (-1, "b", True)


def test_of_two_culprits_the_host_is_the_first() -> None:
    stacks = ranks(REDUCE, SPIN, REDUCE)
    stacks[2] = Stack(2, "a", 412, "T")
    assert verdict.judge(stacks).rank == 2


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (SPIN, "is in spin (train.py:66)"),
        ((Frame("/code/a.py", 3, "f", "time.sleep(3)"),), "sleeps (a.py:3)"),
        ((Frame("/code/a.py", 3, "f", "self.sleepy(3)"),), "is in f (a.py:3)"),
        ((Frame("/code/a.py", 3, "f", 'with open("x") as file:'),), "is reading or writing a file (a.py:3)"),
        ((Frame("/code/a.py", 3, "f", "loss.item()"),), "waits for its GPU (a.py:3)"),
        ((Frame("/code/a.py", 3, "f", "dist.barrier()"),), "waits in barrier (a.py:3)"),
        (
            (Frame("/usr/lib/python3.12/subprocess.py", 3, "wait"), *SPIN),
            "waits for a program that it started (train.py:66)",
        ),
        ((Frame(f"{SITE}/torch/_inductor/x.py", 3, "g"), *SPIN), "is compiling (train.py:66)"),
        (
            (Frame(f"{SITE}/torch/serialization.py", 3, "save"), *SPIN),
            "is reading or writing a checkpoint (train.py:66)",
        ),
        ((), "shows no Python stack (mine)"),
    ],
)
def test_words(frames: tuple[Frame, ...], words: str) -> None:
    stack = Stack(0, "a", threads=(frames,) if frames else (), program="mine")
    assert verdict.judge([stack]).text == f"rank 0 on a {words}"


@pytest.mark.parametrize(
    ("state", "wchan", "words"),
    [
        ("S", "pipe_read", "(mine), the kernel has it in pipe_read"),
        ("R", "", "(mine), it computes"),
        ("S", "", "(mine)"),
    ],
)
def test_a_program_that_is_no_python(state: str, wchan: str, words: str) -> None:
    """The others wait for it all the same."""
    stacks = ranks(REDUCE, REDUCE, REDUCE)
    stacks[1] = Stack(1, "b", 412, state, wchan, program="mine")
    found = verdict.judge(stacks)
    assert found.text.endswith(f"; rank 1 on b shows no Python stack {words} (step 412)")
    assert (found.rank, found.of_host) == (1, False)


def test_the_backward_pass_waits_in_a_thread_of_its_own() -> None:
    main = (Frame(f"{SITE}/torch/autograd/graph.py", 9, "_engine_run_backward"), *SPIN)
    stack = Stack(0, "a", threads=(main, REDUCE))
    assert verdict.judge([stack]).text == "rank 0 on a waits in all_reduce (engine.py:2104)"


def test_without_a_collective_that_is_known() -> None:
    """Who waits for whom is not known; a host at fault is, and one rank among many that does something else."""
    polling = (Frame("/code/mine.py", 5, "wait", "time.sleep(1)"),)
    stacks = ranks(polling, polling)
    stacks[1] = Stack(1, "b", 412, "T")
    assert (verdict.judge(stacks).rank, verdict.judge(stacks).of_host) == (1, True)
    assert verdict.judge(ranks(polling, SPIN, polling)).rank == 1
    assert verdict.judge(ranks(polling, SPIN)).rank == -1
    assert verdict.judge(ranks(polling, polling)).rank == -1
    assert verdict.judge(ranks(SPIN)).rank == 0


def test_many_places_are_counted() -> None:
    many = [(Frame("/code/a.py", line, "f"),) for line in range(9)]
    assert verdict.judge(ranks(*many)).text.endswith("; 5 ranks are elsewhere")


def test_nobody_answered() -> None:
    assert verdict.judge([]).text == "no rank could be looked at"


def test_the_table_has_what_it_needs() -> None:
    for entry in json.loads((Path(verdict.__file__).parent / "frames.json").read_text()):
        assert set(entry) <= {"file", "function", "text", "kind", "words"}
        assert {"file", "text"} & set(entry)
        assert len(entry["words"]) == 2
