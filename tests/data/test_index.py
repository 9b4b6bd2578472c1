from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppvision.data.index import PackedStrings


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_is_the_list_it_was_made_of(texts):
    packed = PackedStrings(iter(texts))
    assert list(packed) == texts and len(packed) == len(texts)
    assert [packed[-i - 1] for i in range(len(texts))] == texts[::-1]
    assert list(packed[1:5:2]) == texts[1:5:2]
    assert packed == PackedStrings(texts)


def test_undecodable_file_names_survive():
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    assert PackedStrings([name])[0] == name


def test_out_of_range():
    packed = PackedStrings(["a", "b"])
    for index in (2, -3):
        with pytest.raises(IndexError, match=f"index {index} "):
            packed[index]


def test_columns_are_filled_together():
    first, second = PackedStrings.columns(((f"a{i}", f"b{i}") for i in range(10)), 2)
    assert first[7] == "a7" and second[7] == "b7" and len(first) == len(second) == 10


def test_a_hundred_thousand_entries_are_two_small_arrays():
    packed = PackedStrings(f"leftImg8bit/train/aachen/aachen_{i:06d}_000019_leftImg8bit.png" for i in range(100_000))
    assert packed.nbytes < 8_000_000  # 65 bytes of text and 8 of offset each; a list of str needs over 12 million
    objects = list(vars(packed).values())
    assert len(objects) == 2 and all(sys.getrefcount(o) < 10 and not o.dtype.hasobject for o in objects)
    assert packed[99_999] == "leftImg8bit/train/aachen/aachen_099999_000019_leftImg8bit.png"
