"""A packed list of strings: one block of bytes and one of offsets.

A Python list of a million paths is a million objects: about 100 MB, and every worker forked from the parent copies it
page by page, because reading an object writes its reference count. Two numpy arrays are two objects whatever their
length.
"""

from __future__ import annotations

import array
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np


class PackedStrings(Sequence[str]):
    """An immutable sequence of strings (file names included: undecodable bytes survive) in two numpy arrays.

    Args:
        strings: any iterable, consumed once; no list of it is made.
    """

    def __init__(self, strings: Iterable[str] = ()):
        builder = _Builder()
        for text in strings:
            builder.append(text)
        self._blob, self._ends = builder.arrays()

    @classmethod
    def columns(cls, rows: Iterable[tuple[str, ...]], num_columns: int) -> list[PackedStrings]:
        """One packed list per column of `rows`, which is consumed once."""
        builders = [_Builder() for _ in range(num_columns)]
        for row in rows:
            for builder, text in zip(builders, row, strict=True):
                builder.append(text)
        packed = [cls.__new__(cls) for _ in builders]
        for column, builder in zip(packed, builders):
            column._blob, column._ends = builder.arrays()
        return packed

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return PackedStrings(self[i] for i in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside a packed list of {len(self)}")
        index = int(index) % len(self)
        return os.fsdecode(self._blob[self._ends[index] : self._ends[index + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedStrings):
            return NotImplemented
        return np.array_equal(self._ends, other._ends) and np.array_equal(self._blob, other._blob)

    __hash__ = None

    def __repr__(self) -> str:
        return f"PackedStrings({len(self)} strings, {self.nbytes} bytes)"

    @property
    def nbytes(self) -> int:
        """Bytes held by the two arrays."""
        return self._blob.nbytes + self._ends.nbytes


class _Builder:
    """Grows like a list, but as bytes."""

    def __init__(self):
        self.blob, self.ends = bytearray(), array.array("q", [0])

    def append(self, text: str) -> None:
        self.blob += os.fsencode(text)
        self.ends.append(len(self.blob))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.frombuffer(bytes(self.blob), np.uint8), np.frombuffer(self.ends.tobytes(), np.int64)
