"""Which of a Trainer's examples count as cut."""

from __future__ import annotations

from workloads import lengths

END = 9


def test_a_text_without_its_end_is_cut() -> None:
    whole, cut, short = [1, 2, END], [1, 2, 3], [1, 2]
    rows = [{"input_ids": ids, "labels": ids} for ids in (whole, cut, short)]
    assert lengths.cut(rows, 3, END) == 1
    assert lengths.cut([{"input_ids": whole, "labels": cut}], 3, END) == 1  # of an encoder-decoder


def test_a_pair_is_cut_when_one_of_its_answers_is() -> None:
    pairs = [
        {"prompt_ids": [1, 2], "chosen_ids": [3, END], "rejected_ids": ids} for ids in ([END], [3, 4, END])
    ]
    assert lengths.cut(pairs, 4, END) == 1
    assert lengths.cut([{"chosen_ids": [1, END], "rejected_ids": [2, END]}], 2, END) == 0  # of a reward model


def test_prompts_alone_are_not_cut() -> None:
    assert lengths.cut([{"prompt": "a long prompt"}], 1, END) == 0  # type: ignore[dict-item]


def test_a_full_pack_of_several_is_not_cut() -> None:
    ids = [1, END, 7, 2, END, 7]  # a template may say something after the end
    assert lengths.cut([{"input_ids": ids, "labels": ids, "seq_lengths": [3, 3]}], 6, END) == 0
    assert lengths.cut([{"input_ids": ids, "labels": ids, "seq_lengths": [6]}], 6, END) == 1
