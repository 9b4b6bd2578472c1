"""Every term against loops in plain NumPy."""

import numpy as np
import paddle
import pytest

from ppvision.errors import UserError
from ppvision.losses.distillation import PointLoss, foreground, kl_of_classes


def predictions(seed, batch=2, points=5, classes=3):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (batch, points, classes)).astype("float32")
    boxes = np.concatenate([rng.uniform(0.3, 0.7, (batch, points, 2)), rng.uniform(0.1, 0.4, (batch, points, 2))], -1)
    return logits, boxes.astype("float32")


def tensors(prediction):
    return tuple(paddle.to_tensor(x) for x in prediction)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def giou_of(a, b):
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    left, right = max(ax - aw / 2, bx - bw / 2), min(ax + aw / 2, bx + bw / 2)
    top, bottom = max(ay - ah / 2, by - bh / 2), min(ay + ah / 2, by + bh / 2)
    shared = max(right - left, 0) * max(bottom - top, 0)
    union = aw * ah + bw * bh - shared
    hull = (max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)) * (
        max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2)
    )
    return shared / union - (hull - union) / hull


def by_hand(student, teacher, reduction, weighted, temperature=10.0):
    (sc, sb), (tc, tb) = student, teacher
    batch, points, classes = sc.shape
    totals = {"cls": 0.0, "l1": 0.0, "giou": 0.0}
    weights = sigmoid(tc).max(-1) if weighted else np.ones((batch, points))
    for b in range(batch):
        for i in range(points):
            p, q = softmax(tc[b, i] / temperature), softmax(sc[b, i] / temperature)
            kl = temperature**2 * sum(p[k] * (np.log(p[k]) - np.log(q[k])) for k in range(classes))
            l1 = np.abs(sb[b, i] - tb[b, i]).sum()
            apart = 1 - giou_of(sb[b, i], tb[b, i])
            w = weights[b, i]
            if reduction == "kd":
                share = w / weights.sum()
                totals["cls"] += w * kl / classes
                totals["l1"] += share * l1 / 4
            else:
                share = w / weights[b].sum() / batch
                totals["cls"] += share * kl
                totals["l1"] += share * l1
            totals["giou"] += share * apart
    return {"cls": 1.0 * totals["cls"], "l1": 5.0 * totals["l1"], "giou": 2.0 * totals["giou"]}


@pytest.mark.parametrize("reduction", ["tp", "kd"])
@pytest.mark.parametrize("weighted", [True, False])
def test_both_reductions_equal_loops(reduction, weighted):
    student, teacher = predictions(0), predictions(1)
    loss = PointLoss(reduction=reduction, foreground_weight=weighted)
    found = loss(tensors(student), tensors(teacher))
    for name, value in by_hand(student, teacher, reduction, weighted).items():
        np.testing.assert_allclose(found[name].item(), value, rtol=2e-4, err_msg=name)


def test_nothing_to_learn_from_oneself():
    student = tensors(predictions(3))
    for form in ("softmax_kl", "bce_kl"):
        terms = PointLoss(form=form)(student, student)
        assert all(abs(v.item()) < 1e-5 for v in terms.values()), terms


def test_weights_are_of_the_teacher_and_without_gradient():
    student, teacher = tensors(predictions(0)), tensors(predictions(1))
    for tensor in (*student, *teacher):
        tensor.stop_gradient = False
    weight = foreground(teacher[0])
    assert weight.stop_gradient and 0 < weight.min().item() and weight.max().item() < 1
    np.testing.assert_allclose(weight.numpy(), sigmoid(predictions(1)[0]).max(-1), rtol=1e-5)
    sum(PointLoss()(student, teacher).values()).backward()
    assert all(t.grad is None for t in teacher) and all(t.grad.abs().sum().item() > 0 for t in student)


def test_the_squared_temperature_keeps_the_size_of_the_gradient():
    sizes = []
    for temperature in (1.0, 10.0):
        student, teacher = tensors(predictions(0)), tensors(predictions(1))
        student[0].stop_gradient = False
        kl_of_classes(teacher[0], student[0], temperature).sum().backward()
        sizes.append(student[0].grad.norm().item())
    assert 0.1 < sizes[1] / sizes[0] < 10


def test_binary_form_is_a_divergence_of_each_class():
    (tc, _), (sc, _) = predictions(1), predictions(0)
    p, q = sigmoid(tc / 2.0), sigmoid(sc / 2.0)
    expected = 4.0 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    found = kl_of_classes(paddle.to_tensor(tc), paddle.to_tensor(sc), 2.0, "bce_kl").numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_points_can_be_left_out():
    student, teacher = tensors(predictions(0)), tensors(predictions(1))
    counted = paddle.ones([2, 5])
    counted[:, 3:] = 0.0
    fewer = PointLoss()(tuple(x[:, :3] for x in student), tuple(x[:, :3] for x in teacher))
    for name, value in PointLoss()(student, teacher, counted).items():
        np.testing.assert_allclose(value.item(), fewer[name].item(), rtol=1e-4)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(UserError, match="temperature"):
        PointLoss(temperature=0.0)
