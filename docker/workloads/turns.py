"""Conversations as tokens: the tokenizer's chat template, and which tokens the assistant says.

Owns how a template is found and where the assistant's turns begin and end in what it renders: by its own marks
(`{% generation %}`, https://huggingface.co/docs/transformers/chat_templating_writing), or, where it has none, by what
it renders of the messages before and up to each turn.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from workloads import metrics
from workloads.session import Stop

if TYPE_CHECKING:
    import argparse

    from transformers import PreTrainedTokenizerBase

    from workloads.session import Session

    Messages = list[dict[str, Any]]
    Span = tuple[int, int]  # characters

OUT = "name one in --chat-template FILE, or use a model that is made for chats"


def add_option(group: argparse._ArgumentGroup) -> None:
    """Add the template for tokenizers without one."""
    group.add_argument(
        "--chat-template",
        metavar="FILE",
        help="how messages become text: a Jinja template, instead of the tokenizer's own; an export takes it along",
    )


def adopt(tokenizer: PreTrainedTokenizerBase, file: str | None) -> None:
    """Give the tokenizer the template of a file, which an export takes along. Raises Stop for a file that is none."""
    if file is None:
        return
    try:
        template = Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(f"--chat-template {file}: {error}") from error
    if not template.strip():
        raise Stop(f"--chat-template {file}: the file is empty")
    tokenizer.chat_template = template
    Talk(tokenizer, f"--chat-template {file}").render([{"role": "user", "content": "a"}])


def keep_date(tokenizer: PreTrainedTokenizerBase, this: Session, log: metrics.Log) -> None:
    """Have a template that renders the date, such as Llama 3.2's, render that of the run's first start.

    Else a run that is resumed on another day learns other tokens. metrics.jsonl keeps it. All ranks call this.
    """
    if "strftime_now" not in str(tokenizer.chat_template):
        return

    def first() -> str:
        dates = [line["date"] for line in metrics.read(this.run_dir) if line.get("event") == "chat_date"]
        date: str = dates[0] if dates else datetime.now().astimezone().isoformat(timespec="seconds")
        if not dates:
            log.event("chat_date", 0, date=date)
        return date

    from transformers.utils import chat_template_utils

    date = datetime.fromisoformat(this.first(first))
    # transformers 5.24 takes no function for a template, and TRL renders pairs itself
    chat_template_utils.datetime = SimpleNamespace(now=lambda: date)


def check(tokenizer: PreTrainedTokenizerBase, place: str) -> None:
    """Raise Stop where messages, such as those at `place`, cannot become tokens."""
    if not tokenizer.chat_template:
        raise Stop(
            f"{place}: messages need a chat template, and tokenizer {tokenizer.name_or_path} has none: {OUT}"
        )
    if not tokenizer.is_fast:
        raise Stop(f"{place}: messages need a fast tokenizer, which {tokenizer.name_or_path} is not")


def tokens(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, place: str, tools: list[Any] | None = None
) -> tuple[list[int], list[bool]]:
    """The ids of a conversation, and which of them the assistant says. Raises Stop, with the place, where none are.

    `tools` are the JSON schemas of those that the assistant may call.
    """
    talk = Talk(tokenizer, place, tools)
    text = talk.render(messages)
    marked = str(tokenizer.chat_template) if marks(tokenizer) else _trained_with(talk, messages, text)
    if marked:
        whole = tokenizer.apply_chat_template(
            messages, tools=tools, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, said = whole["input_ids"], [bool(bit) for bit in whole["assistant_masks"]]
    else:
        spans = _spans(talk, messages, text)
        whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = whole["input_ids"]
        said = [
            begin < end and any(first <= begin < last for first, last in spans)
            for begin, end in whole["offset_mapping"]
        ]
    if not any(said):
        raise Stop(f"{place}: the chat template renders nothing that the assistant says: {OUT}")
    return list(ids), said


def marks(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template marks what the assistant says."""
    return re.search(r"\{%-?\s*generation\s*-?%\}", str(tokenizer.chat_template)) is not None


def end(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> int | None:
    """The token that ends what the assistant says, such as <|im_end|>; None where it is no token of its own."""
    ids, said = tokens(tokenizer, messages, "")
    known = tokenizer.added_tokens_decoder
    place = max((n for n, token in enumerate(ids) if said[n] and token in known), default=len(ids))
    rest = tokenizer.decode(ids[place + 1 :]).strip()
    return None if place == len(ids) or rest else ids[place]


def endless(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> bool:
    """Whether no token ends what the assistant says, so that a model does not learn to end it."""
    text = Talk(tokenizer, "").render(messages)
    return _endless(messages, text) and _trls(tokenizer) is None


def _endless(messages: Messages, text: str) -> bool:
    last = str(messages[-1].get("content") or "").strip()
    return bool(last) and text.rstrip().endswith(last)


def _trained_with(talk: Talk, messages: Messages, text: str) -> str | None:
    """TRL's template in the place of one that renders earlier answers otherwise than the last one, such as Qwen3's.

    Also of one that ends no answer, such as GLM's, where the next turn does. None where the tokenizer's own does, and
    where TRL has none for it. An export keeps the tokenizer's own.
    """
    try:
        _spans(talk, messages, text)
    except Stop:
        return _trls(talk.tokenizer)
    return _trls(talk.tokenizer) if _endless(messages, text) else None


def _trls(tokenizer: PreTrainedTokenizerBase) -> str | None:
    try:
        from trl.chat_template_utils import get_training_chat_template

        template: str | None = get_training_chat_template(tokenizer)
        return template
    except (ImportError, ValueError):  # no template that it knows
        return None


def _spans(talk: Talk, messages: Messages, whole: str) -> list[Span]:
    """From where to where in the rendered text the assistant's turns go, by what is rendered without them."""
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = talk.render(messages[:number], answers=True) if number else _opening(talk, messages[:1])
        until = talk.render(messages[: number + 1])
        if not whole.startswith(until) or not until.startswith(before):
            raise Stop(
                f"{talk.place}: message {number + 1}: the chat template renders what is before it otherwise once it "
                "is there, so that what the assistant says cannot be told: name a template in --chat-template FILE "
                "that marks it by {% generation %}"
            )
        spans.append((len(before), len(until)))
    return spans


def _opening(talk: Talk, messages: Messages) -> str:
    """What comes before an answer that a conversation begins with: templates take no list without messages."""
    until = talk.render(messages)
    head = talk.render(messages, answers=True)[len(until) :]  # what begins an answer
    before, found, _ = until.partition(head) if head else ("", "", "")
    return before + found if found else ""


class Talk(NamedTuple):
    """What a conversation is rendered with, and where it was read."""

    tokenizer: PreTrainedTokenizerBase
    place: str
    tools: list[Any] | None = None

    def render(self, messages: Messages, *, answers: bool = False) -> str:
        """What the template makes of messages; with what begins an answer if one follows. Raises Stop if it refuses."""
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(
                messages, tools=self.tools, tokenize=False, add_generation_prompt=answers
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise Stop(f"{self.place}: the chat template refuses the messages: {reason}") from error
        return str(text)
