"""Endurance in seconds: the figures are taken and the judge can fail. The long form is `tools/torture.py endurance`."""

from __future__ import annotations

import os

import endurance
import pytest


@pytest.mark.slow
def test_a_short_run_is_sampled_and_does_not_grow(tmp_path):
    outcome = endurance.run(120, 0, tmp_path, print, reference=50, every=10, save=40, allowed=0.15)
    assert outcome.broken == []
    assert outcome.tried == 120 and outcome.metrics["evaluations and checkpoints"] == 3
    assert 50 < outcome.metrics["RSS MB at step 120"] < 4000
    assert outcome.metrics["children at the end"] == 1, "the loader's worker"


def samples_of(monkeypatch, rss, files):
    made = [endurance.Sample(step, rss(step) << 20, 0, files(step), 3, 1) for step in range(100, 2100, 100)]
    monkeypatch.setattr(endurance, "watch", lambda path, run, say, steps: (made, 0, ""))


@pytest.mark.parametrize(
    ("rss", "files", "message"),
    [
        (lambda step: 300, lambda step: 8, None),
        (lambda step: 300 + step // 20, lambda step: 8, "resident memory grew"),
        (lambda step: 300, lambda step: 8 + step // 1500, "number of files changed: 8 to 9"),
        (lambda step: 600 if step < 1000 else 300, lambda step: 8, None),
    ],
)
def test_growth_is_seen(tmp_path, monkeypatch, rss, files, message):
    samples_of(monkeypatch, rss, files)
    broken = endurance.run(2000, 0, tmp_path, print).broken
    assert [line[: len(message or "")] for line in broken] == ([message] if message else [])


def test_a_run_that_fails_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(endurance, "watch", lambda path, run, say, steps: ([], 2, "error: no"))
    assert endurance.run(2000, 0, tmp_path, print).broken[0] == "ended with status 2: error: no"


def test_a_process_is_measured():
    here = endurance.sample(os.getpid(), 7)
    assert here.step == 7 and here.rss > 1 << 20 and here.files >= 3 and here.threads >= 1
