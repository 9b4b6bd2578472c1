"""Which samples make up batch number k: a pure function of (seed, k, rank), so a run resumes anywhere without
replaying data.

An *epoch* is `repeats` passes over the data set; each pass has its own permutation, drawn from (seed, pass). The
batches of all ranks are cut from one global order: global batch k holds `world_size * batch_size` positions, rank r
takes the r-th part of it. So two ranks with batch 2 see together what one rank with batch 4 sees.

End of an epoch, training (`batch`): the last global batch is either dropped (`drop_last`) or completed from the
beginning of the same epoch's order. Every rank gets the same number of full batches, so no rank waits for another.
Evaluation (`part`): nothing is added or dropped; the parts are disjoint, their union is everything once, and the last
parts may be smaller or empty.

Groups (pictures of like proportions, say): the order of an epoch is rearranged so that every global batch, and with it
the batch of every rank, is of one group, as far as the groups go: a global batch stands where its last sample stood in
the permutation; what is left over of the groups, less than a global batch of each, is mixed and comes last.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from ppvision.errors import UserError


def generator(purpose: bytes, *numbers: int) -> np.random.Generator:
    """A generator keyed by a purpose and integers, and by nothing else; equal on every machine and process."""
    digest = hashlib.blake2b(purpose + struct.pack(f"<{len(numbers)}q", *numbers), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


class Order:
    """Indices of every batch.

    Args:
        num_samples: size of the data set.
        batch_size: samples per batch and rank.
        shuffle: permute each pass; otherwise 0, 1, 2, ...
        seed: of the permutations.
        rank: this process, in 0..world_size-1.
        world_size: processes that share the global batch.
        drop_last: drop an incomplete global batch of an epoch instead of completing it (training only).
        repeats: passes per epoch.
        groups: integer [num_samples], the group of every sample, to keep training batches of one group (with
            `shuffle`); None for no groups.

    Raises:
        UserError: an empty data set, or one smaller than a global batch with `drop_last`.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        repeats: int = 1,
        groups: np.ndarray | None = None,
    ):
        if num_samples < 1:
            raise UserError("the data set is empty: no batch can be made of it")
        if batch_size < 1 or repeats < 1:
            raise UserError(f"batch_size and repeats must be at least 1, not {batch_size} and {repeats}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is outside 0..{world_size - 1}")
        self.num_samples, self.batch_size, self.repeats = num_samples, batch_size, repeats
        self.shuffle, self.seed, self.rank, self.world_size = shuffle, seed, rank, world_size
        self.total = num_samples * repeats
        self.group = batch_size * world_size
        self.batches = self.total // self.group if drop_last else -(-self.total // self.group)
        if self.batches == 0:
            raise UserError(
                f"{self.total} samples do not fill one batch of {self.group} ({world_size} x {batch_size}) and "
                "incomplete batches are dropped: lower batch_size or raise train.repeats"
            )
        if groups is not None and len(groups) != num_samples:
            raise ValueError(f"{len(groups)} groups are given for {num_samples} samples")
        self.groups = groups if shuffle else None
        self._permutations: dict[int, np.ndarray] = {}
        self._arranged: tuple[int, np.ndarray] | None = None

    def batch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `number` of an endless stream on this rank.

        Returns:
            Indices int64 [B] and passes int64 [B] (how many times the data set had been gone through before).
        """
        epoch, number = divmod(number, self.batches)
        first = number * self.group + self.rank * self.batch_size
        positions = np.arange(first, first + self.batch_size) % self.total
        if self.groups is not None:
            positions = self._arrangement(epoch)[positions]
        return self._at(epoch, positions)

    def part(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """This rank's share of global batch `number` of a single pass.

        Possibly smaller than a batch, possibly empty.
        """
        first = number * self.group + self.rank * self.batch_size
        return self._at(0, np.arange(first, max(first, min(first + self.batch_size, self.num_samples))))

    @property
    def parts(self) -> int:
        """Global batches of a single pass."""
        return -(-self.num_samples // self.group)

    def _at(self, epoch: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        passes = epoch * self.repeats + positions // self.num_samples
        offsets = positions % self.num_samples
        if not self.shuffle:
            return offsets, passes
        needed = np.unique(passes)
        self._permutations = {int(p): self._permutation(int(p)) for p in needed}
        indices = np.empty_like(offsets)
        for p in needed:
            indices[passes == p] = self._permutations[int(p)][offsets[passes == p]]
        return indices, passes

    def _arrangement(self, epoch: int) -> np.ndarray:
        """Positions 0..total-1 of an epoch in the order that keeps groups together: int64 [total]."""
        if self._arranged is None or self._arranged[0] != epoch:
            indices, _ = self._at(epoch, np.arange(self.total))
            groups = np.asarray(self.groups)[indices]
            blocks, rest = [], []
            for group in np.unique(groups):
                members = np.flatnonzero(groups == group)
                full = len(members) // self.group * self.group
                blocks.append(members[:full].reshape(-1, self.group))
                rest.append(members[full:])
            blocks = np.concatenate(blocks)
            blocks = blocks[np.argsort(blocks[:, -1])]
            self._arranged = (epoch, np.concatenate([blocks.ravel(), np.sort(np.concatenate(rest))]))
        return self._arranged[1]

    def _permutation(self, number: int) -> np.ndarray:
        if number in self._permutations:
            return self._permutations[number]
        return generator(b"order", self.seed, number).permutation(self.num_samples)
