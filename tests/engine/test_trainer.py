"""The update loop: phases, freezing, accumulation, guards, exact continuation."""

import contextlib
from dataclasses import replace

import numpy as np
import paddle
import pytest
from toys import Segmenter, ToyGan, ToySupervised, batch_of, build_toy, part, trainer_of, weights_of

from ppvision.errors import RunError, UserError

KINDS = ["supervised", "distillation", "gan"]


@pytest.mark.parametrize("kind", KINDS)
def test_losses_fall_and_stay_finite(kind):
    trainer, batch = build_toy(kind), batch_of(0)
    first = trainer.update([batch])
    for _ in range(30):
        last = trainer.update([batch])
    assert all(np.isfinite(v) for v in last.values())
    if kind != "gan":
        assert last["loss"] < first["loss"] - 0.01


def test_unequal_accumulation_equals_the_big_batch():
    """Ignored pixels spread unevenly: the mean over the big batch is not the mean of the means."""
    batch = batch_of(1, ignored=[0.0, 0.0, 0.9, 0.95])

    def run(split):
        paddle.seed(0)
        method = ToySupervised(Segmenter())
        for layer in method.sublayers():
            if isinstance(layer, paddle.nn.BatchNorm2D):
                layer._momentum, layer._use_global_stats = 1.0, True
        trainer = trainer_of(method, "sgd", lr=0.5)
        logs = [trainer.update([part(batch, i, i + split) for i in range(0, 4, split)]) for _ in range(5)]
        return weights_of(trainer), logs

    whole, logs = run(4)
    halves, logs_halves = run(2)
    singles, _ = run(1)
    for key, value in whole.items():
        np.testing.assert_allclose(halves[key], value, atol=2e-6)
        np.testing.assert_allclose(singles[key], value, atol=2e-6)
    np.testing.assert_allclose(logs[0]["loss"], logs_halves[0]["loss"], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_continuation_is_bitwise(kind, optimizer, tmp_path):
    def batches(step):
        return [batch_of(10 * step), batch_of(10 * step + 1)]

    straight = build_toy(kind, optimizer=optimizer, ema=0.9, clip_norm=1.0)
    logs = [straight.update(batches(i)) for i in range(8)]
    half = build_toy(kind, optimizer=optimizer, ema=0.9, clip_norm=1.0)
    for i in range(4):
        half.update(batches(i))
    state = half.state()
    files = {name: {k: np.array(v) for k, v in arrays.items()} for name, arrays in half.files().items()}
    paddle.nn.Linear(2, 2)  # shifts the counters by which Paddle names parameters and accumulators
    resumed = build_toy(kind, seed=123, optimizer=optimizer, ema=0.9, clip_norm=1.0)
    if kind == "distillation":  # a frozen teacher is not in the checkpoint; the recipe brings it
        resumed.method.teacher.set_state_dict(half.method.teacher.state_dict())
    resumed.load(state, lambda name: files[name], "here")
    assert [resumed.update(batches(i)) for i in range(4, 8)] == logs[4:]
    for key, value in weights_of(straight).items():
        np.testing.assert_array_equal(weights_of(resumed)[key], value, err_msg=key)
    for key, value in straight.ema.state().items():
        np.testing.assert_array_equal(resumed.ema.state()[key], value, err_msg=key)


def test_a_frozen_teacher_stays_in_eval_unchanged_and_outside_the_checkpoint():
    trainer = build_toy("distillation")
    before = {k: np.array(v.numpy()) for k, v in trainer.method.teacher.state_dict().items()}
    for i in range(3):
        trainer.update([batch_of(i)])
    with trainer.evaluating():
        assert not trainer.method.model.training
    assert trainer.method.model.training and not trainer.method.teacher.training
    for key, value in trainer.method.teacher.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key])
    files = trainer.files()
    assert not [k for arrays in files.values() for k in arrays if "teacher" in k]
    assert set(files["model.pdparams"]) == set(trainer.method.model.state_dict())
    assert "adapter.weight" in files["method.pdparams"]
    assert len(trainer.method.frozen_sources()["teacher"]["sha256"]) == 64


def test_phases_train_only_their_group_and_lazy_phases_are_weighted(monkeypatch):
    trainer = build_toy("gan", optimizer="sgd")
    seen = []
    original = ToyGan.losses

    def losses(self, phase, batch):
        trainable = {k.split(".")[0] for k, p in self.named_parameters() if not p.stop_gradient}
        seen.append((self.step, phase, tuple(sorted(trainable))))
        return original(self, phase, batch)

    monkeypatch.setattr(ToyGan, "losses", losses)
    before = weights_of(trainer)
    for i in range(4):
        trainer.update([batch_of(i)])
    assert [(s, p) for s, p, _ in seen] == [
        (0, "d"),
        (0, "r1"),
        (0, "g"),
        (1, "d"),
        (1, "g"),
        (2, "d"),
        (2, "g"),
        (3, "d"),
        (3, "r1"),
        (3, "g"),
    ]
    assert all(t == (("generator",) if p == "g" else ("discriminator",)) for _, p, t in seen)
    assert trainer.method.updates == [1, 2, 3, 4]
    after = weights_of(trainer)
    assert not np.array_equal(after["generator.0.weight"], before["generator.0.weight"])


def test_a_lazy_phase_multiplies_its_loss():
    def step_of(every):
        class Lazy(ToySupervised):
            phases = (type(ToySupervised.phases[0])("main", "model", every=every),)

        paddle.seed(0)
        trainer = trainer_of(Lazy(Segmenter()), "sgd", lr=0.1)
        before = weights_of(trainer)
        trainer.update([batch_of(0)])
        return (
            weights_of(trainer)["head.bias" if "head.bias" in before else "model.head.bias"] - before["model.head.bias"]
        )

    np.testing.assert_allclose(step_of(3), 3 * step_of(1), rtol=1e-4, atol=1e-8)


def test_the_loss_is_the_same_sum_at_every_step():
    """A lazy phase is due at steps 0 and 3; its term is logged and no part of `loss`."""
    trainer = build_toy("gan")
    logs = [trainer.update([batch_of(i)]) for i in range(4)]
    assert ["r1/r1" in log for log in logs] == [True, False, False, True]
    for log in logs:
        assert log["loss"] == log["d/d"] + log["g/g"] and log.get("r1/r1", 1.0) > 0.0


def test_denominators_reach_every_phase_and_are_the_mean_of_the_micro_batches():
    seen = []

    class Counting(ToyGan):
        def normaliser(self, phase, batch):
            return {"images": paddle.full([], len(batch["name"]))} if phase == "g" else {}

        def losses(self, phase, batch):
            seen.append((phase, {k: v.item() for k, v in batch["normaliser"].items()}))
            return super().losses(phase, batch)

    trainer_of(Counting()).update([batch_of(0, size=4), batch_of(1, size=2)])
    assert seen == [("d", {})] * 2 + [("r1", {})] * 2 + [("g", {"images": 3.0})] * 2


class Coder(ToyGan):
    """Deploys a frozen encoder beside its generator."""

    frozen = ("encoder",)

    def __init__(self):
        super().__init__()
        self.encoder = paddle.nn.Conv2D(3, 2, 1)

    def deployables(self):
        return {"encoder": self.encoder, "generator": self.generator}


def test_the_average_follows_the_deployables_that_are_trained():
    paddle.seed(0)
    trainer = trainer_of(Coder(), ema=0.5)
    assert list(trainer.method.averaged()) == ["generator"]
    for i in range(3):
        trainer.update([batch_of(i)])
    files, raw = trainer.files(), weights_of(trainer)
    assert {k.split(".")[0] for k in files["ema.pdparams"]} == {"generator"}
    assert {k.split(".")[0] for k in files["model.pdparams"]} == {"encoder", "generator"}
    for key, value in files["model.pdparams"].items():
        if key.startswith("encoder"):
            np.testing.assert_array_equal(value.numpy(), raw[key])
    assert np.abs(files["model.pdparams"]["generator.0.weight"].numpy() - raw["generator.0.weight"]).max() > 1e-4


def test_a_partly_frozen_deployable_is_averaged():
    method = ToySupervised(Segmenter())
    method.model.stem.weight.stop_gradient = True
    assert list(method.averaged()) == ["model"]
    for parameter in method.model.parameters():
        parameter.stop_gradient = True
    assert method.averaged() == {}


def everything(trainer):
    return weights_of(trainer) | {f"average of {k}": np.array(v) for k, v in trainer.ema.state().items()}


@pytest.mark.parametrize("place", ["image", "loss", "gradient"])
def test_a_fault_leaves_weights_statistics_and_average_as_before(place, monkeypatch):
    warnings = []
    trainer = build_toy("supervised", ema=0.9, warn=warnings.append)
    for i in range(2):
        trainer.update([batch_of(i)])
    before = everything(trainer)
    bad = batch_of(9)
    original = ToySupervised.losses
    if place == "image":
        monkeypatch.setattr(
            ToySupervised, "prepare", lambda self, b: {**b, "image": paddle.full([4, 3, 6, 7], float("nan"))}
        )
    elif place == "loss":
        monkeypatch.setattr(
            ToySupervised, "losses", lambda self, p, b: {"ce": original(self, p, b)["ce"] * float("inf")}
        )
    else:  # finite loss, infinite gradient: sqrt at zero
        monkeypatch.setattr(
            ToySupervised,
            "losses",
            lambda self, p, b: {"ce": original(self, p, b)["ce"] + (self.model.head.bias * 0).sum().sqrt()},
        )
    assert trainer.update([bad]) == {}
    monkeypatch.undo()
    after = everything(trainer)
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value, err_msg=key)
    assert (trainer.step, trainer.skipped, trainer.bad_in_a_row) == (3, 1, 1)
    assert "main" in warnings[-1] and "9-0.png" in warnings[-1] and "skipped" in warnings[-1]
    assert trainer.update([batch_of(3)]) and trainer.bad_in_a_row == 0


def test_too_many_faults_in_a_row_stop_the_run(monkeypatch):
    trainer = build_toy("supervised", max_bad_steps=3, warn=lambda line: None)
    monkeypatch.setattr(
        ToySupervised, "losses", lambda self, p, b: {"ce": self.model(b["image"]).mean() * float("nan")}
    )
    trainer.update([batch_of(0)])
    trainer.update([batch_of(1)])
    with pytest.raises(
        RunError, match=r"step 3, phase 'main': loss is not finite \(ce nan; lr model .*3 updates in a row"
    ):
        trainer.update([batch_of(2)])


@pytest.mark.parametrize(("amp", "dtype"), [("O0", "float16"), ("O1", "float16"), ("O2", "bfloat16")])
def test_losses_are_computed_under_the_precision_asked_for(monkeypatch, amp, dtype):
    """On a CPU `auto_cast` does nothing (Paddle 3.3): what it is asked to do is all that can be seen here."""
    asked, inside = [], []

    @contextlib.contextmanager
    def auto_cast(**options):
        asked.append(options)
        inside.append(True)
        yield
        inside.pop()

    trainer = build_toy("supervised", amp=amp, amp_dtype=dtype)
    original = ToySupervised.losses
    monkeypatch.setattr(paddle.amp, "auto_cast", auto_cast)
    monkeypatch.setattr(ToySupervised, "losses", lambda self, p, b: original(self, p, b) if inside else None)
    trainer.update([batch_of(0)])
    assert asked[0] == {"enable": amp != "O0", "level": "O2" if amp == "O2" else "O1", "dtype": dtype}


def test_an_overflow_lowers_the_scale_and_is_no_fault(monkeypatch):
    trainer = build_toy("supervised", amp="O1", amp_dtype="float16", loss_scale=2.0**127, warn=lambda line: None)
    original = ToySupervised.losses
    monkeypatch.setattr(ToySupervised, "losses", lambda self, p, b: {"ce": original(self, p, b)["ce"] * 1e3})
    before = weights_of(trainer)
    trainer.update([batch_of(0)])
    assert trainer.scaler.scale == 2.0**126 and trainer.skipped == 0
    np.testing.assert_array_equal(weights_of(trainer)["model.head.weight"], before["model.head.weight"])


@pytest.mark.parametrize("clip_norm", [0.5, 20.0])  # below the norm, and between it and what the scale makes of it
def test_the_scale_does_not_change_the_step(clip_norm):
    def after(scale):
        trainer = build_toy(
            "supervised", optimizer="sgd", amp="O1", amp_dtype="float16", loss_scale=scale, clip_norm=clip_norm
        )
        logs = trainer.update([batch_of(0)])
        return weights_of(trainer)["model.head.weight"], logs["grad_norm"]

    (weights, norm), (scaled, scaled_norm) = after(1.0), after(1024.0)
    np.testing.assert_allclose(scaled, weights, atol=1e-6)
    np.testing.assert_allclose(scaled_norm, norm, rtol=1e-4)
    assert 0.5 < norm < 20.0


def test_clipping_bounds_the_step():
    def moved(clip):
        trainer = build_toy("supervised", optimizer="sgd", lr=1.0, clip_norm=clip)
        before = weights_of(trainer)
        norm = trainer.update([batch_of(0)])["grad_norm"]
        after = weights_of(trainer)
        trained = trainer.groups["model"].parameters
        return np.sqrt(sum(((after[k] - before[k]) ** 2).sum() for k in trained)), norm

    free, norm = moved(None)
    np.testing.assert_allclose(free, norm, rtol=1e-4)
    clipped, same = moved(norm / 4)
    np.testing.assert_allclose((clipped, same), (norm / 4, norm), rtol=1e-4)


def test_recomputation_gives_the_same_update():
    def run(recompute):
        paddle.seed(0)
        trainer = trainer_of(ToySupervised(Segmenter()), "sgd", lr=0.1, recompute=recompute)
        for i in range(3):
            trainer.update([batch_of(i), batch_of(i + 50)])
        return weights_of(trainer)

    plain, recomputed = run(False), run(True)
    for key, value in plain.items():
        np.testing.assert_allclose(recomputed[key], value, atol=1e-6, err_msg=key)


def test_recompute_needs_blocks():
    with pytest.raises(UserError, match="names no blocks"):
        trainer_of(ToySupervised(paddle.nn.Conv2D(3, 4, 1)), recompute=True)


def test_parameters_without_gradient_are_listed_once():
    warnings = []
    paddle.seed(0)
    method = ToySupervised(Segmenter())
    method.lonely = paddle.nn.Linear(2, 2)
    trainer = trainer_of(method, warn=warnings.append)
    trainer.update([batch_of(0)])
    trainer.update([batch_of(1)])
    assert len(warnings) == 1 and "lonely.weight, lonely.bias" in warnings[0]


def test_a_lazy_phase_need_not_reach_everything():
    """The gradient penalty does not reach the discriminator's biases; only a phase of every update is told of."""
    warnings = []
    trainer = build_toy("gan", warn=warnings.append)
    for i in range(4):
        trainer.update([batch_of(i)])
    assert warnings == []

    class Busy(ToyGan):
        phases = tuple(replace(phase, every=1) for phase in ToyGan.phases)

    trainer = trainer_of(Busy(), warn=warnings.append)
    for i in range(4):
        trainer.update([batch_of(i)])
    assert (
        len(warnings) == 1
        and "phase 'r1': no gradient reaches discriminator.0.bias, discriminator.2.bias" in warnings[0]
    )


def test_a_fault_leaves_no_gradient_behind(monkeypatch):
    """Found after the first micro-batch had gone backward."""
    trainer = build_toy("supervised", warn=lambda line: None)
    original, calls = ToySupervised.losses, iter([1.0, float("nan")])
    monkeypatch.setattr(ToySupervised, "losses", lambda self, p, b: {"ce": original(self, p, b)["ce"] * next(calls)})
    assert trainer.update([batch_of(0), batch_of(1)]) == {}
    group = trainer.groups["model"]
    assert all(g.abs().sum().item() == 0.0 for g in group.gradients())
    assert trainer.last_fault.what == "loss is not finite" and np.isnan(trainer.last_fault.terms["ce"])
    assert trainer.last_fault.__traceback__ is None  # it would keep the tensors of the update


def test_a_checkpoint_of_another_method_is_refused():
    gan, supervised = build_toy("gan"), build_toy("supervised")
    gan.update([batch_of(0)])
    files = {n: {k: np.array(v) for k, v in a.items()} for n, a in gan.files().items()}
    with pytest.raises(UserError, match="does not fit this recipe"):
        supervised.load(gan.state(), lambda name: files[name], "there")


@pytest.mark.parametrize("name", ["rtformer_debug", "uhrnet_debug"])
def test_recomputation_in_the_networks_of_the_zoo(name):
    """The blocks a network names exist, and computing them again changes neither the update nor the statistics."""
    from ppvision.models import zoo

    def run(recompute):
        paddle.seed(0)
        trainer = trainer_of(ToySupervised(zoo.create_model(name, num_classes=4)), "sgd", lr=1e-3, recompute=recompute)
        logs = [trainer.update([batch_of(i, size=2, hw=(64, 96))]) for i in range(2)]
        return weights_of(trainer), logs

    (plain, logs), (again, logs_again) = run(False), run(True)
    np.testing.assert_allclose([r["loss"] for r in logs_again], [r["loss"] for r in logs], rtol=1e-5)
    for key, value in plain.items():
        scale = np.abs(value).max() + 1e-6
        np.testing.assert_allclose(again[key] / scale, value / scale, atol=1e-4, err_msg=key)


def test_under_fp16_a_poisoned_image_is_a_fault_and_ruins_nothing(monkeypatch):
    """The norm is not finite, as after an overflow, but so are the statistics: that is never the scale's doing."""
    trainer = build_toy("supervised", ema=0.9, amp="O1", amp_dtype="float16", loss_scale=1024.0, warn=lambda line: None)
    trainer.update([batch_of(0)])
    before = everything(trainer)
    monkeypatch.setattr(
        ToySupervised, "prepare", lambda self, b: {**b, "image": paddle.full([4, 3, 6, 7], float("nan"))}
    )
    assert trainer.update([batch_of(1)]) == {}
    monkeypatch.undo()
    assert (trainer.skipped, trainer.scaler.scale) == (1, 1024.0)
    after = everything(trainer)
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value, err_msg=key)


def test_the_scale_grows_after_clean_steps():
    trainer = build_toy("supervised", amp="O1", amp_dtype="float16", loss_scale=8.0)
    trainer.scaler.growth_interval = 2
    scales = []
    for i in range(4):
        trainer.update([batch_of(i)])
        scales.append(trainer.scaler.scale)
    assert scales == [8.0, 16.0, 16.0, 32.0]


def test_the_scale_and_its_count_continue():
    def build():
        trainer = build_toy("supervised", amp="O1", amp_dtype="float16", loss_scale=8.0)
        trainer.scaler.growth_interval = 3
        return trainer

    first = build()
    for i in range(5):
        first.update([batch_of(i)])
    files = {name: {k: np.array(v) for k, v in arrays.items()} for name, arrays in first.files().items()}
    resumed = build()
    resumed.load(first.state(), lambda name: files[name], "here")
    assert (resumed.scaler.scale, resumed.scaler.clean) == (16.0, 2)
    resumed.update([batch_of(5)])
    assert resumed.scaler.scale == 32.0


def test_a_fault_in_a_later_phase_says_what_had_stepped(monkeypatch):
    warnings = []
    trainer = build_toy("gan", warn=warnings.append)
    original = ToyGan.losses
    monkeypatch.setattr(
        ToyGan,
        "losses",
        lambda self, p, b: {"g": original(self, p, b)["g"] * float("nan")} if p == "g" else original(self, p, b),
    )
    assert trainer.update([batch_of(0)]) == {}
    assert "phase d, r1 had stepped already" in warnings[-1]


def test_randomness_of_a_method_is_a_function_of_seed_step_and_rank():
    method = ToySupervised(Segmenter())
    draws = {}
    for seed in (0, 1):
        for step in (0, 1):
            for rank in (0, 1):
                method.begin(step, seed, rank)
                draws[seed, step, rank] = (method.rng.random(), method.shared_rng.random())
    assert len({own for own, _ in draws.values()}) == 8
    assert len({shared for _, shared in draws.values()}) == 4  # the ranks share it
    method.begin(1, 1, 1)
    assert (method.rng.random(), method.shared_rng.random()) == draws[1, 1, 1]


def test_each_step_draws_anew():
    seen = []

    class Noisy(ToySupervised):
        def losses(self, phase, batch):
            seen.append(float(paddle.rand([1]).item()))
            return super().losses(phase, batch)

    trainer = trainer_of(Noisy(Segmenter()))
    for i in range(4):
        trainer.update([batch_of(i)])
    assert len(set(seen)) == 4
