"""Which rank owns what; that it steps right is shown with two processes in test_distributed."""

from hypothesis import given
from hypothesis import strategies as st

from ppvision.engine.sharding import owners


@given(
    st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 1000), min_size=1, max_size=30), st.integers(1, 5)
)
def test_every_parameter_has_one_owner_and_no_rank_has_too_much(sizes, world_size):
    owner = owners(sizes, world_size)
    assert owner.keys() == sizes.keys() and set(owner.values()) <= set(range(world_size))
    load = [sum(size for key, size in sizes.items() if owner[key] == rank) for rank in range(world_size)]
    assert max(load) <= sum(sizes.values()) / world_size + max(sizes.values())
    assert owner == owners(dict(reversed(sizes.items())), world_size)  # the order of a dict is no matter


def test_large_ones_are_spread():
    assert owners({"a": 10, "b": 9, "c": 8, "d": 7}, 2) == {"a": 0, "b": 1, "c": 1, "d": 0}
