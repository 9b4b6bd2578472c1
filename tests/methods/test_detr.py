from __future__ import annotations

import numpy as np
import paddle
import pytest

import ppvision
from ppvision.engine.optimizer import SGD
from ppvision.errors import RunError, UserError
from ppvision.losses.detection import SetLoss
from ppvision.methods.detr import DetrTraining
from tests.methods.detection_batches import batch_of, part
from tests.methods.detectors import network, terms_of, trainer_of, weights_of

HOSTS = ["dab_detr_debug", "deformable_detr_debug", "dino_debug"]


@pytest.mark.parametrize("name", HOSTS)
class TestEveryHost:
    def test_terms(self, name):
        net = network(name)
        terms = terms_of(DetrTraining(net), batch_of())
        proposed = net.own_queries(net.encode(paddle.randn([1, 3, 64, 64]))).proposals is not None
        parts = ("main", "aux", "enc") if proposed else ("main", "aux")
        assert set(terms) == {f"{part}/{term}" for part in parts for term in ("cls", "l1", "giou")}
        assert proposed or not name.startswith("dino")
        assert all(v.ndim == 0 and v.dtype == paddle.float32 and v.item() > 0 for v in terms.values())

    def test_updates_lower_the_loss_and_change_every_parameter(self, name):
        warnings = []
        trainer = trainer_of(DetrTraining(network(name)), warn=warnings.append)
        batch, before = batch_of((2, 1, 3)), weights_of(trainer.method)
        logs = [trainer.update([batch]) for _ in range(6)]
        after = weights_of(trainer.method)
        assert not warnings
        assert logs[-1]["loss"] < logs[0]["loss"]
        learnt = [k for k, p in trainer.method.named_parameters() if not p.stop_gradient]
        unchanged = [k for k in learnt if np.array_equal(before[k], after[k])]
        first = "model.transformer.decoder.layers.0.sa_{}_proj.weight"  # DAB-DETR's content starts as zeros
        assert unchanged == ([first.format(k) for k in ("qcontent", "kcontent", "v")] if name[:3] == "dab" else [])

    def test_accumulation_with_unequal_numbers_of_objects_equals_one_batch(self, name):
        """5, 0, 1 and 2 objects (one of the 5 a crowd), in one batch and in two."""
        batch, states, logs = batch_of((5, 0, 1, 2)), [], []
        for cuts in ((0, 4), (0, 2, 4)):
            trainer = trainer_of(DetrTraining(network(name)), SGD, lr=0.05)
            logs.append(trainer.update([part(batch, a, b) for a, b in zip(cuts, cuts[1:])]))
            states.append(weights_of(trainer.method))
        assert logs[0] == pytest.approx(logs[1], rel=2e-4, abs=1e-5)
        for key, value in states[0].items():
            np.testing.assert_allclose(value, states[1][key], atol=2e-5, err_msg=key)

    def test_a_batch_without_objects(self, name):
        trainer = trainer_of(DetrTraining(network(name)))
        logs = trainer.update([batch_of((0, 0))])
        assert logs["main/l1"] == logs["main/giou"] == 0 and 0 < logs["main/cls"] < 10


def test_crowds_are_left_out():
    method, with_crowd, without = DetrTraining(network()), batch_of((4, 1)), batch_of((4, 1))
    assert with_crowd["crowd"].numpy().tolist() == [False, False, False, True, False]
    keep = paddle.to_tensor([0, 1, 2, 4])
    for key in ("boxes", "classes", "crowd"):
        without[key] = paddle.gather(without[key], keep)
    without["boxes_offsets"] = paddle.to_tensor([0, 3, 4])
    a, b = (terms_of(method, batch) for batch in (with_crowd, without))
    assert {k: v.item() for k, v in a.items()} == {k: v.item() for k, v in b.items()}
    assert method.normaliser("main", method.prepare(with_crowd))["num_boxes"].item() == 4


def test_padding_of_the_batch_does_not_move_the_targets():
    """The same picture alone and at the corner of a larger canvas has the same normalised boxes."""
    batch = batch_of((2,))
    padded = {**batch, "image": paddle.nn.functional.pad(batch["image"].astype("float32"), [0, 0, 0, 16, 0, 32, 0, 0])}
    method = DetrTraining(network())
    alone, corner = (method.prepare(b)["targets"] for b in (batch, padded))
    np.testing.assert_array_equal(alone.boxes.numpy(), corner.boxes.numpy())


def test_the_recipe_names_the_loss():
    method = DetrTraining(network(), SetLoss(class_weight=2.0))
    plain = DetrTraining(network())
    assert terms_of(method, batch_of())["main/cls"].item() == pytest.approx(
        2 * terms_of(plain, batch_of())["main/cls"].item(), rel=1e-5
    )


def test_a_network_that_went_astray_is_an_error_with_the_picture():
    net = network()
    net.class_embed.bias.set_value(paddle.full([3], float("nan")))
    with pytest.raises(RunError, match=r"0\.png, 1\.png, 2\.png: the predictions are not finite"):
        terms_of(DetrTraining(net), batch_of())


def test_refuses_what_is_no_detector():
    with pytest.raises(UserError, match="is no DETR host"):
        DetrTraining(ppvision.create_model("rtformer_debug"))
