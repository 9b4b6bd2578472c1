"""The index of a long list, in seconds. The long form is `tools/torture.py index`."""

from __future__ import annotations

import million
import pytest


def test_fifty_thousand_entries_cost_little_more_than_their_names(tmp_path):
    outcome = million.run(50_000, 0, tmp_path, print)
    assert outcome.broken == [] and outcome.tried == 50_000
    assert outcome.metrics["MB of names"] < outcome.metrics["MB of the index"] < 1.4 * outcome.metrics["MB of names"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"wrong": 2}, "2 entries are not those of the list"),
        ({"index": 200 << 20}, "index memory 200.0 MB"),
        ({"resident": 400 << 20}, "resident memory 400.0 MB"),
        ({"added": 100 << 20}, "a worker that read the index has 100.0 MB of its own"),
    ],
)
def test_waste_is_seen(change, message):
    good = {"entries": 1_000_000, "wrong": 0, "index": 120 << 20, "resident": 130 << 20, "added": 1 << 20}
    broken = million.check({**good, **change}, 100 << 20)
    assert [line[: len(message or "")] for line in broken] == ([message] if message else [])


def test_a_process_that_fails_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(million, "__file__", str(tmp_path / "nowhere.py"))
    assert million.run(10, 0, tmp_path / "x", print).broken[0].startswith("status 2")


def test_a_list_of_objects_would_be_seen(tmp_path, monkeypatch):
    """The judge on what a plain Python list costs."""
    names = [million.NAMES[0].format(i=i) for i in range(1000)]
    import sys

    each = sum(sys.getsizeof(name) + 8 for name in names) / len(names)
    found = {"entries": 1000, "wrong": 0, "index": 2 * each * 1000, "resident": 0, "added": 0}
    text = sum(len(pattern.format(i=i)) for i in range(1000) for pattern in million.NAMES)
    assert million.check(found, text)
