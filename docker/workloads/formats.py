"""What an example to learn from looks like: its form, the columns that hold it, and what is wrong with one.

Owns the forms below, standard library only. Files are read by rows.py, and labels.py makes tokens of them.

    {"messages": [{"role": …, "content": …}, …]}         a conversation: learn what the assistant says; "tools" that it
                                                         may call (JSON schemas) may be beside it
    {"prompt": …, "completion": …}                       learn the answer
    {"instruction": …, "input": …, "output": …}          the same, as Alpaca has it; the input may be missing
    {"text": …}                                          continue pretraining
    {"prompt": …, "chosen": …, "rejected": …}            learn which answer is better: text, or lists of messages
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Form = tuple[str, ...]

ANSWERS = (("messages",), ("prompt", "completion"), ("instruction", "output"), ("text",))
TEXTS = (("text",),)
PAIRS = (("prompt", "chosen", "rejected"), ("chosen", "rejected"))
PROMPTS = (("prompt",),)
OPTIONAL: dict[tuple[str, ...], tuple[str, ...]] = {
    ("messages",): ("tools",),
    ("instruction", "output"): ("input",),
}
ROLES = ("system", "developer", "user", "assistant", "tool")
_SHAREGPT = {"system": "system", "human": "user", "gpt": "assistant", "function_response": "tool"}


class Row(dict[str, Any]):
    """An example by its form's keys; `place` is where it was read."""

    place: str = ""


def add_columns(group: argparse._ArgumentGroup) -> None:
    """Add the names of columns that are called otherwise."""
    group.add_argument(
        "--columns",
        nargs="+",
        type=column,
        default=[],
        metavar="KEY=COLUMN",
        help="which columns of the data hold what, where their names are others: prompt=question completion=answer",
    )


def columns(args: argparse.Namespace) -> list[tuple[str, str]]:
    """The key and the column of each word of --columns."""
    split = (word.partition("=") for word in args.columns)
    return [(key, name) for key, _, name in split]


def column(word: str) -> str:
    """The word if it is KEY=COLUMN. Raises argparse.ArgumentTypeError for anything else."""
    key, equals, name = word.partition("=")
    keys = {key: None for form in (*ANSWERS, *PAIRS) for key in (*form, *OPTIONAL.get(form, ()))}
    if key not in keys or not equals or not name:
        raise argparse.ArgumentTypeError(
            f"KEY=COLUMN with a KEY of {', '.join(keys)} is expected, not {word!r}"
        )
    return word


def mistake(columns: Sequence[tuple[str, str]], forms: Sequence[Form]) -> str:
    """What is wrong with --columns for examples of these forms; empty where nothing is."""
    keys = [key for key, _ in columns]
    for key in keys:
        if keys.count(key) > 1:
            return f"--columns names the column of {key!r} twice"
    if not _meant(keys, forms):
        return f"--columns {' '.join(keys)}: no form of example has these keys; there are {_listed(forms)}"
    return ""


def example(row: Any, place: str, forms: Sequence[Form], columns: Mapping[str, str]) -> Row:
    """The example that a row holds, with the keys of the first form that it has. Raises Stop for one that has none.

    `columns` are the names of those that are called otherwise than their keys; they choose the form.
    """
    if not isinstance(row, dict):
        raise Stop(f"{place}: not an object with columns, but {_kind(row)}")
    meant = _meant(list(columns), forms)
    form = next((form for form in meant if all(columns.get(key, key) in row for key in form)), None)
    if form is None:
        wanted = _listed([tuple(columns.get(key, key) for key in form) for form in meant])
        raise Stop(
            f"{place}: no column {wanted}; it has {', '.join(map(str, row)) or 'none'}: name them in --columns "
            f"{meant[0][0]}=COLUMN"
        )
    read = Row({key: row[columns.get(key, key)] for key in form})
    read.place = place
    for key in OPTIONAL.get(form, ()):
        if (value := row.get(columns.get(key, key))) not in (None, ""):
            read[key] = value
    for key, value in read.items():
        if key == "messages" or ("chosen" in form and isinstance(value, list)):
            read[key] = list(_messages(value, f"{place}: {columns.get(key, key)}", key))
        elif key == "tools":
            read[key] = _tools(value, f"{place}: {columns.get(key, key)}")
        elif not isinstance(value, str) or not value:
            what = "is empty" if value in ("", None) else f"is {_kind(value)}, not text"
            raise Stop(f"{place}: {columns.get(key, key)} {what}")
    return _pair(read) if "chosen" in form else read


def texts(row: Row) -> Iterator[str]:
    """Every text of an example, for training a tokenizer."""
    for value in row.values():
        if isinstance(value, list):
            yield from (message["content"] for message in value if isinstance(message.get("content"), str))
        else:
            yield value


def _pair(row: Row) -> Row:
    """A pair whose prompt, if the answers are messages, is messages too: those that both answers begin with."""
    lists = [isinstance(row[key], list) for key in ("chosen", "rejected")]
    if lists == [False, False] and isinstance(row.get("prompt"), str):
        return row
    if lists != [True, True]:
        raise Stop(f"{row.place}: prompt, chosen and rejected must all be text, or the answers be messages")
    if isinstance(row.get("prompt"), list):
        same = len(row["prompt"])
        if any(row[key][:same] != row["prompt"] for key in ("chosen", "rejected")):
            return row
        row.update({key: row[key][same:] for key in ("chosen", "rejected")})  # they have the prompt once more
        return row
    both = zip(row["chosen"], row["rejected"], strict=False)
    same = next((n for n, (one, other) in enumerate(both) if one != other), 0)
    if not same:
        raise Stop(f"{row.place}: chosen and rejected are the same, or begin with no message in common")
    whole = {"prompt": row["chosen"][:same], **{key: row[key][same:] for key in ("chosen", "rejected")}}
    row.update(whole)
    return row


def _messages(messages: Any, place: str, key: str) -> Iterator[dict[str, Any]]:
    """Messages as chat templates take them. Raises Stop for what is none, or does not end with an answer."""
    if not isinstance(messages, list) or not messages:
        what = "is empty" if messages in ([], None) else f"is {_kind(messages)}, not a list of messages"
        raise Stop(f"{place} {what}")
    for number, message in enumerate(messages, 1):
        if isinstance(message, dict) and {"from", "value"} <= message.keys():  # as ShareGPT has it
            role = _SHAREGPT.get(str(message["from"]), message["from"])
            message = {"role": role, "content": message["value"]}
        yield _message(message, f"{place}: message {number}")
    last = _role(messages[-1])
    if key == "prompt" and last == "assistant":
        raise Stop(f"{place} ends with the assistant: the answer is of the other columns")
    if key != "prompt" and last != "assistant":
        raise Stop(
            f"{place} ends with the role {last!r}: the last message must be the assistant's, to be learned"
        )


def _message(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, dict) or "role" not in message:
        raise Stop(f'{place} is not {{"role": …, "content": …}}')
    if message["role"] not in ROLES:
        raise Stop(f"{place} has the role {message['role']!r}, which is none of {', '.join(ROLES)}")
    content, calls = message.get("content"), message.get("tool_calls")
    if not (isinstance(content, str) and content) and not calls:
        what = "no content" if content in ("", None) else f"content that is {_kind(content)}, not text"
        raise Stop(f"{place} has {what}")
    whole = {key: value for key, value in message.items() if value is not None}
    return whole | ({"tool_calls": list(_calls(calls, place))} if calls else {})


def _calls(calls: Any, place: str) -> Iterator[dict[str, Any]]:
    """Tool calls as chat templates take them: arguments that are JSON, as OpenAI has it, become the object they are."""
    for call in calls if isinstance(calls, list) else [None]:
        call = call if isinstance(call, dict) else {}
        function = call.get("function", call)
        if not isinstance(function, dict) or not function.get("name"):
            raise Stop(f'{place} has a tool call that is not {{"function": {{"name": …, "arguments": …}}}}')
        arguments = function.get("arguments") or {}
        if isinstance(arguments, str):
            arguments = _json(arguments, f"{place} has arguments of the tool {function['name']}")
        if not isinstance(arguments, dict):
            raise Stop(
                f"{place} has arguments of the tool {function['name']} that are {_kind(arguments)}, not an object"
            )
        whole = {**function, "arguments": arguments}
        yield {**call, "function": whole} if "function" in call else whole


def _tools(tools: Any, place: str) -> list[Any]:
    """The tools that are offered, also as JSON of their list."""
    tools = _json(tools, place) if isinstance(tools, str) else tools
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Stop(f"{place} is {_kind(tools)}, not a list of tools, each an object (its JSON schema)")
    return tools


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Stop(f"{what} that are no JSON: {str(error)[:100]}") from error


def _role(message: dict[str, Any]) -> str:
    return str(message.get("role") or _SHAREGPT.get(str(message.get("from")), message.get("from")))


def _meant(keys: Sequence[str], forms: Sequence[Form]) -> list[Form]:
    return [form for form in forms if set(keys) <= {*form, *OPTIONAL.get(form, ())}]


def _listed(forms: Sequence[Form]) -> str:
    return ", or ".join(" and ".join(form) for form in forms)


def _kind(value: Any) -> str:
    names = {str: "text", list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)
