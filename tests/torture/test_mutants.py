"""Mutants in seconds: recipes drawn by hypothesis, and a few of every other kind. The long form is
`tools/torture.py mutants`.
"""

from __future__ import annotations

import cases
import mistakes
import mutants
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from outcome import Outcome

MAKERS = {family: list(dict.fromkeys(makers)) for family, (_, makers) in mistakes.FAMILIES.items()}


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    outcome = Outcome("", "")
    stock = mutants.prepare(tmp_path_factory.mktemp("mutants"), outcome)
    assert outcome.broken == [], "the recipe without a mistake must train"
    return stock


@settings(max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
@given(maker=st.sampled_from(MAKERS["recipe"]), seed=st.integers(0, 10_000))
@example(maker=mistakes.typo_in_a_key, seed=1)
def test_a_mistake_in_a_recipe_is_one_line(stock, maker, seed):
    case = mutants.make(stock, maker, stock.folder / "mutant", [seed])
    found, ended = mutants.check(case, mutants.in_process)
    assert found == [], f"{maker.__name__}: {case.what}\n{ended.stderr}"


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("maker", MAKERS["data"] + MAKERS["weights"], ids=lambda maker: maker.__name__)
def test_a_mistake_in_data_or_weights_is_one_line(stock, maker, seed):
    case = mutants.make(stock, maker, stock.folder / "mutant", [seed])
    found, ended = mutants.check(case, mutants.in_process)
    assert found == [], f"{maker.__name__}: {case.what}\n{ended.stderr}"


def test_a_mistake_in_its_own_process_is_one_line(stock):
    case = mutants.make(stock, mistakes.damaged_picture, stock.folder / "mutant", [3])
    found, ended = mutants.check(case, mutants.in_own_process)
    assert found == [], f"{case.what}\n{ended.stderr}"


class TestTheCheck:
    """It must be able to fail."""

    @pytest.fixture
    def case(self, stock, tmp_path):
        (tmp_path / "case").mkdir()
        return cases.Case(stock, tmp_path / "case", np.random.default_rng(0), stock.spec(), words=("iters",))

    def checked(self, case, monkeypatch, main):
        import ppvision.cli

        monkeypatch.setattr(ppvision.cli, "main", main)
        return mutants.check(case, mutants.in_process)[0]

    def test_silence_is_seen(self, case, monkeypatch):
        assert self.checked(case, monkeypatch, lambda argv: 0) == ["silently accepted"]

    def test_a_traceback_is_seen(self, case, monkeypatch):
        assert self.checked(case, monkeypatch, lambda argv: 1 / 0) == ["traceback, ZeroDivisionError: division by zero"]

    def test_status_lines_and_words_are_seen(self, case, monkeypatch):
        import sys

        def main(argv):
            print("first\nsecond: titers", file=sys.stderr)
            return 3

        found = self.checked(case, monkeypatch, main)
        assert [line.split()[0] for line in found] == ["status", "2", "does"]

    def test_the_word_alone_is_enough(self, case, monkeypatch):
        import sys

        def main(argv):
            print("error: 'train.iters' is odd", file=sys.stderr)
            return 2

        assert self.checked(case, monkeypatch, main) == []

    def test_a_hang_and_a_half_written_folder_are_seen(self, case, monkeypatch):
        import time

        def main(argv):
            (case.run / ".writing_iter_4").mkdir(parents=True)
            time.sleep(5)

        monkeypatch.setattr(mutants, "LIMIT", 0.2)
        assert self.checked(case, monkeypatch, main) == ["hangs for more than 0.2 s"]
        monkeypatch.setattr(mutants, "LIMIT", 300)
        found = self.checked(case, monkeypatch, lambda argv: 2)
        assert any("left half-written .writing_iter_4" in line for line in found)
        assert any("opened the run folder" in line for line in found)

    def test_output_of_c_libraries_is_seen(self, case, monkeypatch):
        import os

        def main(argv):
            os.write(2, b"libsomething warning\nerror: iters\n")
            return 2

        assert self.checked(case, monkeypatch, main) == ["2 lines on stderr instead of 1"]


def test_a_typo_is_never_a_name():
    rng = np.random.default_rng(0)
    for word in ("iters", "type", "p", "min", "batch_size"):
        slips = {cases.typo(rng, word) for _ in range(50)}
        assert len(slips) > 3 and not slips & cases.known_names() and word not in slips


def test_two_hundred_mutants_use_every_maker():
    jobs = mutants.schedule(200)
    assert len(jobs) == 200
    assert {maker for _, maker in jobs} == {maker for makers in MAKERS.values() for maker in makers}
