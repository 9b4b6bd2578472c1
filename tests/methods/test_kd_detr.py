"""Consistency of the points, and what must stay untouched by them."""

import collections
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

import ppvision
from ppvision.errors import UserError
from ppvision.methods.kd_detr import KdDetr, decode_apart
from ppvision.models import zoo
from ppvision.models.queries import QuerySet
from tests.methods.detection_batches import part
from tests.methods.detectors import in_half, network, terms_of, trainer_of

HOSTS = ["dab_detr_debug", "deformable_detr_debug", "dino_debug"]


def method_of(name="dab_detr_debug", teacher=None, **options):
    options = {"general": 7, **options}
    return KdDetr(network(name, 1), network(name, 2) if teacher is None else teacher, **options)


def batch_of(count=2, seed=0):
    """uint8 pictures with one to three objects each."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, count)
    boxes = []
    for _ in range(sizes.sum()):
        low = rng.uniform(2, 30, 2)
        boxes.append([*low, *(low + rng.uniform(6, 30, 2))])
    batch = {
        "image": rng.integers(0, 256, (count, 64, 64, 3)).astype("uint8"),
        "valid": np.ones((count, 64, 64), bool),
        "inner": np.full((count, 2), 64, "int32"),
        "boxes": np.array(boxes, "float32"),
        "classes": rng.integers(0, 3, len(boxes)),
        "crowd": np.zeros(len(boxes), bool),
        "boxes_offsets": np.array([0, *np.cumsum(sizes)], "int64"),
    }
    return {**{k: paddle.to_tensor(v) for k, v in batch.items()}, "name": [f"{i}.png" for i in range(count)]}


def decoded_by(monkeypatch, method):
    """Records the references, content and positions that enter each decoder."""
    seen = {"model": [], "teacher": []}
    for name in seen:
        host = getattr(method, name)
        real = host.decode

        def record(context, queries, name=name, real=real):
            seen[name].append(queries)
            return real(context, queries)

        monkeypatch.setattr(host, "decode", record)
    return seen


def shared(seen):
    """The sets of both sides that hold points: of the student all but the first, which are its own queries."""
    return list(zip(seen["model"][1:], seen["teacher"], strict=True))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("general", [7, 20])  # 20 are as many as the specific ones, and go through in groups
def test_the_same_points_enter_both_decoders(host, general, monkeypatch):
    method = method_of(host, general=general)
    method.train()
    seen = decoded_by(monkeypatch, method)
    drawn = []
    for step in range(3):
        seen["model"].clear()
        seen["teacher"].clear()
        terms_of(method, batch_of(), step)
        pairs = shared(seen)
        assert len(pairs) == (1 if general == 20 else 2)
        for mine, theirs in pairs:
            for field in ("references", "content", "positions"):
                a, b = getattr(mine, field), getattr(theirs, field)
                assert (a is None) == (b is None)
                if a is not None:
                    np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=field)
                    assert a.stop_gradient
        drawn.append(pairs[-1][0].references.numpy()[0, -general:].copy())
    assert (drawn[0] != drawn[1]).any() and (drawn[1] != drawn[2]).any()  # new ones for every update


def test_points_drawn_separately_would_be_noticed(monkeypatch):
    """The check above fails for a copy of the method in which the student gets points of its own."""

    class Apart(KdDetr):
        def for_student(self, queries):
            noise = paddle.to_tensor(self.shared_rng.standard_normal(queries.references.shape).astype("float32"))
            return QuerySet(queries.references + noise, queries.content, queries.positions)

    method = Apart(network("dab_detr_debug", 1), network("dab_detr_debug", 2), general=7)
    method.train()
    seen = decoded_by(monkeypatch, method)
    terms_of(method, batch_of())
    assert any((a.references.numpy() != b.references.numpy()).any() for a, b in shared(seen))


@pytest.mark.parametrize("host", HOSTS)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(host):
    teacher = network(host, 5)
    method = KdDetr(network(host, 1), teacher, general=7)
    method.model.set_state_dict(teacher.state_dict())
    method.eval()
    terms = terms_of(method, batch_of())
    # intermediate layers learn from the final one, so only "same" layers vanish
    assert all(f"{s}/{k}" in terms for s in ("general", "specific") for k in ("cls", "l1", "giou"))
    method.same_layers = True
    same = terms_of(method, batch_of())
    assert all(abs(v.item()) < 1e-3 for k, v in same.items() if k.split("/")[0] in ("general", "specific")), same


@pytest.mark.parametrize("host", HOSTS)
def test_own_answers_do_not_depend_on_the_points(host):
    """Detection terms, bit for bit, with and without points."""
    with_points, without = method_of(host), method_of(host, pairing="none")
    without.model.set_state_dict(with_points.model.state_dict())
    with_points.eval(), without.eval()
    a, b = terms_of(with_points, batch_of()), terms_of(without, batch_of())
    assert set(b) < set(a)
    for key, value in b.items():
        assert value.item() == a[key].item(), key


@pytest.mark.parametrize("host", HOSTS)
def test_teacher_answers_its_own_queries_as_always(host):
    method = method_of(host)
    method.eval()
    image = method.prepare(batch_of())["image"]
    context = method.teacher.encode(image, None)
    own = method.teacher.own_queries(context)
    sets = method.points(context, own)
    predictions = dict(zip(sets, decode_apart(method.teacher, context, list(sets.values())), strict=True))
    plain = method.teacher(image)
    np.testing.assert_allclose(predictions["specific"][-1][0].numpy(), plain["logits"].numpy(), atol=1e-5)
    np.testing.assert_allclose(predictions["specific"][-1][1].numpy(), plain["boxes"].numpy(), atol=1e-6)


def test_sets_of_one_size_are_asked_as_groups_and_answered_as_if_alone():
    host = network("dab_detr_debug")
    host.eval()
    context = host.encode(paddle.randn([2, 3, 64, 64]))
    sets = [QuerySet(paddle.randn([1, 6, 4])) for _ in range(2)]
    together = decode_apart(host, context, sets)
    for alone, queries in zip(together, sets, strict=True):
        for (c, b), (cc, bb) in zip(alone, host.decode(context, queries), strict=True):
            np.testing.assert_allclose(c.numpy(), cc.numpy(), atol=1e-5)
            np.testing.assert_allclose(b.numpy(), bb.numpy(), atol=1e-6)


@pytest.mark.parametrize("host", HOSTS)
def test_teacher_stays_as_it_is_and_out_of_checkpoint_and_export(host):
    method = method_of(host)
    before = {k: v.numpy().copy() for k, v in method.teacher.state_dict().items()}
    trainer = trainer_of(method)
    trainer.update([batch_of()])
    assert trainer.skipped == 0
    for key, value in method.teacher.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key])
    files = trainer.files()
    assert not any("teacher" in key for part in files.values() for key in part)
    assert files["model.pdparams"].keys() == network(host).state_dict().keys()
    assert set(method.deployables()) == {"model"} and method.frozen_sources()["teacher"]["sha256"]


def test_points_are_those_of_the_step_not_of_the_rank():
    """Accumulation over two micro-batches equals one batch, and so do two ranks: each is given the same points."""
    whole = batch_of(4)
    results = []
    for batches in ([whole], [part(whole, 0, 2), part(whole, 2, 4)]):
        method = method_of()
        trainer = trainer_of(method)
        results.append((trainer.update(batches), {k: v.numpy() for k, v in method.model.state_dict().items()}))
    (one, weights), (two, others) = results
    for key, value in one["parts"].items() if "parts" in one else one.items():
        np.testing.assert_allclose(two["parts"][key] if "parts" in two else two[key], value, rtol=2e-4, err_msg=key)
    method = method_of()
    draws = []
    for rank in (0, 1):
        method.begin(3, 11, rank)
        draws.append(method.draw("references", 4))
    np.testing.assert_array_equal(*draws)
    method.begin(4, 11, 0)
    assert (method.draw("references", 4) != draws[0]).any()


@pytest.mark.parametrize("pairing", ["points", "index", "matched", "hungarian"])
def test_mixed_precision_needs_no_line_of_its_own(pairing, monkeypatch):
    """Answers in half precision, as on a GPU, are compared in single precision; the trainer does the rest."""
    method, batch = method_of(pairing=pairing), batch_of()
    full = {k: v.item() for k, v in terms_of(method, batch).items()}
    for net in (method.model, method.teacher):
        decode = net.decode
        monkeypatch.setattr(net, "decode", lambda *given, decode=decode: in_half(decode(*given)))
    terms = terms_of(method, batch)
    assert all(v.dtype == paddle.float32 for v in terms.values())
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(full, rel=5e-2, abs=5e-4)
    trainer = trainer_of(method, amp="O1", amp_dtype="bfloat16")
    assert np.isfinite(trainer.update([batch])["loss"]) and trainer.skipped == 0


@pytest.mark.parametrize("pairing", ["index", "matched", "hungarian"])
def test_comparisons_share_no_points(pairing, monkeypatch):
    method = method_of(pairing=pairing)
    method.train()
    seen = decoded_by(monkeypatch, method)
    terms = terms_of(method, batch_of())
    assert len(seen["model"]) == len(seen["teacher"]) == 1
    assert {k for k in terms if k.startswith("pairs/")} == {"pairs/cls", "pairs/l1", "pairs/giou"}
    sum(terms.values()).backward()
    assert all(p.grad is None for p in method.teacher.parameters())


def test_identical_pairs_have_nothing_to_learn():
    for pairing in ("index", "matched", "hungarian"):
        teacher = network("dab_detr_debug", 5)
        method = KdDetr(network("dab_detr_debug", 1), teacher, pairing=pairing, teacher_layers="same")
        method.model.set_state_dict(teacher.state_dict())
        method.eval()
        terms = terms_of(method, batch_of())
        assert sum(v.item() for k, v in terms.items() if k.startswith("pairs/")) < 1e-3, pairing


def test_general_only_specific_only_and_uniform_boxes():
    only = method_of(specific=False)
    assert not any(k.startswith("specific/") for k in terms_of(only, batch_of()))
    own = method_of(general=0)
    assert not any(k.startswith("general/") for k in terms_of(own, batch_of()))
    uniform = method_of(general=2000, general_dist="uniform_box")
    uniform.begin(0, 0, 0)
    like = uniform.teacher.own_queries(uniform.teacher.encode(paddle.zeros([1, 3, 64, 64])))
    boxes = paddle.nn.functional.sigmoid(uniform.random_points(like).references).numpy()[0]
    assert 0.02 <= boxes[:, 2:].min() < 0.03 and 0.48 < boxes[:, 2:].max() <= 0.5001
    assert boxes[:, :2].min() < 0.01 and boxes[:, :2].max() > 0.99


def test_widths_may_differ_where_content_is_carried():
    teacher = network("dino_debug", 2, dim=32)
    method = KdDetr(network("dino_debug", 1), teacher, general=7)
    trainer = trainer_of(method)
    before = method.project.weight.numpy().copy()
    trainer.update([batch_of()])
    assert trainer.skipped == 0 and (method.project.weight.numpy() != before).any()
    assert not any("project" in k for k in trainer.files()["model.pdparams"])
    assert KdDetr(network("dab_detr_debug", 1), network("dab_detr_debug", 2, dim=32), general=7).project is None


def test_inheritance_and_refusals():
    method = method_of(inherit=("queries",))
    for key, value in method.teacher.queries.state_dict().items():
        np.testing.assert_array_equal(method.model.queries.state_dict()[key].numpy(), value.numpy())
    with pytest.raises(UserError, match="3 classes|classes"):
        KdDetr(network("dab_detr_debug"), ppvision.create_model("dab_detr_debug", num_classes=5))
    with pytest.raises(UserError, match="nothing to imitate"):
        method_of(general=0, specific=False)
    with pytest.raises(UserError, match="as many queries"):
        method_of(pairing="index", teacher=network("dab_detr_debug", num_queries=9))
    with pytest.raises(UserError, match="teacher_layers"):
        deep = method_of(teacher=network("dab_detr_debug", decoder_layers=3), teacher_layers="same")
        terms_of(deep, batch_of())
    with pytest.raises(UserError, match="no DETR host"):
        method_of(teacher=ppvision.create_model("rtformer_debug", num_classes=3))


def test_two_processes_give_the_losses_of_one(tmp_path):
    """Two real processes with two pictures each against one with four."""
    script = Path(__file__).with_name("two_processes_kd.py")
    env = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES" and not k.startswith("PADDLE_")}
    env["PYTHONPATH"] = os.pathsep.join([str(script.parent), str(script.parents[2]), env.get("PYTHONPATH", "")])
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path / "log")]
    for world in (1, 2):
        command = [sys.executable, *(launcher if world == 2 else []), str(script), str(tmp_path / "out")]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        logs = "".join(p.read_text()[-2000:] for p in tmp_path.glob("log/workerlog.*"))
        assert done.returncode == 0, done.stderr[-2000:] + logs
    one, two = (json.loads((tmp_path / f"out.{world}.0.json").read_text()) for world in (1, 2))
    assert any("general/" in key for key in one[0]) and len(one) == len(two) == 3
    for mine, theirs in zip(one, two, strict=True):
        for key, value in mine.items():
            np.testing.assert_allclose(theirs[key], value, rtol=1e-3, err_msg=key)


@pytest.mark.parametrize("host", ["dab_detr_debug", "dino_debug"])
def test_the_export_is_that_of_the_plain_student_to_the_byte(host, tmp_path):
    from ppvision.exporting import export_layer
    from ppvision.exporting.exporter import Spec
    from ppvision.predict.tasks.base import create_task

    files = []
    for name, net in (("distilled", method_of(host).deployables()["model"]), ("plain", network(host, 1))):
        net.eval()
        task, statistics = create_task("detection"), zoo.entry(host).mean_std
        spec = Spec(host, "detection", task, *statistics, example=(64, 64), formats=("paddle",))
        export_layer(net, tmp_path / name, spec)
        # the size of model.json moves with names that end in how many layers this process has made; operations do not
        graph = (tmp_path / name / "model.json").read_text()
        operations = collections.Counter(re.findall(r'\{"#":"([^"]+)"', graph))
        files.append((operations, (tmp_path / name / "model.pdiparams").stat().st_size))
    assert files[0] == files[1] and files[0][0]["1.matmul"] > 5
