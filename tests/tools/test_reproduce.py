"""tools/reproduce.py: verdicts follow from the figures, files say how they came about."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppvision.methods.cae_v2 import block_mask
from ppvision.nn.vit import take_tokens

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def reproduce():
    """The tool as a module; it puts the checkout first on the path, as a script does."""
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("reproduce", ROOT / "tools/reproduce.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


@pytest.fixture(scope="module")
def rules(reproduce):
    import tools.experiments as rules

    return rules


def test_verdicts(rules):
    assert rules.exceeds([0.9, 0.91, 0.92], [0.5, 0.51, 0.52])[0] == "PASS"
    assert rules.exceeds([0.5, 0.51, 0.52], [0.9, 0.91, 0.92])[0] == "FAIL"
    assert rules.exceeds([0.5, 0.9, 0.7], [0.6, 0.65, 0.7])[0] == "UNRESOLVED"
    assert rules.exceeds([0.9], [0.1])[0] == "UNRESOLVED"  # one seed shows nothing
    gap, error = rules.difference([1.0, 3.0], [0.0, 0.0])
    assert (gap, error) == (2.0, pytest.approx(1.0))
    assert rules.worst(["PASS", "UNRESOLVED"]) == "UNRESOLVED" and rules.worst(["FAIL", "PASS"]) == "FAIL"


def test_a_claim_is_written_whole(reproduce, rules, tmp_path, monkeypatch, capsys):
    def measure(settings):
        assert settings.seeds == (4, 5) and settings.quick
        return rules.Outcome("FAIL", "worse", {"accuracy": rules.summary([0.1, 0.2])})

    table = {"thing": rules.Experiment("It is better.", measure, caveats=("small",))}
    monkeypatch.setattr(reproduce, "experiments", lambda system: table)
    status = reproduce.main(["maformer", "thing", "--quick", "--seeds", "4", "5", "--out", str(tmp_path)])
    content = json.loads((tmp_path / "maformer_thing.json").read_text())
    assert status == 0  # a negative result is a result
    assert content["verdict"] == "FAIL" and content["claim"] == "It is better." and content["seeds"] == [4, 5]
    assert content["figures"]["accuracy"]["values"] == [0.1, 0.2]
    assert content["command"] == "python tools/reproduce.py maformer thing --seeds 4 5"
    assert {"seconds", "cpu_seconds"} <= set(content["cost"]) and "paddlepaddle" in content["versions"]
    assert "FAIL: worse" in capsys.readouterr().out


def test_what_breaks_down_writes_nothing(reproduce, rules, tmp_path, monkeypatch):
    def broken(settings):
        raise RuntimeError("no data")

    monkeypatch.setattr(reproduce, "experiments", lambda system: {"thing": rules.Experiment("Claim.", broken)})
    assert reproduce.main(["maformer", "--out", str(tmp_path)]) == 1
    assert not list(tmp_path.iterdir())


def test_names_are_checked(reproduce, capsys):
    assert reproduce.main(["maformerr"]) == 2
    assert reproduce.main(["maformer", "fashon"]) == 2
    assert reproduce.main(["maformer", "digits", "--quick"]) == 2  # would replace real figures
    assert reproduce.main(["--list"]) == 0
    assert "maformer fusion: " in capsys.readouterr().out


def test_repetitions_side_by_side_keep_their_order(reproduce, monkeypatch):
    from tools.experiments._parallel import ONE_THREAD, in_processes

    monkeypatch.delenv(ONE_THREAD[1], raising=False)
    monkeypatch.setenv(ONE_THREAD[0], "3")
    assert in_processes(math.pow, [(2, 3), (3, 2), (2, 0)], 2) == [8.0, 9.0, 1.0]
    assert in_processes(math.pow, [(2, 3)]) == [8.0]
    assert os.environ[ONE_THREAD[0]] == "3" and ONE_THREAD[1] not in os.environ
    assert in_processes(os.getenv, [(ONE_THREAD[0],), (ONE_THREAD[2],)], 2) == ["1", "1"]


class TestMAFormer:
    @pytest.fixture(scope="class")
    def module(self, reproduce):
        return reproduce.importlib.import_module("tools.experiments.maformer")

    def test_arms_have_equal_parameters(self, module):
        from ppvision.models.profile import parameters

        for layout in (module.TWO_STAGES, module.FOUR_STAGES):
            counts = {k: parameters(module.network(arm, layout)) for k, arm in module.matched(layout).items()}
            assert max(counts.values()) / min(counts.values()) < 1.03, counts

    def test_pairs_are_what_the_claim_says(self, module):
        data = module.pairs(40, 0)
        again = module.pairs(40, 0)
        assert all(np.array_equal(data[k], again[k]) for k in data)
        assert set(data["label"]) == {0, 1, 2, 3}
        for tokens, label in zip(data["token_label"], data["label"]):
            shapes = {int(v) for v in tokens.ravel() if v}
            assert len(shapes) == (1 if label >= 2 else 2)

    def test_fusion_runs(self, module, rules, monkeypatch):
        monkeypatch.setattr(
            module, "ARMS", {k: module.ARMS[k] for k in ("window only", "global only", "llf", "concat", "maf")}
        )
        outcome = module.fusion(rules.Settings((0,), quick=True))
        assert outcome.verdict == "UNRESOLVED" and set(outcome.metrics) == set(module.ARMS)

    def test_tokens_run(self, module, rules):
        assert set(module.tokens(rules.Settings((0,), quick=True)).metrics) == {"beta 0", "beta 0.5"}


class TestCaeV2:
    @pytest.fixture(scope="class")
    def module(self, reproduce):
        return reproduce.importlib.import_module("tools.experiments.cae_v2")

    @pytest.mark.parametrize(("gains", "verdict"), [((0.06, 0.051), "PASS"), ((0.2, 0.049), "FAIL")])
    def test_every_seed_must_gain(self, module, rules, monkeypatch, gains, verdict):
        def probed(arm, seed, settings, folder):
            return (0.7 + gains[seed - 1], 1.5) if arm == "pre-trained" else (0.7, None)

        monkeypatch.setattr(module, "_probed_recipe", probed)
        outcome = module.fashion(rules.Settings((1, 2)))
        assert outcome.verdict == verdict and outcome.metrics["random"]["values"] == [0.7, 0.7]
        assert outcome.metrics["gain"]["values"] == pytest.approx(gains)

    def test_both_arms_are_probed_by_the_same_recipe(self, module, rules, monkeypatch, tmp_path):
        runs = {}

        def trained(recipe, folder, overrides):
            runs[folder.parent.name, recipe] = [o for o in overrides if not o.startswith("model.weights")]
            return [{"kind": "train", "loss": 1.0}, {"kind": "eval", "metrics": {"top1": 0.5}}]

        monkeypatch.setattr(module, "_trained", trained)
        for arm in ("pre-trained", "random"):
            module._probed_recipe(arm, 1, rules.Settings((1,)), tmp_path / arm)
        probe = "cae_v2_fashion_linear_mini"
        assert runs["pre-trained", probe] == runs["random", probe] and len(runs) == 3

    def test_ridge_finds_what_is_linear(self, module):
        rng = np.random.default_rng(0)
        x, label = rng.standard_normal((400, 6)), rng.integers(0, 3, 400)
        x[np.arange(400), label] += 6
        assert module.ridge(x[:300], label[:300], x[300:], label[300:], 3) > 0.97
        assert module.ridge(x[:300], label[:300], x[300:], rng.integers(0, 3, 100), 3) < 0.6

    def test_the_teacher_is_trained_once_and_too_weak_a_one_decides_nothing(self, module, rules, monkeypatch, tmp_path):
        settings = rules.Settings((0,), quick=True, data=tmp_path)
        weights = module.kept_teacher(settings)
        monkeypatch.setattr(module, "fit", lambda *_, **__: pytest.fail("trained again"))
        assert module.kept_teacher(settings) == weights and weights.parent == tmp_path / "cae_teacher"
        rows = {"R": 0.2, "P": 0.3, "M": 0.4, "V": 0.45, "VM": 0.46}

        def found(teacher):
            def students(tasks, _):
                return teacher, [{"cls": rows[arm], "mean": 0.1, "cosine": 0.9} for _, arm, *_ in tasks]

            monkeypatch.setattr(module, "students", students)
            return module.positions(settings)

        assert found(0.59).verdict == "UNRESOLVED" and found(0.61).verdict == "PASS"
        rows["V"] = 0.39
        assert found(0.61).verdict == "FAIL"

    def test_agreement_with_the_teacher(self, module):
        class Echo:  # says of each patch what the teacher says, but for one
            min_block, draw = 3, staticmethod(block_mask)
            eval = head = head_norm = staticmethod(lambda x=None: x)

            def encode(self, image, visible):
                return None, take_tokens(target, visible)

        rng = np.random.default_rng(0)
        features = rng.standard_normal((4, 2, 37, 5)).astype(np.float32)
        predictions = features[:, 0, 1:].copy()
        predictions[:, 7] *= -1
        target = paddle.to_tensor(predictions)
        images = rng.integers(0, 256, (4, 24, 24, 3)).astype(np.uint8)
        found = module.agreement(Echo(), {"image": images, "features": features}, 9)
        assert found["cosine, whole image"] == pytest.approx(34 / 36, abs=1e-4)
        assert 25 / 27 - 1e-4 <= found["cosine, masked image"] <= 1

    def test_shapes_are_the_same_again(self, module):
        one, two = module.shapes24(20, 3), module.shapes24(20, 3)
        assert all(np.array_equal(one[k], two[k]) for k in one) and one["image"].shape == (20, 24, 24, 3)
        assert one["label"].max() < 24 and (one["words"].sum(1) >= 1).all()
