"""CAE v2 pre-training: masks, targets, loss and where its gradients go."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from ppvision.engine.optimizer import AdamW
from ppvision.engine.schedule import Constant
from ppvision.engine.trainer import Trainer
from ppvision.errors import UserError
from ppvision.methods.cae_v2 import (
    CaeV2Pretraining,
    Regressor,
    Target,
    TargetCache,
    block_mask,
    cosine_distance,
    random_mask,
)
from ppvision.models import zoo
from ppvision.nn.vit import sincos_table
from ppvision.weights import load_weights, state_of


def method(seed: int = 0, student: dict | None = None, **kwargs) -> CaeV2Pretraining:
    """Debug encoder and debug CLIP tower, the same weights for the same seed."""
    paddle.seed(seed)
    teacher = zoo.create_model("clip_vit_debug")
    net = zoo.create_model("cae_v2_debug", **{"drop_path": 0.0, **(student or {})})
    options = dict(num_masked=9, min_block=3, regressor_depth=1)
    built = CaeV2Pretraining(net, teacher, **{**options, **kwargs})
    built.mean, built.std = zoo.entry("cae_v2_debug").mean_std
    built.train()
    return built


def images(count: int = 4, seed: int = 0) -> dict:
    pixels = np.random.default_rng(seed).integers(0, 256, [count, 24, 24, 3]).astype("uint8")
    return {"image": paddle.to_tensor(pixels)}


def gradients(layer: paddle.nn.Layer, prefix: str = "") -> dict[str, float]:
    """Name -> largest gradient, 0 where there is none."""
    return {
        k: 0.0 if p.grad is None else p.grad.abs().max().item()
        for k, p in layer.named_parameters()
        if k.startswith(prefix)
    }


class TestMasks:
    @pytest.mark.parametrize("count", [30, 49, 98])
    def test_blocks_hide_exactly_that_many_and_end(self, count):
        class Counted:
            """A generator that counts what is drawn from it."""

            def __init__(self, seed: int):
                self.rng, self.draws = np.random.default_rng(seed), 0

            def __getattr__(self, name: str):
                self.draws += 1
                return getattr(self.rng, name)

        rng, most = Counted(count), 0
        for _ in range(1000):
            rng.draws = 0
            assert block_mask(rng, 14, 14, count).sum() == count
            most = max(most, rng.draws)
        assert most < 2000  # of 40 a trial, at most, in ROUNDS trials without success

    def test_blocks_are_blocks(self):
        """Hidden patches touch: of 30 drawn as rectangles of about 16 most have a hidden neighbour below."""
        rng = np.random.default_rng(0)

        def neighbours(draw) -> float:
            masks = [draw(rng, 14, 14, 30) for _ in range(100)]
            return float(np.mean([(m[1:] & m[:-1]).sum() / 30 for m in masks]))

        assert neighbours(block_mask) > 0.6
        assert neighbours(random_mask) < 0.3

    def test_every_patch_is_hidden_sometimes(self):
        rng = np.random.default_rng(0)
        for draw in (block_mask, random_mask):
            share = np.mean([draw(rng, 14, 14, 98) for _ in range(400)], axis=0)
            assert share.min() > 0.02 and abs(share.mean() - 0.5) < 1e-9  # few rectangles hold a corner

    @pytest.mark.parametrize("count", [1, 4, 15, 35])
    def test_where_no_block_fits_single_patches_end_the_mask(self, count):
        assert block_mask(np.random.default_rng(0), 6, 6, count, 16).sum() == count
        assert block_mask(np.random.default_rng(0), 1, 6, min(count, 5), 3).sum() == min(count, 5)

    def test_a_mask_is_a_function_of_the_step(self):
        one, two = method(), method(seed=1)
        drawn = []
        for built, step in ((one, 3), (two, 3), (one, 4)):
            built.begin(step, seed=7, rank=0)
            drawn.append(built.prepare(images())["masked"].numpy())
        assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])

    def test_visible_and_masked_are_all_patches_in_order(self):
        batch = method(num_masked=14).prepare(images())
        visible, masked = batch["visible"].numpy(), batch["masked"].numpy()
        assert visible.shape == (4, 22) and masked.shape == (4, 14)
        assert (np.diff(visible) > 0).all() and (np.diff(masked) > 0).all()
        assert (np.sort(np.concatenate([visible, masked], axis=1)) == np.arange(36)).all()

    def test_the_share_of_patches(self):
        assert method(num_masked=None, mask_ratio=0.25).num_masked == 9
        with pytest.raises(UserError, match="one of num_masked and mask_ratio"):
            method(mask_ratio=0.5)
        with pytest.raises(UserError, match="'num_masked' masks 36 of 36 patches"):
            method(num_masked=36)


class TestLoss:
    def test_cosine_distance(self):
        x = paddle.randn([5, 7])
        assert cosine_distance(x, 3 * x).max().item() < 1e-5
        assert (cosine_distance(x, -x) - 2).abs().max().item() < 1e-5
        assert cosine_distance(paddle.to_tensor([[1.0, 0.0]]), paddle.to_tensor([[0.0, 2.0]])).item() == 1.0
        assert cosine_distance(paddle.zeros([2, 3]), x[:2, :3]).numpy().tolist() == [1.0, 1.0]

    @pytest.mark.parametrize(("sign", "expected"), [(1.0, 0.0), (-1.0, 2.0)])
    def test_is_nothing_at_the_target_and_two_opposite_to_it(self, sign, expected):
        """A head that answers with the teacher's tokens, gathered as (class, visible, masked)."""
        built = method()
        batch = built.prepare(images())
        target = built.target(batch["teacher_image"]).numpy()
        rows = [
            np.concatenate([t[:1], t[1:][v], t[1:][m]])
            for t, v, m in zip(target, batch["visible"].numpy(), batch["masked"].numpy())
        ]
        built.head.forward = lambda x: sign * paddle.to_tensor(np.stack(rows))
        assert sum(built.losses("main", batch).values()).item() == pytest.approx(expected, abs=1e-5)

    def test_token_reduction_is_the_mean_over_tokens(self):
        built = method(supervise_cls=True)
        batch = built.prepare(images())
        captured = []
        plain = built.head.forward
        built.head.forward = lambda x: captured.append(plain(x)) or captured[-1]
        terms = {k: v.item() for k, v in built.losses("main", batch).items()}
        target = built.target(batch["teacher_image"]).numpy()
        order = np.concatenate([batch["visible"].numpy(), batch["masked"].numpy()], axis=1)
        y = np.concatenate([target[:, :1], np.take_along_axis(target[:, 1:], order[..., None], 1)], axis=1)
        z = captured[0].numpy()
        cosine = (y * z).sum(-1) / np.linalg.norm(y, axis=-1) / np.linalg.norm(z, axis=-1)
        assert sum(terms.values()) == pytest.approx((1 - cosine).mean(), rel=1e-4)
        assert terms["masked"] == pytest.approx((1 - cosine[:, 28:]).mean() * 9 / 37, rel=1e-4)
        branch = method(loss_reduction="branch").losses("main", batch)
        assert branch["masked"].item() == pytest.approx((1 - cosine[:, 28:]).mean(), rel=1e-4)
        assert branch["cls"].item() == pytest.approx((1 - cosine[:, 0]).mean(), rel=1e-4)
        assert branch["visible"].item() == pytest.approx((1 - cosine[:, 1:28]).mean(), rel=1e-4)

    def test_visible_leaves_regressor_and_mask_token_alone(self):
        built = method(loss_positions="visible")
        terms = built.losses("main", built.prepare(images()))
        assert set(terms) == {"cls", "visible"}
        sum(terms.values()).backward()
        found = gradients(built)
        assert not [k for k, g in found.items() if k.startswith(("regressor.", "mask_token")) and g]
        assert all(g > 0 for k, g in found.items() if k.startswith(("model.", "head")))

    def test_masked_reaches_the_encoder_through_the_regressor(self):
        built = method(loss_positions="masked")
        terms = built.losses("main", built.prepare(images()))
        assert set(terms) == {"masked"}
        sum(terms.values()).backward()
        found = {k: g for k, g in gradients(built).items() if not k.startswith("teacher.")}
        assert all(g > 0 for g in found.values()), [k for k, g in found.items() if not g]

    def test_supervising_the_class_token_is_a_choice(self):
        built = method(supervise_cls=False)
        assert set(built.losses("main", built.prepare(images()))) == {"visible", "masked"}

    def test_regressor_of_another_width(self):
        built = method(regressor_dim=16)
        assert built.projection[0].weight.shape == [32, 16] and built.mask_token.shape == [1, 1, 16]
        sum(built.losses("main", built.prepare(images())).values()).backward()
        assert all(g > 0 for k, g in gradients(built).items() if not k.startswith("teacher."))


def test_stochastic_depth_grows_from_nothing():
    """As torch.linspace(0, rate, blocks) of the release: the single block of tiny and small drops nothing."""
    assert [b.drop_path.rate for b in Regressor(32, 4, 4, drop_path=0.3)] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [b.drop_path.rate for b in Regressor(32, 1, 4, drop_path=0.3)] == [0.0]
    assert [b.drop_path.rate for b in zoo.create_model("cae_v2_debug", depth=1, drop_path=0.3).blocks] == [0.0]


class TestRegressor:
    """The equations of the specification in NumPy, one image at a time."""

    @staticmethod
    def norm(layer, x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * layer.weight.numpy() + layer.bias.numpy()

    def block(self, block, masked, visible, masked_pos, visible_pos, heads):
        both, places = np.concatenate([visible, masked]), np.concatenate([visible_pos, masked_pos])
        attn, size = block.cross_attn, masked.shape[1] // heads
        q = self.norm(block.norm1_q, masked + masked_pos) @ attn.q.weight.numpy() + attn.q_bias.numpy()
        k = self.norm(block.norm1_k, both + places) @ attn.k.weight.numpy()
        v = self.norm(block.norm1_v, both) @ attn.v.weight.numpy() + attn.v_bias.numpy()
        rows = []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            score = q[:, part] @ k[:, part].T * size**-0.5
            weight = np.exp(score - score.max(-1, keepdims=True))
            rows.append(weight / weight.sum(-1, keepdims=True) @ v[:, part])
        attended = np.concatenate(rows, axis=1) @ attn.proj.weight.numpy() + attn.proj.bias.numpy()
        x = self.norm(block.norm2_cross, masked + block.gamma_1_cross.numpy() * attended)
        hidden = x @ block.mlp_cross.fc1.weight.numpy() + block.mlp_cross.fc1.bias.numpy()
        erf = np.vectorize(math.erf)
        hidden = hidden * 0.5 * (1 + erf(hidden / math.sqrt(2)))
        grown = hidden @ block.mlp_cross.fc2.weight.numpy() + block.mlp_cross.fc2.bias.numpy()
        return x + block.gamma_2_cross.numpy() * grown

    def test_follows_the_equations(self):
        built = method(regressor_depth=2)
        rng = np.random.default_rng(0)
        for _, p in built.regressor.named_parameters():
            p.set_value(p + paddle.to_tensor(0.2 * rng.standard_normal(p.shape).astype("f4")))
        batch = built.prepare(images())
        _, seen = built.encode(batch["image"], batch["visible"])
        measured = built.regress(seen, batch["visible"], batch["masked"]).numpy()
        table = sincos_table(32, 6, 6)[0, 1:]
        for i in range(4):
            visible, masked = batch["visible"].numpy()[i], batch["masked"].numpy()[i]
            x = np.repeat(built.mask_token.numpy()[0], len(masked), axis=0)
            for block in built.regressor:
                x = self.block(block, x, seen[i].numpy(), table[masked], table[visible], 4)
            np.testing.assert_allclose(measured[i], x, atol=1e-4)


class TestTeacher:
    def test_receives_no_gradient_and_does_not_move(self):
        built = method()
        before = state_of(built.teacher)
        trainer = Trainer(
            built, lambda name, ps: (AdamW(ps, lr=1e-2), Constant(1e-2, 10)), seed=0, clip_norm=3.0, warn=pytest.fail
        )
        own = state_of(built.model)
        for _ in range(2):
            assert trainer.update([images()])["loss"] > 0
        assert not any(gradients(built, "teacher.").values())
        for key, value in state_of(built.teacher).items():
            np.testing.assert_array_equal(before[key], value)
        after = state_of(built.model)
        assert not [k for k in own if np.array_equal(own[k], after[k]) and k != "pos_embed"]
        assert not [k for k in trainer.files()["method.pdparams"] if k.startswith("teacher.")]

    def test_sees_the_whole_image_in_its_own_normalisation(self):
        built, batch = method(), images()
        mean, std = (np.asarray(v, "float32") for v in zoo.entry("clip_vit_debug").mean_std)
        prepared = built.prepare(batch)
        expected = ((batch["image"].numpy() - mean) / std).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(prepared["teacher_image"].numpy(), expected, rtol=1e-5, atol=1e-5)
        own = built.teacher.net(paddle.to_tensor(expected))["tokens"]
        np.testing.assert_allclose(built.target(prepared["teacher_image"])[:, 1:], own, atol=1e-4)

    def test_patches_of_another_size_get_a_grid_that_matches(self):
        tower = zoo.create_model("clip_vit_debug", patch_size=3, image_size=24)
        target = Target(tower, 6)
        assert target.size == 18
        assert target(paddle.zeros([2, 3, 24, 24])).shape == [2, 37, 48]

    def test_any_network_with_features_can_be_one(self):
        mobile = paddle.vision.models.MobileNetV2(scale=0.25)
        target = Target(mobile, 6, level=7, size=48)
        target.eval()
        x = paddle.rand([2, 3, 24, 24])
        y = target(x)
        assert y.shape == [2, 37, 8]
        maps = mobile.features[:7](paddle.nn.functional.interpolate(x, size=[48, 48], mode="bilinear"))
        assert maps.shape[2:] == [6, 6]
        np.testing.assert_allclose(y[:, 1:].numpy(), maps.flatten(2).transpose([0, 2, 1]).numpy(), atol=1e-6)
        np.testing.assert_allclose(y[:, 0].numpy(), maps.mean([2, 3]).numpy(), atol=1e-6)
        assert Target(zoo.create_model("rtformer_debug"), 6, level="c4", size=96)(x).shape[:2] == [2, 37]
        for level in ("c4", 0, 99):
            with pytest.raises(UserError, match="a sequence of 19 layers; give a number of them"):
                Target(mobile, 6, level=level)
        with pytest.raises(UserError, match=r"gives \[2, 1000\], no map"):
            Target(paddle.vision.models.resnet18(), 6, size=32)(x)
        with pytest.raises(UserError, match="no feature 'c9'"):
            Target(zoo.create_model("rtformer_debug"), 6, level="c9")(x)

    def test_centred_targets_have_no_common_direction(self):
        built = method(center=True)
        for step in range(3):
            built.begin(step, 0, 0)
            target = built.target(built.prepare(images(8, step))["teacher_image"])
        assert target[:, 1:].mean([0, 1]).abs().max().item() < 0.3
        assert target[:, 1:].std([0, 1]).mean().item() == pytest.approx(1.0, abs=0.3)
        built.eval()
        before = state_of(built)["target_mean"]
        built.target(built.prepare(images(8, 9))["teacher_image"])
        np.testing.assert_array_equal(before, state_of(built)["target_mean"])

    @pytest.mark.parametrize("kind", ["tokens", "map"])
    def test_remembered_targets_are_the_teachers(self, kind):
        paddle.seed(0)
        net = zoo.create_model("clip_vit_debug") if kind == "tokens" else paddle.vision.models.MobileNetV2(scale=0.25)
        target = Target(net, 6, level=None if kind == "tokens" else 7, size=None if kind == "tokens" else 48)
        target.eval()
        asked = []
        raw = target.raw
        target.raw = lambda image: asked.append(len(image)) or raw(image)
        cache = TargetCache(target, 1)
        x = paddle.rand([6, 3, 24, 24])
        with paddle.no_grad():
            plain = target(x).numpy()
            asked.clear()
            first = cache(x[:4])
            np.testing.assert_allclose(first.numpy(), plain[:4], rtol=2e-3, atol=2e-3)
            assert asked == [4] and len(cache.known) == 4
            mixed = cache(paddle.stack([x[3], x[4], x[0], x[4]]))  # two known, one new that comes twice
            np.testing.assert_array_equal(mixed.numpy()[[0, 2]], first.numpy()[[3, 0]])
            np.testing.assert_array_equal(mixed.numpy()[1], mixed.numpy()[3])
            assert asked == [4, 4] and len(cache.known) == 5
            np.testing.assert_array_equal(cache(x[:4]).numpy(), first.numpy())
            assert asked == [4, 4]
            alone = TargetCache(target, 1)(paddle.stack([x[4], x[1], x[2], x[0]]))  # a resumed run knows nothing
            np.testing.assert_array_equal(alone.numpy()[[0, 3]], mixed.numpy()[[1, 2]])
            cache.room = 0
            cache(x[5:])
        assert asked[-1] == 1 and len(cache.known) == 5  # full: asked again next time

    def test_the_cache_is_no_part_of_a_checkpoint(self):
        built = method(teacher_cache=1)
        built.target(built.prepare(images())["teacher_image"])
        assert len(built.cache.known) == 4 and not [k for k in built.state_dict() if "cache" in k]

    def test_a_classifier_is_refused_as_student(self):
        with pytest.raises(UserError, match="num_classes 0"):
            method(student={"num_classes": 5})


def test_eight_images_are_learnt_by_heart():
    built = method(student={"dim": 64})
    trainer = Trainer(
        built, lambda name, ps: (AdamW(ps, lr=3e-3, weight_decay=0.0), Constant(3e-3, 300, warmup_iters=10)), warn=print
    )
    batch, losses = images(8), []
    for _ in range(300):
        losses.append(trainer.update([batch])["loss"])
        if np.mean(losses[-5:]) < 0.1:
            break
    assert losses[0] > 0.8 and np.mean(losses[-5:]) < 0.1


class TestValidation:
    def test_masks_are_those_of_the_images_at_every_step_and_in_every_batch(self):
        built = method(center=True)
        built.train()
        for step in range(2):
            built.begin(step, 7, 0)
            built.losses("main", built.prepare(images(8, step)))  # moves the statistics of the targets
        built.eval()
        whole = {**images(6), "index": paddle.arange(6)}
        expected = {k: v.numpy() for k, v in built.validate(whole).items()}
        built.begin(5, 7, 1)
        for rows in ([0, 1], [2, 3, 4], [5]):
            part = built.validate({k: v[paddle.to_tensor(rows)] for k, v in whole.items()})
            for name, values in part.items():
                np.testing.assert_allclose(values.numpy(), expected[name][rows], rtol=1e-5)
        built.begin(5, 8, 0)  # another seed
        assert not np.allclose(built.validate(whole)["masked"].numpy(), expected["masked"], rtol=1e-5)

    def test_is_the_training_loss_on_the_same_masks(self):
        built = method()
        built.eval()
        batch = {**images(4), "index": paddle.arange(4)}
        terms = built.validate(batch)
        trained = built.losses("main", built._views(batch, built.image_rngs(batch)))
        assert terms.keys() == trained.keys()
        for name, values in terms.items():
            assert values.shape == [4] and values.mean().item() == pytest.approx(trained[name].item(), rel=1e-6)

    def test_pictures_of_the_first_images(self):
        built = method()
        built.eval()
        drawn = built.pictures({**images(10), "index": paddle.arange(100, 110)})
        assert list(drawn) == [f"similarity_{i}" for i in range(100, 108)]
        assert all(p.dtype == np.uint8 and p.shape == (224, 5 * 224 + 16, 3) for p in drawn.values())
        again = built.pictures({**images(10), "index": paddle.arange(100, 110)})
        np.testing.assert_array_equal(drawn["similarity_100"], again["similarity_100"])


def test_inspect_returns_patches_to_their_places():
    built = method()
    built.eval()
    batch = built.prepare(images())
    found = built.inspect(batch)
    assert (found["masked"].sum(1) == 9).all()
    assert all(found["masked"][i, batch["masked"].numpy()[i]].all() for i in range(4))
    _, seen = built.encode(batch["image"], batch["visible"])
    direct = built.head(built.head_norm(seen)).numpy()
    direct /= np.linalg.norm(direct, axis=-1, keepdims=True)
    for i, visible in enumerate(batch["visible"].numpy()):
        np.testing.assert_allclose(found["output"][i][visible], direct[i], atol=1e-4)


def test_a_checkpoint_of_the_release_starts_encoder_and_method(tmp_path):
    """Under the release's names, in torch's layout: everything but the regressor's unused norm finds its place."""
    from ppvision.weights import to_theirs

    donor = method(seed=3, regressor_dim=16)
    own = {k: v.numpy() for k, v in donor.trained_state().items() if not k.startswith("model.")}
    own |= {"regressor_norm.weight": np.ones(16, "f4"), "regressor_norm.bias": np.zeros(16, "f4")}
    file = to_theirs(donor.model, "release", state_of(donor.model), own)
    assert file["regresser.regressor_blocks.0.mlp_cross.fc1.weight"].shape == (64, 16)
    assert file["encoder_to_regresser.weight"].shape == (16, 32) and "rd_pos_embed" in file
    heir = method(seed=4, regressor_dim=16)
    report = load_weights(heir.model, file)
    fitted = heir.load_training_only(report.training_only)
    assert set(report.training_only) - set(fitted) == {"regressor_norm.weight", "regressor_norm.bias"}
    ours, theirs = heir.trained_state(), donor.trained_state()
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key].numpy(), value.numpy(), err_msg=key)
    back = to_theirs(heir.model, "release", state_of(heir.model), report.training_only)
    assert back.keys() == file.keys()
    for key, value in file.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_masked", 0),
        ("num_masked", 36),
        ("min_block", 0),
        ("regressor_dim", 30),
        ("regressor_depth", 0),
        ("regressor_heads", 5),
        ("teacher_size", 0),
        ("teacher_mean", [1.0, 2.0, 3.0]),
        ("teacher_level", 0),
    ],
)
def test_an_argument_that_cannot_be_is_named(key, value):
    from ppvision.config import build

    encoder = zoo.create_model("cae_v2_debug")
    spec = {"type": "cae_v2", "teacher": {"type": "clip_vit_debug"}, "num_masked": 9, key: value}
    with pytest.raises(UserError, match=rf"'method.{key}' "):
        build("method", spec, model=encoder)


def test_an_encoder_of_another_kind_is_one_line():
    with pytest.raises(UserError, match="model must be cae_v2_"):
        CaeV2Pretraining(zoo.create_model("vit_det_debug"), zoo.create_model("clip_vit_debug"), num_masked=4)
