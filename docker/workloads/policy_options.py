"""Options of a policy that learns from answers of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workloads.options import SWITCH, fraction, number, positive, rate, share

if TYPE_CHECKING:
    import argparse


def sampling(group: argparse._ArgumentGroup) -> None:
    """Add how answers are sampled while a policy learns."""
    group.add_argument(
        "--max-new-tokens", type=positive, default=256, metavar="N", help="tokens of an answer at most"
    )
    group.add_argument("--temperature", type=rate, default=1.0, help="of sampling")
    group.add_argument(
        "--gather-for-generation",
        action=SWITCH,
        default=True,
        help="under ZeRO-3 gather all weights once for an answer, not each layer for each token; a rank then holds the "
        "whole model meanwhile",
    )


def policy_optimization(group: argparse._ArgumentGroup) -> None:
    """Add the numbers of policy optimization with a critic."""

    def add(name: str, kind: Any, default: float | None, **more: Any) -> None:
        group.add_argument(f"--{name}", type=kind, default=default, **{"metavar": "X", **more})

    add("critic-lr", rate, None, metavar="RATE", help="highest learning rate of the critic (default: --lr)")
    add("beta", number, 0.1, help="weight of the distance to the reference (KL)")
    add("target-kl", rate, None, metavar="NATS", help="adapt --beta so that an answer's KL comes near this")
    add("clip", rate, 0.2, help="how far a step may move a token's probability ratio from 1")
    add("score-clip", rate, 5.0, help="largest score of an answer that is learned from; logged is the whole")
    add("missing-eos-penalty", number, 0.0, help="taken from the score of an answer without an end token")
    add("gamma", share, 1.0, help="discount of later rewards")
    add("gae-lambda", share, 0.95, help="lambda of generalized advantage estimation")
    add("epochs", positive, 1, metavar="N", help="updates from the same answers")
    add(
        "ema",
        fraction,
        0.0,
        metavar="DECAY",
        help="export a moving average of the policy's weights; 0: the last",
    )
    add("ptx-weight", number, 27.8, help="weight of the loss on --ptx-data (InstructGPT's gamma)")
    group.add_argument(
        "--ptx-data",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="plain text, as pretrain's --data, whose loss is learned beside the reward, so that the policy does not "
        "forget it",
    )
    group.add_argument(
        "--offload-frozen",
        action=SWITCH,
        default=False,
        help="keep the parameters of reference and reward model in host memory",
    )
