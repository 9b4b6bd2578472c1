"""Mixing, targets and token labels, pixel by pixel."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from ppvision.data.fields import start
from ppvision.data.transforms.classification import RandAugment
from ppvision.data.transforms.image import Compose, RandomFlip, RandomResizedCrop
from ppvision.errors import UserError
from ppvision.methods.classification import (
    Classification,
    TokenLabelling,
    box_of_area,
    dense_scores,
    inside,
    read_at,
    swapped,
)
from ppvision.models.maformer import MAFormer
from tests.models.variants import builder

maformer = builder(MAFormer)


class Linear(nn.Layer):
    def __init__(self, num_classes=3):
        super().__init__()
        self.num_classes, self.layer = num_classes, nn.Linear(3, num_classes)

    def forward(self, image):
        return self.layer(image.mean([2, 3]))


def batch(count=5, size=(6, 8)):
    rng = np.random.default_rng(0)
    return {
        "image": paddle.to_tensor(rng.integers(0, 256, (count, *size, 3), np.uint8)),
        "label": paddle.to_tensor(rng.integers(0, 3, count)),
    }


def prepared_by(method, data):
    """The batch as the trainer hands it to `losses`."""
    ready = method.prepare(data)
    return {**ready, "normaliser": method.normaliser("main", ready)}


def test_without_mixing_it_is_the_cross_entropy():
    method, data = Classification(Linear()), batch()
    prepared = prepared_by(method, data)
    terms = method.losses("main", prepared)
    expected = F.cross_entropy(method.model(prepared["image"]), data["label"])
    assert list(terms) == ["main"]
    assert terms["main"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_mixup_is_one_convex_combination_with_the_reversed_batch():
    method = Classification(Linear(), mixup=0.8, label_smoothing=0.1)
    method.begin(3, 0, 0)
    plain = Classification(Linear(), label_smoothing=0.1).prepare(batch())
    mixed = method.prepare(batch())
    method.begin(3, 0, 0)
    assert method.rng.random() < 1  # whether to mix
    share = method.rng.beta(0.8, 0.8)
    for key in ("image", "soft_label"):
        x = plain[key].numpy()
        np.testing.assert_allclose(mixed[key].numpy(), share * x + (1 - share) * x[::-1], atol=1e-5)


def test_cutmix_pastes_a_box_and_counts_its_pixels():
    method = Classification(Linear(), cutmix=1.0)
    plain = Classification(Linear()).prepare(batch(4, (16, 24)))
    seen = set()
    for step in range(20):
        method.begin(step, 0, 0)
        mixed = method.prepare(batch(4, (16, 24)))
        x, y = plain["image"].numpy(), mixed["image"].numpy()
        ours, theirs = (y == x).all((0, 1)), (y == x[::-1]).all((0, 1))
        assert (ours | theirs).all()
        rows, columns = np.flatnonzero((~ours).any(1)), np.flatnonzero((~ours).any(0))
        assert (~ours).sum() == len(rows) * len(columns)  # a box
        share = ours.mean()
        expected = share * plain["soft_label"].numpy() + (1 - share) * plain["soft_label"].numpy()[::-1]
        np.testing.assert_allclose(mixed["soft_label"].numpy(), expected, atol=1e-6)
        seen.add(float(share))
    assert len(seen) > 5


def test_both_are_chosen_between_and_switched_off_by_probability():
    kinds = []
    method = Classification(Linear(), mixup=0.8, cutmix=1.0, mix_probability=0.7)
    plain = Classification(Linear()).prepare(batch(2))
    for step in range(60):
        method.begin(step, 1, 0)
        y, x = method.prepare(batch(2))["image"].numpy(), plain["image"].numpy()
        untouched = np.array_equal(y, x)
        kinds.append("none" if untouched else "cutmix" if np.isin(y, x).all() else "mixup")
    assert 8 <= kinds.count("none") <= 32 and kinds.count("cutmix") > 5 and kinds.count("mixup") > 5


def test_the_draw_is_a_function_of_seed_step_and_rank():
    method = Classification(Linear(), mixup=0.8, cutmix=1.0)

    def image(step, seed, rank):
        method.begin(step, seed, rank)
        return method.prepare(batch())["image"].numpy()

    assert np.array_equal(image(5, 0, 0), image(5, 0, 0))
    for other in ((6, 0, 0), (5, 1, 0), (5, 0, 1)):
        assert not np.array_equal(image(5, 0, 0), image(*other))


def test_soft_labels_of_the_data_set_are_used():
    data = {**batch(2), "soft_label": paddle.to_tensor([[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]])}
    np.testing.assert_allclose(Classification(Linear()).prepare(data)["soft_label"].numpy(), data["soft_label"].numpy())


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_boxes_have_the_area_asked_for_unless_cut(share):
    rng = np.random.default_rng(0)
    areas = [inside(box_of_area(rng, 64, 32, share), 64, 32).mean() for _ in range(200)]
    assert max(areas) <= share + 1e-9
    assert max(areas) >= share * 0.8


@pytest.mark.parametrize(
    "kwargs", [{"mixup": -1.0}, {"label_smoothing": 1.0}, {"mix_probability": 1.5}, {"switch_probability": -0.1}]
)
def test_numbers_out_of_range_are_refused(kwargs):
    with pytest.raises(UserError, match=f"'{next(iter(kwargs))}' must be"):
        Classification(Linear(), **kwargs)
    with pytest.raises(UserError, match="has no num_classes"):
        Classification(nn.Linear(2, 2))


class TestTokenLabels:
    def method(self, **kwargs):
        return TokenLabelling(maformer("debug", num_classes=3, drop_path=0.0), **kwargs)

    def data(self, **more):
        return {**batch(4, (64, 64)), **more}

    def test_constant_labels_give_class_and_token_cross_entropy(self):
        method = self.method(beta=1.0, mix_token=False, label_smoothing=0.0)
        data = self.data()
        data["token_label"] = data["label"].reshape([4, 1, 1]).expand([4, 2, 2])
        prepared = prepared_by(method, data)
        terms = method.losses("main", prepared)
        model = method.model
        tokens = model.tokens(model.embed(prepared["image"]))
        image_loss = F.cross_entropy(model.classify(tokens), data["label"])
        token_loss = F.cross_entropy(
            method.token_head(tokens).flatten(0, 1), data["label"].unsqueeze(1).expand([4, 4]).flatten()
        )
        assert terms["class"].item() == pytest.approx(image_loss.item(), abs=1e-5)
        assert terms["token"].item() == pytest.approx(token_loss.item(), abs=1e-5)

    def test_swapping_twice_is_nothing(self):
        x, mask = paddle.randn([4, 6, 5, 2]), inside((1, 4, 0, 3), 6, 5)
        once = swapped(x, mask)
        np.testing.assert_array_equal(once[:, 1:4, :3].numpy(), x.flip(0)[:, 1:4, :3].numpy())
        np.testing.assert_array_equal(swapped(once, mask).numpy(), x.numpy())

    def test_mixed_tokens_keep_their_own_label(self):
        """A network whose tokens do not see each other: with the box undone every token loss is as without mixing."""
        model = maformer("debug", num_classes=3, depths=(1,), windows=(1,), fused_stages=0, drop_path=0.0)
        data = {**batch(4, (16, 16)), "token_label": paddle.randint(0, 3, [4, 4, 4])}
        losses = []
        for mix in (False, True, True):
            method = TokenLabelling(model, mix_token=mix)
            losses.append(method)
        state = losses[0].state_dict()
        values = []
        for step, method in enumerate(losses):
            method.set_state_dict(state)
            method.begin(step, 0, 0)
            values.append(method.losses("main", prepared_by(method, data))["token"].item())
        assert values == pytest.approx([values[0]] * 3, abs=1e-5)

    def test_maps_follow_the_transforms(self):
        """Read through the geometry, a coordinate map gives the places the tokens came from."""
        rng = np.random.default_rng(3)
        height, width = 40, 60
        y, x = np.mgrid[:height, :width] + 0.5
        dense = paddle.to_tensor(np.stack([x, y])[None].astype("float32"))
        transform = Compose([RandomResizedCrop([32, 32], scale=[0.3, 0.6]), RandomFlip(p=1.0)])
        sample = transform(start({"image": np.zeros((height, width, 3), np.uint8)}), rng)
        places = read_at(
            dense,
            paddle.to_tensor(sample["geometry"][None]),
            paddle.to_tensor(np.array([sample["size"]], "int32")),
            (4, 4),
            (32, 32),
        ).numpy()[0]
        for i in range(4):
            for j in range(4):
                expected = np.linalg.inv(sample["geometry"]) @ [8 * j + 4, 8 * i + 4, 1]
                assert places[i, j] == pytest.approx(expected[:2], abs=0.3)
        assert (np.diff(places[:, :, 0], axis=1) < 0).all()  # mirrored

    def test_rotation_of_randaugment_moves_the_maps_with_the_pixels(self):
        """The bright square of the picture is where the map says its class is."""
        image = np.zeros((64, 64, 3), np.uint8)
        image[8:24, 36:52] = 255
        turned = RandAugment.apply(start({"image": image}), "Rotate", 1.0, -1)
        ids = paddle.to_tensor((image[None, None, :, :, 0] > 0).astype("int32"))
        dense = dense_scores(ids, paddle.full([1, 1, 64, 64], 5.0), 2)
        geometry = paddle.to_tensor(turned["geometry"][None])
        read = read_at(dense, geometry, paddle.to_tensor([[64, 64]]), (16, 16), (64, 64)).numpy()[0, :, :, 1]
        bright = turned["image"][..., 0].reshape(16, 4, 16, 4).mean((1, 3)) / 255
        inner = bright[2:14, 2:14], read[2:14, 2:14] / 5
        background = turned["image"][32, 32, 0] / 255
        assert background == 0
        np.testing.assert_allclose(*inner, atol=0.35)
        assert np.corrcoef(inner[0].ravel(), inner[1].ravel())[0, 1] > 0.95

    def test_scores_become_probabilities(self):
        method = self.method(label_smoothing=0.1)
        data = {
            "token_ids": paddle.to_tensor(np.array([[[[2]], [[0]]]], "int32")),
            "token_scores": paddle.to_tensor(np.array([[[[4.0]], [[1.0]]]], "float32")),
            "geometry": paddle.eye(3, dtype="float64").unsqueeze(0),
            "size": paddle.to_tensor([[64, 64]]),
            "image": paddle.zeros([1, 3, 64, 64]),
        }
        target = method.token_targets(data, (2, 2)).numpy()
        soft = np.exp([1.0, 0.0, 4.0]) / np.exp([1.0, 0.0, 4.0]).sum()
        np.testing.assert_allclose(target[0, 1, 1], 0.9 * soft + 0.1 / 3, atol=1e-6)

    def test_head_belongs_to_the_method_unless_the_network_votes(self):
        assert "token_head.weight" in self.method().state_dict()
        voting = TokenLabelling(maformer("debug", num_classes=3, dense_vote=True))
        assert "token_head.weight" not in voting.state_dict() and "model.token_head.weight" in voting.state_dict()

    def test_every_parameter_receives_a_gradient(self):
        method = self.method()
        data = self.data(token_label=paddle.zeros([4, 2, 2], "int64"))
        method.train()
        sum(method.losses("main", prepared_by(method, data)).values()).backward()
        assert not [k for k, p in method.named_parameters() if p.grad is None]

    def test_missing_labels_and_wrong_grids_are_named(self):
        method = self.method()
        with pytest.raises(UserError, match="no token labels"):
            method.losses("main", prepared_by(method, self.data()))
        with pytest.raises(UserError, match=r"labels are \[3, 3\], the last stage has \[2, 2\]"):
            method.losses("main", prepared_by(method, self.data(token_label=paddle.zeros([4, 3, 3], "int64"))))
        with pytest.raises(UserError, match="no tokens to label"):
            TokenLabelling(Linear())
