"""What the KD-DETR experiment decides for a convolutional student, and that its arms differ in the teacher alone."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppvision.data.samples.synthetic.coco import write_shapes
from ppvision.methods.dense_detection import DenseDetection
from ppvision.methods.kd_dense import KdDense
from tools.experiments import FAIL, PASS, UNRESOLVED, Settings
from tools.experiments import kd_detr as experiment


def runs(values):
    return [{"AP": [v / 2, v], "seconds": [1.0, 2.0], "shared": [0.5]} for v in values]


@pytest.mark.parametrize(
    ("alone", "distilled", "teacher", "verdict"),
    [
        (0.10, 0.13, 0.20, PASS),
        (0.10, 0.105, 0.20, UNRESOLVED),  # less than one AP
        (0.10, 0.08, 0.20, FAIL),
        (0.10, 0.13, 0.14, UNRESOLVED),  # the teacher knows too little
    ],
)
def test_verdicts(monkeypatch, alone, distilled, teacher, verdict):
    spread = np.array([-0.001, 0.0, 0.001])
    arms = {"R0": runs(alone + spread), "R1": runs(distilled + spread), "R2": runs(alone + spread)}
    known = {"teacher": {"AP": [0.1, teacher], "seconds": [1.0]}, **arms}
    monkeypatch.setattr(experiment, "trained", lambda names, settings: {k: known[k] for k in ("teacher", *names)})
    monkeypatch.setattr(experiment, "step_time", lambda settings, arms: {"ratio": 2.0})
    outcome = experiment.heterogeneous(Settings((0, 1, 2)))
    assert outcome.verdict == verdict
    assert outcome.metrics["R1"]["AP"]["mean"] == pytest.approx(100 * distilled)


def test_arms_differ_in_the_teacher_alone():
    nets = []
    for arm, kind in (("R0", DenseDetection), ("R1", KdDense)):
        paddle.seed(3)
        taught = experiment.teacher()
        method = experiment.method_of(arm, taught)
        assert type(method) is kind and (arm == "R0" or method.teacher is taught)
        nets.append({k: v.numpy() for k, v in method.model.state_dict().items()})
    assert nets[0].keys() == nets[1].keys()
    for key, value in nets[0].items():
        np.testing.assert_array_equal(value, nets[1][key], err_msg=key)


def test_likeness_of_a_student_and_its_teacher(tmp_path):
    """Random networks answer otherwise; a student told to answer as the teacher does has 1."""
    data = write_shapes(tmp_path / "shapes", 2, 4, seed=0)
    taught = experiment.teacher()
    method = experiment.method_of("R1", taught)
    assert 0 <= experiment.consistency(method, taught, data)["shared"] < 0.9
    asked, decode = [], taught.decode

    def zero(context, queries):
        """The boxes asked about, unmoved: what a student without offsets says."""
        asked.append(queries)
        logits, _ = decode(context, queries)[-1]
        return [(logits, paddle.nn.functional.sigmoid(queries.references))]

    taught.decode = zero
    for name in ("weight", "bias"):
        parameter = getattr(method.model.head.regression_head.bbox_reg, name)
        parameter.set_value(paddle.zeros_like(parameter))
    # not 1: of anchors beyond the picture the teacher is asked about the part inside
    assert experiment.consistency(method, taught, data)["shared"] > 0.9
    assert asked[0].references.shape[1] == 100
