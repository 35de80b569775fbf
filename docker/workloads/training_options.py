"""Options of training: steps, schedule, AdamW, what changes speed alone, and what pretraining alone has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.options import SWITCH, count, fraction, number, positive, rate, share

if TYPE_CHECKING:
    import argparse


def optimization(group: argparse._ArgumentGroup) -> None:
    """Add steps, schedule and AdamW's settings."""
    group.add_argument("--max-steps", type=positive, default=1000, metavar="N", help="optimizer steps")
    group.add_argument(
        "--lr",
        type=rate,
        default=3e-4,
        metavar="RATE",
        help="highest learning rate; one in the DeepSpeed config's optimizer goes first",
    )
    group.add_argument(
        "--min-lr", type=number, default=0.0, metavar="RATE", help="learning rate at the last step"
    )
    group.add_argument(
        "--warmup-steps", type=count, default=0, metavar="N", help="steps of linear rise to --lr"
    )
    group.add_argument(
        "--schedule",
        choices=("cosine", "linear", "wsd", "constant"),
        default="cosine",
        help="how the rate falls from --lr to --min-lr at the last step; wsd (warm-up, stable, decay) stays at --lr "
        "and falls in a line over the last --decay-share of the steps, so that a run can be made longer before that; "
        "constant never falls",
    )
    group.add_argument(
        "--decay-share", type=share, default=0.1, metavar="X", help="share of --max-steps in which wsd decays"
    )
    group.add_argument(
        "--weight-decay",
        type=number,
        default=0.1,
        metavar="X",
        help="for matrices; biases and norms have none",
    )
    group.add_argument("--beta1", type=fraction, default=0.9, metavar="X", help="AdamW's first moment")
    group.add_argument("--beta2", type=fraction, default=0.95, metavar="X", help="AdamW's second moment")
    group.add_argument(
        "--seed", type=count, default=0, metavar="N", help="for weights, data order and dropout"
    )
    group.add_argument(
        "--activation-checkpointing",
        action=SWITCH,
        default=False,
        help="recompute activations in the backward pass: less memory, about a third more compute",
    )


def language_model(group: argparse._ArgumentGroup) -> None:
    """Add what belongs to pretraining alone: the terms of its loss, its vocabulary, its documents."""
    group.add_argument(
        "--z-loss",
        type=number,
        default=0.0,
        metavar="X",
        help="weight of the squared log-sum of the logits, which keeps it near 0 (PaLM: 1e-4); it is in the gradient, "
        "not in the loss that is logged",
    )
    group.add_argument(
        "--pad-vocab",
        type=positive,
        default=1,
        metavar="N",
        help="make the vocabulary of random weights a multiple of N, which is faster on tensor cores: 64 makes GPT-2's "
        "50257 to 50304",
    )
    group.add_argument(
        "--document-masks",
        action=SWITCH,
        default=False,
        help="keep the documents of a sample apart: attention stays within each, and positions begin anew",
    )


def acceleration(group: argparse._ArgumentGroup) -> None:
    """Add what changes a model's speed and not its results."""
    group.add_argument(
        "--attention",
        choices=("auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3"),
        default="auto",
        help="which attention: auto is torch's fused one (sdpa) where the model has it; flash needs its package",
    )
    group.add_argument(
        "--compile",
        metavar="BACKEND",
        help="compile the model by torch.compile with this backend, such as inductor; with DeepCompile's key "
        'in the DeepSpeed config ({"compile": {"deepcompile": true}}, GPU only) its communication too',
    )
    group.add_argument(
        "--sequence-parallel",
        type=positive,
        default=1,
        metavar="N",
        help="ranks that share each sample, for sequences too long for one (DeepSpeed's Ulysses): N divides the ranks, "
        "the attention heads and --seq-length; LLaMA's kind of model with sdpa or flash attention",
    )
    group.add_argument(
        "--liger",
        action=SWITCH,
        default=False,
        help="Liger's fused kernels for norms, rotary embedding, MLP and the loss (GPU only; package liger-kernel)",
    )
