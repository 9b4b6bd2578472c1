from __future__ import annotations

from dataclasses import replace

import numpy as np
import paddle
import pytest

import ppvision
from ppvision.engine.optimizer import SGD
from ppvision.errors import ArgumentError, UserError
from ppvision.losses.detection import SetLoss
from ppvision.methods.detr import DetrTraining
from ppvision.methods.group_detr import GroupDetr, split
from ppvision.models import zoo
from ppvision.models.queries import QuerySet
from tests.methods.detection_batches import batch_of, part
from tests.methods.detectors import network, prepared, trainer_of, weights_of

HOSTS = ["dab_detr_debug", "deformable_detr_debug", "dino_debug"]
BOXES = ["dab_detr_debug", "dino_debug"]  # hosts whose queries are boxes, so that they can be noised


@pytest.mark.parametrize("name", HOSTS)
class TestEveryHost:
    def test_one_group_equals_plain_training_bit_for_bit(self, name):
        states, logs = [], []
        for method in (DetrTraining(network(name)), GroupDetr(network(name), groups=1)):
            trainer = trainer_of(method)
            logs.append([trainer.update([batch_of((2, 0, 3), seed)]) for seed in range(3)])
            states.append(weights_of(method))
        assert logs[0] == logs[1] and states[0].keys() == states[1].keys()
        for key, value in states[0].items():
            np.testing.assert_array_equal(value, states[1][key], err_msg=key)

    def test_the_loss_is_the_mean_over_groups_alone(self, name):
        method = GroupDetr(network(name), groups=3)
        batch = prepared(method, batch_of())
        together = method.losses("main", batch)
        context = method.model.encode(batch["image"], batch["valid"])
        alone = [method.compute_loss([q], method.model.decode(context, q), batch) for q in method.questions(context)]
        for key, value in together.items():
            parts = [terms[key].item() for terms in alone]
            assert value.item() == pytest.approx(np.mean(parts), rel=1e-4)
        assert len({round(terms["main/l1"].item(), 6) for terms in alone}) == 3

    def test_the_first_group_is_what_is_deployed(self, name):
        method = GroupDetr(network(name), groups=3)
        method.eval()
        batch = prepared(method, batch_of())
        method.eval()
        with paddle.no_grad():
            context = method.model.encode(batch["image"], batch["valid"])
            predictions = method.model.decode(context, QuerySet.stack(method.questions(context), 3))
            own = method.deployables()["model"](batch["image"], batch["valid"])
        count = own["logits"].shape[1]
        for key, value in zip(("logits", "boxes"), predictions[-1], strict=True):
            assert value.shape[1] == 3 * count
            np.testing.assert_allclose(own[key].numpy(), value[:, :count].numpy(), atol=1e-5)

    def test_what_is_deployed_has_one_group(self, name):
        plain, method = network(name), GroupDetr(network(name), groups=4)
        deployed = method.deployables()["model"].state_dict()
        assert {k: v.shape for k, v in deployed.items()} == {k: v.shape for k, v in plain.state_dict().items()}
        extra = {k for k in method.trained_state() if not k.startswith("model.")}
        assert extra and all(k.startswith(("groups.0.", "groups.1.", "groups.2.")) for k in extra)

    def test_every_group_is_trained(self, name):
        warnings = []
        trainer = trainer_of(GroupDetr(network(name), groups=3), warn=warnings.append)
        before = weights_of(trainer.method)
        batch = batch_of((2, 1, 3))
        logs = [trainer.update([batch]) for _ in range(5)]
        after = weights_of(trainer.method)
        assert not warnings and logs[-1]["loss"] < logs[0]["loss"]
        groups = [k for k, p in trainer.method.named_parameters() if k.startswith("groups.") and not p.stop_gradient]
        assert groups and not [k for k in groups if np.array_equal(before[k], after[k])]


class TestDenoising:
    @pytest.mark.parametrize("name", BOXES)
    @pytest.mark.parametrize("groups", [1, 3])
    def test_noised_objects_change_nothing_for_the_others(self, name, groups):
        """Matching queries are blind to the noised ones."""
        paddle.seed(3)
        net = network(name)
        plain = GroupDetr(net, groups=groups)
        noising = GroupDetr(net, groups=groups, denoising=8)
        noising.groups = plain.groups
        batch = batch_of()
        expected = plain.losses("main", prepared(plain, batch))
        terms = noising.losses("main", prepared(noising, batch))
        for key, value in expected.items():
            assert terms[key].item() == pytest.approx(value.item(), rel=1e-4)
        extra = terms.keys() - expected.keys()
        assert extra == {f"{a}/{b}" for a in ("dn", "dn_aux") for b in ("cls", "l1", "giou")}

    @pytest.mark.parametrize("name", BOXES)
    def test_tables_and_groups_are_trained(self, name):
        warnings = []
        trainer = trainer_of(GroupDetr(network(name), groups=2, denoising=10), warn=warnings.append)
        before, batch = weights_of(trainer.method), batch_of((2, 1, 3))
        logs = [trainer.update([batch]) for _ in range(6)]
        assert not warnings and logs[-1]["loss"] < logs[0]["loss"]
        after = weights_of(trainer.method)
        tables = [k for k in after if k.startswith("denoising.")]
        assert tables == ["denoising.0.weight", "denoising.1.weight"] and after[tables[0]].shape == (3, 48)
        assert not [k for k in tables if np.array_equal(before[k], after[k])]

    def test_every_group_and_step_draws_anew(self):
        method = GroupDetr(network(), groups=2, denoising=10)
        first, again, later = (prepared(method, batch_of(), step)["noised"] for step in (0, 0, 1))
        np.testing.assert_array_equal(first[0].references.numpy(), again[0].references.numpy())
        assert not np.array_equal(first[0].references.numpy(), first[1].references.numpy())
        assert not np.array_equal(first[0].references.numpy(), later[0].references.numpy())

    def test_nothing_to_noise(self):
        """A batch without objects keeps the tables in the graph, with a gradient of zero."""
        method = GroupDetr(network(), groups=2, denoising=10)
        terms = method.losses("main", prepared(method, batch_of((0, 0))))
        sum(terms.values()).backward()
        assert terms["dn/cls"].item() == terms["dn/l1"].item() == 0
        assert all(t.weight.grad is not None and not t.weight.grad.any() for t in method.denoising)

    def test_micro_batches_weigh_by_their_noised_objects(self):
        """The divisor is the mean over micro-batches, whatever each could fit into `denoising`."""
        method = GroupDetr(network(), groups=1, denoising=12)
        batch = batch_of((4, 0, 1, 2))  # one of the four is a crowd
        halves = [method.prepare(part(batch, a, b)) for a, b in ((0, 2), (2, 4))]
        counts = [method.normaliser("main", half) for half in halves]
        assert [c["num_boxes"].item() for c in counts] == [3, 3]
        assert [c["num_noised"].item() for c in counts] == [3 * (12 // 3), 3 * (12 // 2)]

    def test_hosts_whose_queries_are_no_boxes(self):
        net = network("deformable_detr_debug", **one_stage())
        method = GroupDetr(net, groups=2, denoising=10)
        with pytest.raises(UserError, match=r"method\.denoising: the queries of DeformableDetr are no boxes"):
            method.losses("main", prepared(method, batch_of()))


def one_stage() -> dict:
    """What makes Deformable DETR learn its queries instead of proposing them."""
    return {"two_stage": False} if "two_stage" in zoo.signature("deformable_detr_debug").parameters else {}


def test_joint_attention_lets_the_groups_see_each_other():
    method, joint = (GroupDetr(network(), groups=3, joint_attention=flag) for flag in (False, True))
    joint.groups = method.groups
    joint.model = method.model
    with paddle.no_grad():
        for p in method.model.parameters():
            p.set_value(p + 0.1 * paddle.randn(p.shape))
    a, b = (m.losses("main", prepared(m, batch_of())) for m in (method, joint))
    assert a.keys() == b.keys() and a["main/cls"].item() != b["main/cls"].item()


def test_split_undoes_what_was_joined():
    x = np.arange(2 * 3 * 5 * 4).reshape(2, 3, 5, 4)
    logits = paddle.to_tensor(x.reshape(2, 15, 4))
    (first, _), (rest, _) = split((logits, logits), 3, 2)
    np.testing.assert_array_equal(first.numpy(), x[:, :, :2].reshape(2, 6, 4))
    np.testing.assert_array_equal(rest.numpy(), x[:, :, 2:].reshape(2, 9, 4))


def test_accumulation_equals_one_batch():
    batch, states = batch_of((4, 0, 1, 2)), []
    for cuts in ((0, 4), (0, 2, 4)):
        trainer = trainer_of(GroupDetr(network(), groups=3), SGD, lr=0.05)
        trainer.update([part(batch, a, b) for a, b in zip(cuts, cuts[1:])])
        states.append(weights_of(trainer.method))
    for key, value in states[0].items():
        np.testing.assert_allclose(value, states[1][key], atol=2e-5, err_msg=key)


def test_a_resumed_run_is_the_same_bit_for_bit():
    def fresh():
        return trainer_of(GroupDetr(network(), groups=3, denoising=8), ema=0.9, seed=5)

    whole = fresh()
    for step in range(4):
        whole.update([batch_of((2, 1), step)])
    first, second = fresh(), fresh()
    for step in range(2):
        first.update([batch_of((2, 1), step)])
    files = {
        name: {k: np.array(v.numpy() if isinstance(v, paddle.Tensor) else v) for k, v in content.items()}
        for name, content in first.files().items()
    }
    second.load(first.state(), files.__getitem__, "checkpoint")
    for step in range(2, 4):
        second.update([batch_of((2, 1), step)])
    resumed = second.files()
    for name, content in whole.files().items():
        assert content.keys() == resumed[name].keys()
        for key, value in content.items():
            np.testing.assert_array_equal(np.array(value), np.array(resumed[name][key]), err_msg=f"{name} {key}")


def test_groups_of_a_foreign_file_are_taken_over():
    method = GroupDetr(network(), groups=3, denoising=8)
    anchors, table = np.ones((20, 4), "float32"), np.full((3, 48), 2.0, "float32")
    given = {
        "groups.1.refpoint_embed.weight": anchors,
        "denoising.2.weight": table,
        "groups.9.refpoint_embed.weight": anchors,
    }
    assert method.load_training_only(given) == ["groups.1.refpoint_embed.weight", "denoising.2.weight"]
    np.testing.assert_array_equal(method.groups[1].refpoint_embed.weight.numpy(), anchors)


def test_several_queries_for_each_object():
    method = GroupDetr(network(), groups=1, loss=SetLoss(per_object=4))
    terms = method.losses("main", prepared(method, batch_of()))
    assert all(np.isfinite(v.item()) for v in terms.values())


@pytest.mark.parametrize(
    "wrong", [{"groups": 0}, {"denoising": -1}, {"label_noise": 2.0}, {"joint_attention": True, "denoising": 10}]
)
def test_refuses_arguments(wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        GroupDetr(network(), **wrong)


def test_queries_without_content_get_zeros():
    """Denoising gives DAB-DETR's queries a content, which must not change them."""
    net = network()
    net.eval()
    context = net.encode(paddle.randn([2, 3, 64, 64]))
    own = net.own_queries(context)
    zeros = replace(own, content=paddle.zeros([1, 20, 48]))
    for a, b in zip(net.decode(context, own)[-1], net.decode(context, zeros)[-1], strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_the_memory_plan_sees_all_groups():
    """More groups, and noised objects, take more activations; the network alone is the least."""
    from ppvision.engine import memory

    elements = []
    for groups, denoising in ((1, 0), (4, 0), (4, 20)):
        paddle.seed(0)
        method = GroupDetr(ppvision.create_model("dino_debug", num_classes=3), groups=groups, denoising=denoising)
        elements.append(memory.activations(method.training_graph(), (1, 3, 64, 64)))
        plan = memory.plan(method, size=(64, 64), batch_size=2)
        assert plan.activations == 2 * 4 * elements[-1]
    assert memory.activations(method.model, (1, 3, 64, 64)) <= elements[0] < elements[1] < elements[2]
