"""Networks as a task calls them: what reaches an eager network and a graph, and what is refused."""

import numpy as np
import paddle
import pytest
from paddle import nn

from ppvision.errors import UserError
from ppvision.models.network import IMAGE, VALID, Input, Network
from ppvision.predict.nets import EagerNet, GraphNet, filled, on_device

MEAN, STD = (120.0, 110.0, 100.0), (50.0, 40.0, 20.0)
SPECS = {
    "image": Input((4, 3, "H", "W")),
    "points": Input(("P", 3), kind="points"),
    "offsets": Input((5,), "int64", "offsets"),
    "size": Input((2,), "int32", "size"),
}


class Two(Network):
    """Gives back what it was called with: two pictures, the second of a size of its own, and a number."""

    def inputs(self):
        return {"image": IMAGE, "crop": Input(("B", 3, "h", "w")), "scale": Input(("B", 1), kind="vector")}

    def forward(self, **given):
        return given


class Session:
    """Keeps what it was called with."""

    def __call__(self, arrays):
        self.given = dict(arrays)
        return {"scores": np.array([[3.0, 1.0]], np.float32)}


def normalised(picture):
    return (picture - np.reshape(MEAN, (1, 3, 1, 1))) / np.reshape(STD, (1, 3, 1, 1))


def pictures(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (2, 3, 4, 6), np.uint8),
        "crop": rng.integers(0, 256, (2, 3, 4, 6), np.uint8),
        "scale": np.array([[7.0], [-2.0]], np.float32),
    }


def test_bytes_become_float_on_the_device_and_the_rest_stays():
    tensors = on_device({"image": np.array([[0, 200]], np.uint8), "sizes": np.array([3], np.int32)})
    assert tensors["image"].dtype == paddle.float32 and tensors["image"].tolist() == [[0.0, 200.0]]
    assert tensors["sizes"].dtype == paddle.int32


def test_every_picture_is_normalised_once_and_nothing_else():
    given = pictures()
    found = EagerNet(Two(), MEAN, STD)(**on_device(given))
    assert list(found) == ["image", "crop", "scale"]
    for key in ("image", "crop"):
        np.testing.assert_allclose(found[key].numpy(), normalised(given[key]), atol=1e-5)
    assert found["scale"].tolist() == [[7.0], [-2.0]]


def test_the_mask_blanks_the_image_and_no_other_picture():
    given = pictures()
    valid = np.ones((2, 4, 6), bool)
    valid[1, 3:] = False
    valid[1, :, 4:] = False
    found = EagerNet(Two(), MEAN, STD)(**on_device(given | {"valid": valid}))
    assert "valid" not in found  # the network takes none
    np.testing.assert_allclose(found["image"].numpy(), normalised(given["image"]) * valid[:, None], atol=1e-5)
    np.testing.assert_allclose(found["crop"].numpy(), normalised(given["crop"]), atol=1e-5)


def test_a_layer_of_another_package_gets_its_inputs_in_order():
    class Foreign(nn.Layer):
        def forward(self, picture):
            return picture + 1

    given = pictures()["image"]
    found = EagerNet(Foreign(), MEAN, STD)(**on_device({"image": given}))
    np.testing.assert_allclose(found.numpy(), normalised(given) + 1, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: EagerNet(Two(), MEAN, STD), lambda: GraphNet(Session(), Two().inputs())])
def test_inputs_that_a_network_does_not_take_or_that_are_missing(make):
    given = on_device(pictures())
    with pytest.raises(UserError, match="takes no input 'scal'; did you mean 'scale'. .it takes: image, crop, scale"):
        make()(**given, scal=given["scale"])
    for name in given:
        rest = {key: tensor for key, tensor in given.items() if key != name}
        with pytest.raises(UserError, match=f"input '{name}' is missing .it takes: image, crop, scale"):
            make()(**rest)


def test_a_graph_is_called_by_the_names_of_the_graph_and_a_mask_is_true_unless_given():
    session = Session()
    net = GraphNet(session, {"image": IMAGE, "valid": VALID})
    image = np.zeros((2, 3, 4, 6), np.uint8)
    found = net(**on_device({"image": image}))
    assert found.tolist() == [[3.0, 1.0]]  # a single output by itself
    assert list(session.given) == ["x", "valid"] and session.given["x"].dtype == np.float32
    assert session.given["valid"].dtype == bool and session.given["valid"].shape == (2, 4, 6)
    assert session.given["valid"].all()
    valid = np.zeros((2, 4, 6), bool)
    valid[:, :3, :5] = True
    net(**on_device({"image": image, "valid": valid}))
    np.testing.assert_array_equal(session.given["valid"], valid)


def test_a_graph_without_a_mask_is_not_given_one():
    session = Session()
    GraphNet(session, {"image": IMAGE})(
        **on_device({"image": np.zeros((1, 3, 2, 2)), "valid": np.ones((1, 2, 2), bool)})
    )
    assert list(session.given) == ["x"]


def test_a_fixed_batch_is_filled_with_the_last_sample():
    given = {
        "image": np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2),
        "points": np.arange(12.0).reshape(4, 3),
        "offsets": np.array([0, 3, 4]),
        "size": np.array([7, 9], np.int32),
    }
    found = filled(given, 4, SPECS)
    np.testing.assert_array_equal(found["image"], given["image"][[0, 1, 1, 1]])
    assert found["offsets"].tolist() == [0, 3, 4, 4, 4]  # the added samples have no points
    assert found["points"] is given["points"] and found["size"].tolist() == [7, 9]
    assert len(given["image"]) == 2


def test_a_side_that_two_inputs_share_must_be_one():
    """ONNX Runtime stretches a batch of one over two without a word."""
    calls = []
    graph = GraphNet(lambda inputs: calls.append(inputs) or {"y": inputs["x"]}, {"image": IMAGE, "valid": VALID}, "net")
    image = paddle.ones([2, 3, 8, 6])
    for shape, message in (([1, 8, 6], "net: B is 2 in 'image' and 1 in 'valid'"), ([2, 8, 4], "W is 6 in 'image'")):
        with pytest.raises(UserError, match=message):
            graph(image=image, valid=paddle.ones(shape, "bool"))
    assert not calls
    graph(image=image, valid=paddle.ones([2, 8, 6], "bool"))
    assert calls[0]["valid"].shape == (2, 8, 6)
