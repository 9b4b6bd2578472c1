from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppvision.data.sampler import Order, generator
from ppvision.errors import UserError


def epoch(order: Order, number: int = 0) -> list[list[int]]:
    return [order.batch(number * order.batches + k)[0].tolist() for k in range(order.batches)]


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.booleans(), st.integers(1, 3))
def test_evaluation_shards_are_disjoint_and_complete(num, batch_size, world_size, shuffle, repeats):
    orders = [
        Order(num, batch_size, shuffle=shuffle, rank=r, world_size=world_size, repeats=repeats)
        for r in range(world_size)
    ]
    seen = [i for o in orders for k in range(o.parts) for i in o.part(k)[0].tolist()]
    assert sorted(seen) == list(range(num))


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_ranks_share_what_one_rank_would_see(num, batch_size, world_size, repeats, drop_last):
    kwargs = dict(shuffle=True, seed=5, repeats=repeats)
    if drop_last and num * repeats < batch_size * world_size:
        drop_last = False
    one = Order(num, batch_size * world_size, drop_last=drop_last, **kwargs)
    ranks = [
        Order(num, batch_size, drop_last=drop_last, rank=r, world_size=world_size, **kwargs) for r in range(world_size)
    ]
    assert {o.batches for o in ranks} == {one.batches}
    for k in range(2 * one.batches + 1):
        parts = [o.batch(k) for o in ranks]
        assert np.array_equal(np.concatenate([p[0] for p in parts]), one.batch(k)[0])
        assert np.array_equal(np.concatenate([p[1] for p in parts]), one.batch(k)[1])
        assert {len(p[0]) for p in parts} == {batch_size}


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 3))
def test_an_epoch_sees_everything_and_is_completed_from_its_start(num, batch_size, repeats):
    order = Order(num, batch_size, shuffle=True, repeats=repeats)
    seen = sum(epoch(order, 3), [])
    total = num * repeats
    assert sorted(seen[:total]) == sorted(list(range(num)) * repeats)
    assert seen[total:] == [seen[i % total] for i in range(len(seen) - total)]


def test_drop_last():
    assert len(epoch(Order(10, 4, shuffle=True, drop_last=True))) == 2
    with pytest.raises(UserError, match="3 samples do not fill one batch of 4"):
        Order(3, 2, world_size=2, shuffle=True, drop_last=True)


def test_permutations_differ_by_pass_and_seed_only():
    order = Order(50, 5, shuffle=True, seed=1)
    assert epoch(order, 0) != epoch(order, 1) != epoch(Order(50, 5, shuffle=True, seed=2), 1)
    assert epoch(order, 1) == epoch(Order(50, 5, shuffle=True, seed=1), 1)
    assert epoch(Order(6, 2, shuffle=False)) == [[0, 1], [2, 3], [4, 5]]


def test_repeats_are_new_passes():
    indices, passes = zip(*(Order(4, 4, shuffle=True, repeats=3).batch(k) for k in range(3)))
    assert [set(p.tolist()) for p in passes] == [{0}, {1}, {2}]
    assert len({tuple(i.tolist()) for i in indices}) > 1


def test_generators_are_keyed_by_everything_and_pinned():
    draws = {
        tuple(generator(p, *k).integers(0, 2**32, 2)) for p in (b"a", b"b") for k in ((0, 1), (1, 0), (0, 0), (-1, 0))
    }
    assert len(draws) == 8
    # A change here changes every run that somebody wants to resume or repeat.
    assert generator(b"sample", 0, 0, 0).integers(0, 2**32, 3).tolist() == PINNED


PINNED = [1908568732, 4029751155, 4178891656]


def test_refusals():
    with pytest.raises(UserError, match="data set is empty"):
        Order(0, 1, shuffle=False)
    with pytest.raises(UserError, match="batch_size and repeats must be at least 1"):
        Order(5, 0, shuffle=False)


@given(
    st.integers(1, 60), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99)
)
def test_groups_stay_together_and_nothing_is_lost(num, batch_size, world_size, repeats, kinds, seed):
    groups = np.random.default_rng(seed).integers(0, kinds, num)
    kwargs = dict(shuffle=True, seed=seed, repeats=repeats)
    one = Order(num, batch_size * world_size, groups=groups, **kwargs)
    plain = Order(num, batch_size * world_size, **kwargs)
    ranks = [Order(num, batch_size, rank=r, world_size=world_size, groups=groups, **kwargs) for r in range(world_size)]
    total = num * repeats
    for number in (0, 2):  # two epochs: what an epoch sees is what it sees without groups, in another order
        first = number * one.batches
        seen = [np.stack(one.batch(first + k)) for k in range(one.batches)]
        pairs = np.concatenate(seen, 1)[:, :total]
        expected = np.concatenate([np.stack(plain.batch(first + k)) for k in range(one.batches)], 1)[:, :total]
        assert sorted(map(tuple, pairs.T)) == sorted(map(tuple, expected.T))
        for k in range(one.batches):  # all ranks together see what one would
            parts = np.concatenate([np.stack(o.batch(first + k)) for o in ranks], 1)
            assert np.array_equal(parts, seen[k])
        # All batches of one group come first; as many as there can be.
        pure = [len(set(groups[s[0]])) == 1 for s in seen]
        full = sum(int((groups == g).sum()) * repeats // (batch_size * world_size) for g in range(kinds))
        assert all(pure[:full])


def test_groups_resume_anywhere_and_change_by_epoch():
    groups = np.arange(50) % 2
    kwargs = dict(shuffle=True, seed=4, groups=groups)
    straight = [Order(50, 4, **kwargs).batch(k)[0].tolist() for k in range(39)]
    order = Order(50, 4, **kwargs)
    for k in (30, 3, 38, 0, 13, 12):
        assert order.batch(k)[0].tolist() == straight[k] == Order(50, 4, **kwargs).batch(k)[0].tolist()
    assert straight[:13] != straight[13:26] and straight != [
        Order(50, 4, shuffle=True, seed=4).batch(k)[0].tolist() for k in range(39)
    ]
    # The batches of the two groups are mixed, and about as often as the groups are.
    kinds = [b[0] % 2 for b in straight[:12]]
    assert kinds != sorted(kinds) and kinds != sorted(kinds)[::-1] and sum(kinds) == 6


def test_groups_without_shuffling_or_in_evaluation_change_nothing():
    groups = np.arange(9) % 2
    assert epoch(Order(9, 3, shuffle=False, groups=groups)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    grouped, plain = Order(9, 2, shuffle=True, groups=groups), Order(9, 2, shuffle=True)
    assert all(np.array_equal(grouped.part(k)[0], plain.part(k)[0]) for k in range(grouped.parts))
    with pytest.raises(ValueError, match="3 groups are given for 9 samples"):
        Order(9, 2, shuffle=True, groups=groups[:3])
