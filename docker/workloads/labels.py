"""Examples as tokens and labels: only answers count in the loss, of a conversation only what the assistant says.

Owns what each form of formats.py becomes; a conversation's tokens are turns.py's, several examples in one packs.py's.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from workloads import architectures, packs, tokenizer, turns
from workloads.formats import Row
from workloads.session import Stop
from workloads.stages import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from workloads.stages import Stage

    Tokens = dict[str, list[int]]


def encoded(stage: Stage, *, encoder: bool = False) -> Stage:
    """The stage with its examples as tokens, several in one where --packing asks for it.

    Raises Stop, with its place, for an example that the tokenizer or an encoder-decoder cannot take.
    """

    def encode(rows: list[Row]) -> list[Row]:
        made = (tokens(row, stage.tokenizer, stage.length, encoder) for row in rows)
        return [Row(row) for row in made if learned(row)]

    training, held_out = stage.this.together(lambda: (encode(stage.training), encode(stage.held_out)))
    first, end = stage.training[0], None
    if not encoder and _is_chat(first, stage.tokenizer):
        messages = first.get("messages") or conversation(first)
        end = turns.end(stage.tokenizer, messages)
        if turns.endless(stage.tokenizer, messages):
            stage.log.say(
                "the chat template has no token that ends what the assistant says: the model does not learn to end it"
            )
    stage.left_out(len(training), len(held_out))
    if stage.args.packing:
        packs.check(stage.settings)
        training, held_out = (packs.pack(rows, stage) for rows in (training, held_out))
        stage.log.say(
            f"{len(stage.training)} examples are packed into {len(training)} of {stage.length} tokens"
        )
    return dataclasses.replace(stage, training=training, held_out=held_out, answers_end=end)


def end_with(model: PreTrainedModel, stage: Stage) -> PreTrainedModel:
    """The model, which generation ends with also where its answers are taught to end: <|im_end|> of a base model."""
    ends = architectures.end_tokens(model.generation_config, stage.tokenizer.eos_token_id)
    if stage.answers_end not in (None, *ends):
        model.generation_config.eos_token_id = [*ends, stage.answers_end]
    return model


def tokens(row: Row, by: PreTrainedTokenizerBase, length: int, encoder: bool) -> Tokens:
    """input_ids, attention_mask and labels of an example, at most `length` each; labels of a prompt are left out.

    It begins with what the tokenizer puts first, and ends with the end token, or as the chat template has it.
    """
    end = [by.eos_token_id]
    prompt, answer = question(row)
    if encoder and answer is None:
        raise Stop(f"{row.place}: an encoder-decoder needs a prompt to read and a completion to write")
    if encoder:
        ids, labels = (tokenizer.prompt_ids(by, text) + end for text in (prompt, answer or ""))
    elif _is_chat(row, by):
        turns.check(by, row.place)
        ids, said = turns.tokens(by, row.get("messages") or conversation(row), row.place, row.get("tools"))
        labels = [token if answered else IGNORED for token, answered in zip(ids, said, strict=True)]
    elif answer is None:
        ids = labels = tokenizer.prompt_ids(by, prompt) + end
    else:
        before = tokenizer.prompt_ids(by, prompt)
        after = by.encode(answer, add_special_tokens=False) + end
        ids, labels = before + after, [IGNORED] * len(before) + after
    ids, labels = ids[:length], labels[:length]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def _is_chat(row: Row, by: PreTrainedTokenizerBase) -> bool:
    return "messages" in row or bool("instruction" in row and by.chat_template)


def learned(row: Tokens) -> bool:
    """Whether an example has a label: its prompt has not filled it."""
    return any(label != IGNORED for label in row["labels"])


def question(row: Row) -> tuple[str, str | None]:
    """The text to read and the text to write of an example that is no conversation; None where all is to be learned."""
    if "instruction" in row:
        parts = [("Instruction", row["instruction"]), ("Input", row.get("input")), ("Response", "")]
        prompt = "\n\n".join(f"### {head}:\n{text}" for head, text in parts if text is not None)
        return prompt, row["output"]
    return row.get("prompt") or row.get("text", ""), row.get("completion")


def conversation(row: Row) -> list[dict[str, str]]:
    """An instruction, with its input below it, as what a user asks of the assistant."""
    asked = "\n\n".join(filter(None, (row["instruction"], row.get("input"))))
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]
