"""The judge: errors, agreement, shapes, verdict. A wrong backend must not get past it."""

import json

import numpy as np
import pytest

from ppvision.errors import UserError
from ppvision.exporting import parity
from ppvision.exporting.parity import Graph, Row
from ppvision.predict.tasks.base import Task, class_agreement


def agreement(scores, given):
    return class_agreement({"output": scores}, {"labels": given}, 1e-4)


class TestMeasures:
    def test_errors_are_relative_to_the_largest_output(self):
        a = {"a": np.array([10.0, -20.0]), "b": np.array([1.0])}
        b = {"b": np.array([1.005]), "a": np.array([10.0, -20.2])}
        worst, mean = parity.relative_errors(a, b)
        assert worst == pytest.approx(0.01) and mean == pytest.approx(0.005)

    @pytest.mark.parametrize(
        "other",
        [
            {"a": np.zeros(3)},
            {"a": np.array([1.0, np.nan])},
            {"a": np.array([np.inf, 0])},
            {},
            {"b": np.ones(2)},
            {"a": np.ones(2), "b": np.zeros(2)},
        ],
    )
    def test_what_cannot_be_compared_is_infinitely_wrong(self, other):
        assert parity.relative_errors({"a": np.ones(2)}, other) == (float("inf"), float("inf"))

    def test_near_ties_are_nobodys_fault_and_real_differences_are(self):
        scores = np.zeros((1, 2, 1, 4), np.float32)
        scores[0, :, 0] = [[1.0, 1.0, 0.0, 1.0], [1.00001, 0.5, 1.0, 1.0001]]
        right = scores.argmax(1)
        assert agreement(scores, right) == (1.0, 1.0)
        assert agreement(scores, scores) == (1.0, 1.0)
        near = np.array([[[0, 0, 1, 0]]])
        assert agreement(scores, near) == (1.0, 0.5)
        wrong = np.array([[[1, 1, 0, 1]]])
        assert agreement(scores, wrong) == (0.5, 0.5)

    def test_decisions_of_another_shape_or_class_agree_nowhere(self):
        scores = np.ones((1, 2, 3, 3))
        assert agreement(scores, np.zeros((1, 3, 2), int)) == (0.0, 0.0)
        assert agreement(scores, np.full((1, 3, 3), 2)) == (0.0, 0.0)

    def test_pictures(self):
        x = parity.pictures([2, 3, 33, 47])
        assert x.shape == (2, 3, 33, 47) and x.dtype == np.float32 and 0 <= x.min() and x.max() <= 255
        assert np.array_equal(x, parity.pictures([2, 3, 33, 47])) and x.std() > 20
        given = parity.pictures([3, 3, 4, 6], [np.full((8, 12, 3), 7, np.uint8), np.full((4, 6, 3), 9, np.uint8)])
        assert given[:, 0, 0, 0].tolist() == [7, 9, 7]

    @pytest.mark.parametrize(
        "shape, expected",
        [
            ([-1, 3, -1, -1], [[1, 3, 64, 512], [2, 3, 25, 321]]),
            ([1, 3, 32, 48], [[1, 3, 32, 48]]),
            ([-1, 3, 32, 48], [[1, 3, 32, 48], [2, 3, 32, 48]]),
            ([4, 3, -1, 48], [[4, 3, 64, 48], [4, 3, 25, 48]]),
        ],
    )
    def test_shapes(self, shape, expected):
        assert parity.shapes_for(shape, (64, 1024)) == expected


class TestVerdict:
    def row(self, **changes):
        row = dict(backend="paddle", precision="fp32", shape=[1, 3, 4, 4], max_error=1e-6, mean_error=1e-7)
        return Row(**{**row, "agreement": 1.0, "agreement_exact": 1.0, "latency_ms": 1.0, **changes})

    def test_within_bounds(self):
        assert parity.faults([self.row()], 1e-4, 0.999) == {}
        assert parity.faults([self.row(max_error=9.0, judged=False)], 1e-4, 0.999) == {}
        assert parity.faults([self.row(agreement=None)], 1e-4, 0.999) == {}

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"max_error": 2e-4}, "error 2.00e-04 at 1x3x4x4"),
            ({"max_error": float("nan")}, "error nan"),
            ({"agreement": 0.5}, "50.00% of decisions"),
            ({"fault": "RuntimeError: no"}, "RuntimeError: no"),
        ],
    )
    def test_past_bounds_the_figure_is_named(self, changes, message):
        found = parity.faults([self.row(backend="a"), self.row(**changes)], 1e-4, 0.999)
        assert list(found) == ["paddle"] and message in found["paddle"]
        # a later case counts as the first one does, and the first fault of a backend is the one that is told
        later = [self.row(), self.row(**changes), self.row(fault="another")]
        assert parity.faults(later, 1e-4, 0.999) == found

    def test_report_is_json(self, tmp_path):
        rows = [self.row(), self.row(max_error=float("inf"), latency_ms=None, fault="x")]
        parity.write(tmp_path / "p.json", parity.report(rows, {}, 1e-4, 0.999, "noise"))
        content = json.loads((tmp_path / "p.json").read_text())
        assert content["rows"][1]["max_error"] is None and content["tolerance"] == 1e-4
        assert {"paddle", "numpy"} <= set(content["versions"])
        assert "inf" in parity.table(rows) and len(parity.table(rows).splitlines()) == 3


class TestChoices:
    """Networks that choose tokens by rank: ties are settled as the backend has them, anything else is a difference."""

    scores = np.array([[0.1, 3.0, 2.0, 2.00001, 1.0, 1.99999]], np.float32)
    fixed: list

    def reference(self, x, chosen=None):
        """Answers depend on which token stands where, as with learned content."""
        self.fixed = [] if chosen is None else chosen.tolist()
        chosen = np.array([[1, 3, 2]]) if chosen is None else chosen
        logits = chosen[..., None] * np.array([[[1.0], [2.0], [3.0]]])
        return {"logits": logits, "boxes": chosen + 0.5, "chosen": chosen, "scores": self.scores}

    def errors(self, choice):
        outputs = self.reference(None, np.array([choice]))
        expected, given = parity.settled(self.reference, None, self.reference(None), outputs, 1e-4)
        return parity.relative_errors(expected, given)[0]

    def test_ties_in_any_order_and_at_the_end_of_the_list(self):
        for choice in ([1, 3, 2], [1, 2, 3], [1, 3, 5], [1, 5, 2]):
            assert self.errors(choice) == 0
        assert self.fixed == [[1, 5, 2]]

    @pytest.mark.parametrize("choice", [[3, 1, 2], [1, 3, 4], [1, 3, 3], [1, 2, 9], [-1, 3, 2]])
    def test_what_the_scores_do_not_allow(self, choice):
        assert self.errors(choice) > 0.1


class TestSuppression:
    """Networks that also drop duplicates: a pair at the limit may be judged as the backend does, no other."""

    excess = np.full((1, 3, 3), -1.0)
    excess[0, 1, 0], excess[0, 2, 1], excess[0, 2, 0] = 5e-5, 0.2, -0.4  # 1 just overlaps 0, 2 overlaps 1 clearly

    def reference(self, x, chosen=None, kept=None):
        chosen = np.array([[4, 1, 2]]) if chosen is None else chosen
        kept = np.array([[1.0, 0.0, 1.0]]) if kept is None else kept
        scores = np.array([[0.0, 2.0, 1.0, 0.5, 3.0]])
        outputs = {"logits": np.where(kept[..., None] > 0, 5.0, -20.0), "boxes": chosen + 0.5}
        return {**outputs, "chosen": chosen, "scores": scores, "kept": kept, "excess": self.excess}

    def errors(self, *fixed):
        outputs = self.reference(None, *(np.array([t]) for t in fixed))
        expected, given = parity.settled(self.reference, None, self.reference(None), outputs, 1e-4)
        return parity.relative_errors(expected, given)[0]

    def test_a_pair_at_the_limit(self):
        assert self.errors([4, 1, 2], [1.0, 0.0, 1.0]) == 0
        assert self.errors([4, 1, 2], [1.0, 1.0, 0.0]) == 0  # 1 stays, and then 2 goes

    @pytest.mark.parametrize("kept", [[1.0, 1.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    def test_what_no_greedy_rule_keeps(self, kept):
        assert self.errors([4, 1, 2], kept) > 0.1


def same(case):
    return {"y": case["x"]}


CASES = [{"x": np.ones((1, 3, 4, 4), np.float32)}]


class TestRun:
    def test_a_reference_that_is_not_finite(self):
        graph = Graph("m", "p")
        with pytest.raises(UserError, match="NaN or infinity in eager mode"):
            parity.run(lambda case: {"y": case["x"] * np.nan}, same, graph, graph, CASES, task=Task(), tolerance=1e-4)

    def test_a_backend_that_cannot_load_is_a_row_not_a_crash(self, tmp_path, monkeypatch):
        def broken(*_, **__):
            raise RuntimeError("first line\nSomeError: the reason\n")

        monkeypatch.setattr(parity, "open_session", broken)
        graph = Graph(tmp_path / "m", tmp_path / "p")
        rows = parity.run(same, same, graph, graph, CASES, task=Task(), tolerance=1e-4)
        assert rows[0].backend == "eager" and rows[0].latency_ms is not None
        assert {row.fault for row in rows[1:]} == {"RuntimeError: SomeError: the reason"}
        assert set(parity.faults(rows, 1e-4, 0.999)) == {"paddle", "paddle-onednn"}

    def test_a_row_says_what_went_in(self, monkeypatch):
        monkeypatch.setattr(parity, "open_session", lambda *_, **__: lambda case: {"y": case["x"]})
        graph, half = Graph("m", "p"), np.ones((1, 4, 4), bool)
        half[:, 2:] = False
        cases = [{"valid": np.ones((1, 4, 4), bool), **CASES[0]}, {"valid": half, **CASES[0]}, {"z": half, "x": half}]
        rows = parity.run(same, same, graph, graph, cases, task=Task(), tolerance=1e-4)
        assert [row.padded for row in rows if row.backend == "paddle"] == [False, True, True]
        assert rows[0].shape == [1, 3, 4, 4] and rows[0].inputs == {"valid": [1, 4, 4], "x": [1, 3, 4, 4]}
        assert parity.table(rows).count("1x3x4x4 padded") == 3  # eager, paddle, paddle-onednn
