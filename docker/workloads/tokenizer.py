"""Tokenizers: bytes, a BPE trained on the data, or one that exists.

Owns what --tokenizer means; all are Hugging Face tokenizers, so that an exported model takes its own along. What is
tokenized is read by text.py.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from workloads import architectures, formats
from workloads.session import Stop

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    import numpy as np
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

    from workloads.formats import Row
    from workloads.session import Session

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"
REPLACED = "\N{REPLACEMENT CHARACTER}"
# what a folder has of a tokenizer: of every class, or of some, which config.json then names
FILES = (
    *("tokenizer.json", "tokenizer_config.json"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "tekken.json"),
)
SPARE = r"(?i)pad|reserved"  # in the name of a token: <|finetune_right_pad_id|>, <|reserved_special_token_0|>
TRAINED_ON = 100_000_000  # characters a BPE is trained on at most


def make(
    session: Session, name: str, model: str, *, vocabulary: int, texts: Callable[[], Iterator[str]]
) -> PreTrainedTokenizerBase:
    """The tokenizer that --tokenizer names, on every rank; `texts` yields the data, for training a BPE.

    A trained one is kept in the run's folder `tokenizer/` and found there by a restart. Raises Stop when there is no
    such tokenizer, or when it has tokens that the model's vocabulary has no place for.
    """
    folder = session.run_dir / "tokenizer"
    return session.together(
        lambda: choose(
            name, model, vocabulary, lambda bpe: session.first(lambda: trained(bpe, folder, texts))
        )
    )


def choose(name: str, model: str, vocabulary: int, train: Callable[[str], str]) -> PreTrainedTokenizerBase:
    """The tokenizer that --tokenizer names; `train` gives the JSON of bpe:SIZE. Raises Stop as `make` does."""
    if wrong := mistake(name, model):
        raise Stop(wrong)
    if name == "auto":
        name = "bytes" if architectures.named(model) or not _has_tokenizer(model) else model
    if name == "bytes":
        tokenizer = _wrapped(_bytes(), "bytes")
    elif name.startswith("bpe:"):
        tokenizer = _wrapped_json(train(name), name)
    else:
        tokenizer = _existing(name)
    if len(tokenizer) > vocabulary:
        raise Stop(
            f"tokenizer {name} has {len(tokenizer):,} tokens, and model {model} a vocabulary of {vocabulary:,}: "
            "use a smaller tokenizer (bytes, bpe:SIZE) or another model"
        )
    return tokenizer


def mistake(name: str, model: str) -> str:
    """What is wrong with `auto` for a folder whose weights know the tokens of a tokenizer that is not there."""
    if name != "auto" or not architectures.has_weights(model) or _has_tokenizer(model):
        return ""
    return (
        f"--tokenizer: {model} has weights and no tokenizer; name the one whose tokens they know, or save it there "
        "(tokenizer.save_pretrained)"
    )


def existing(name: str) -> PreTrainedTokenizerBase:
    """A tokenizer that needs no training: bytes, a folder or a hub name. Raises Stop when there is none."""
    return _wrapped(_bytes(), "bytes") if name == "bytes" else _existing(name)


def of_model(model: str) -> PreTrainedTokenizerBase:
    """A model's own tokenizer; bytes for a named architecture. Raises Stop when it brings none."""
    return existing("bytes" if architectures.named(model) else model)


def of_folder(model: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer that a folder or hub name brings; None if a folder has none."""
    return _existing(model) if _has_tokenizer(model) else None


def for_examples(
    session: Session,
    args: argparse.Namespace,
    vocabulary: int,
    rows: list[Row],
    *,
    pad_apart: bool = False,
) -> PreTrainedTokenizerBase:
    """The tokenizer for examples, which needs an end token: --tokenizer, or a BPE of the model's vocabulary.

    Where it has no padding token of its own, `pad` finds one. Raises Stop as `make` does, and where there is no end
    token.
    """
    name = args.tokenizer
    if wrong := mistake(name, args.model):
        raise Stop(wrong)
    if name == "auto" and (architectures.named(args.model) or not _has_tokenizer(args.model)):
        name = f"bpe:{min(vocabulary - 1, 8192)}"  # and one for padding

    def texts() -> Iterator[str]:
        return (text for row in rows for text in formats.texts(row))

    by = make(session, name, args.model, vocabulary=vocabulary, texts=texts)
    if by.eos_token_id is None:
        raise Stop(
            f"tokenizer {by.name_or_path} has no end token, which ends an answer: use bpe:SIZE or another"
        )
    pad(by, vocabulary, pad_apart)
    return by


def pad(tokenizer: PreTrainedTokenizerBase, vocabulary: int, apart: bool) -> None:
    """Give a tokenizer a padding token apart from its end token, which else could not be told from padding.

    That is one that it has and no text becomes, else a new one if the model's vocabulary has room, or if the two must
    be `apart`; else it is the end token after all.
    """
    if tokenizer.pad_token_id not in (None, tokenizer.eos_token_id):
        return
    taken = {tokenizer.eos_token, tokenizer.bos_token}
    reserved = [t.content for t in tokenizer.added_tokens_decoder.values() if re.search(SPARE, t.content)]
    spare = [token for token in (tokenizer.unk_token, *reserved) if token and token not in taken]
    if spare:
        tokenizer.pad_token = spare[0]
    elif len(tokenizer) < vocabulary or apart:
        tokenizer.add_special_tokens({"pad_token": PADDING})
    else:
        tokenizer.pad_token = tokenizer.eos_token


def encode(tokenizer: PreTrainedTokenizerBase, texts: list[str], dtype: str) -> list[np.ndarray]:
    """The token ids of each text, without special tokens."""
    import numpy as np

    if tokenizer.name_or_path == "bytes":
        return [np.frombuffer(text.encode(), dtype=np.uint8) for text in texts]
    rows = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return [np.array(row, dtype=dtype) for row in rows]


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer itself puts before a text: the ids of BOS, for many none."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    return next((list(whole[:n]) for n in range(len(whole)) if whole[n : n + len(plain)] == plain), [])


def prompt_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a prompt, begun as the tokenizer begins a text (BOS), but not ended: the model goes on.

    A prompt that spells the tokenizer's BOS out gets no second one.
    """
    plain: list[int] = tokenizer.encode(text, add_special_tokens=False)
    if plain and plain[0] == tokenizer.bos_token_id:
        return plain
    whole: list[int] = tokenizer.encode(text)
    own_end = bool(plain) and whole[len(whole) - len(plain) :] == plain  # the text's own
    return whole[:-1] if whole[-1:] == [tokenizer.eos_token_id] and not own_end else whole


def continuation(
    tokenizer: PreTrainedTokenizerBase, prompt: list[int], new: list[int], *, special: bool = False
) -> str:
    """The text of new tokens after a prompt; that of special ones only if asked for.

    Decoded alone, a text of SentencePiece loses the space that it begins with.
    """
    tail = prompt[-8:]  # enough that what a tokenizer does at a text's beginning falls into it
    before, whole, alone = (
        str(tokenizer.decode(ids, skip_special_tokens=not special)) for ids in (tail, tail + new, new)
    )
    # a prompt that ends within a character has another text once it is whole
    return whole[len(before) :] if whole.startswith(before) else alone


def piece(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """The text of a token inside a text: of SentencePiece's with the space that one at the beginning loses."""
    before: list[int] = tokenizer.encode("a", add_special_tokens=False)
    return continuation(tokenizer, before, [token], special=True)


def bytes_of(tokenizer: PreTrainedTokenizerBase, token: int) -> bytes:
    """The bytes that a token stands for, also where they are a part of a character, which has no text alone."""
    text = piece(tokenizer, token)
    if REPLACED in text:
        name = str(tokenizer.convert_ids_to_tokens(token))
        if of_one := re.fullmatch(r"<0x([0-9A-F]{2})>", name):  # SentencePiece's byte fallback
            return bytes.fromhex(of_one[1])
        bytes_ = {character: byte for byte, character in _alphabet().items()}
        if bytes_.keys() >= set(name):
            return bytes(bytes_[character] for character in name)
    return text.encode()


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of everything that decides the ids: the same for the same tokenizer, wherever it was loaded from."""
    whole = (
        tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
    )
    return hashlib.sha256(str(whole).encode()).hexdigest()[:16]


def _bytes() -> Tokenizer:
    """Token i is byte i: byte-level BPE with no merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.BPE(vocab={character: byte for byte, character in _alphabet().items()}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _alphabet() -> dict[int, str]:
    # GPT-2's printable stand-in for each byte (github.com/openai/gpt-2, src/encoder.py, bytes_to_unicode), which
    # tokenizers' ByteLevel maps through: printable Latin-1 stays, the others move up to 256 and beyond
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def check_size(name: str) -> None:
    """Raise Stop when the SIZE of bpe:SIZE is none."""
    size = name.removeprefix("bpe:")
    if not size.isdigit() or int(size) <= 256:
        raise Stop(
            f"--tokenizer {name}: bpe:SIZE needs a SIZE above 256, one token for each byte and one more"
        )


def trained(name: str, folder: Path, texts: Callable[[], Iterator[str]]) -> str:
    """The JSON of bpe:SIZE, from its folder or trained now and kept there. Raises Stop when SIZE is none."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    check_size(name)
    size = name.removeprefix("bpe:")
    kept = folder / "tokenizer.json"
    if kept.exists() and (old := Tokenizer.from_file(str(kept))).get_vocab_size() <= int(size):
        return str(old.to_str())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        _some(texts()),
        trainers.BpeTrainer(
            vocab_size=int(size),
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(alphabet),
            show_progress=False,
        ),
    )
    _wrapped(tokenizer, name).save_pretrained(folder)
    return str(tokenizer.to_str())


def _some(texts: Iterator[str]) -> Iterator[str]:
    left = TRAINED_ON
    for text in texts:
        yield text
        left -= len(text)
        if left < 0:
            return


def _wrapped_json(json: str, name: str) -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer

    return _wrapped(Tokenizer.from_str(json), name)


def _wrapped(tokenizer: Tokenizer, name: str) -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerFast

    end = END_OF_TEXT if tokenizer.token_to_id(END_OF_TEXT) is not None else None
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, name_or_path=name)


def _has_tokenizer(model: str) -> bool:
    folder = Path(model)
    return not folder.is_dir() or any((folder / file).exists() for file in FILES)


def _existing(name: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Stop(
            f"--tokenizer {name}: neither bytes, bpe:SIZE, a folder nor a hub name: {reason}"
        ) from error
