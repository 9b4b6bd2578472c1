"""Rules are read in both directions; what else files differ in; every table writes what it reads."""

from __future__ import annotations

import sys
import types

import numpy as np
import paddle
import pytest
from paddle import nn

from ppvision.errors import UserError
from ppvision.models import zoo
from ppvision.weights import load_weights, state_of, to_ours, to_theirs
from ppvision.weights.names import NAMES, Dialect, Names, names_of
from ppvision.weights.names.classes import COCO_CLASSES, COCO_IDS
from ppvision.weights.names.engine import below, convert, write
from tests.models.golden import fill

CASES = [
    (name, dialect)
    for name in zoo.list_models("*_debug")
    if (names := names_of(zoo.create_model(name))) is not None
    for dialect, spelling in names.dialects.items()
    if spelling.of and (name, dialect) != ("group_detr_v2_debug", "idea")  # which knows no pyramid of one map
]


@pytest.mark.parametrize("name, dialect", CASES, ids=lambda x: x)
def test_every_table_reads_what_it_writes(name, dialect):
    net, other = zoo.create_model(name), zoo.create_model(name)
    fill(net)
    theirs = to_theirs(net, dialect, state_of(net))
    report = load_weights(other, theirs)
    assert len(report.loaded) == len(net.state_dict()) and not report.training_only
    for key, value in state_of(net).items():
        np.testing.assert_array_equal(state_of(other)[key], value, err_msg=key)
    again = to_theirs(other, dialect, state_of(other))
    assert again.keys() == theirs.keys()
    for key, value in theirs.items():
        assert again[key].shape == value.shape and np.array_equal(again[key], value), key


def test_families_that_have_tables():
    assert {name.removesuffix("_debug") for name, _ in CASES} == {
        "cae_v2", "clip_vit", "dab_detr", "deformable_detr", "dino", "group_detr_v2", "resnet", "retinanet", "rtformer",
        "uhrnet", "vit_det",
    }  # fmt: skip
    assert len(CASES) == 23


class Net(nn.Layer):
    """Two linear layers of unequal sides, a batch norm and a packed projection."""

    def __init__(self, num_classes: int = 80):
        super().__init__()
        self.num_classes = num_classes
        self.first, self.head, self.norm = nn.Linear(4, 6), nn.Linear(4, num_classes), nn.BatchNorm1D(4)
        self.in_proj_weight = self.create_parameter([4, 12])
        self.table = self.create_parameter([num_classes, 4])


def one(rules, name: str) -> str:
    """Our name by the rules."""
    (ours,) = convert(Net(), Names(own=Dialect(rules=rules)), {name: np.zeros(1)}).network
    return ours


def back(rules, name: str) -> str:
    """Their name."""
    names = Names({"x": Dialect(of="x", rules=rules)})
    (theirs,) = write(Net(), names, names.dialects["x"], {name: np.zeros(1)}, {})
    return theirs


class TestRules:
    @pytest.mark.parametrize(
        ("rule", "theirs", "ours"),
        [
            (("a.{rest}", "b.{rest}"), "a.c.0.weight", "b.c.0.weight"),
            (("layers.{i}.ln_{n}.{leaf}", "blocks.{i}.norm{n}.{leaf}"), "layers.12.ln_2.bias", "blocks.12.norm2.bias"),
            (("layers.{i+1}.x", "blocks.{i}.x"), "layers.10.x", "blocks.9.x"),
            (("layers.{i*2}.x", "blocks.{i}.x"), "layers.6.x", "blocks.3.x"),
            (("res{s+1}.res{s+1}{b@a}.{c}", "layer{s}.{b}.{c}"), "res4.res4c.7", "layer3.2.7"),
            (("{p:left|right}.x", "{p}.y"), "right.x", "right.y"),
        ],
    )
    def test_both_directions(self, rule, theirs, ours):
        assert one((rule,), theirs) == ours and back((rule,), ours) == theirs

    @pytest.mark.parametrize(
        ("rule", "theirs"),
        [
            (("layers.{i+1}.x", "blocks.{i}.x"), "layers.0.x"),  # they count from 1
            (("layers.{i*2}.x", "blocks.{i}.x"), "layers.3.x"),
            (("layers.{i}.x", "blocks.{i}.x"), "layers.one.x"),
            (("res{s+1}.res{s+1}{b@a}.{c}", "layer{s}.{b}.{c}"), "res4.res3c.7"),
            (("{p:left|right}.x", "{p}.y"), "middle.x"),
            (("a.b", "c"), "a_b"),
        ],
    )
    def test_what_does_not_fit_keeps_its_name(self, rule, theirs):
        assert one((rule,), theirs) == theirs

    def test_the_first_that_fits_is_taken(self):
        rules = (("a.{i}.x", "first.{i}"), ("a.{rest}", "second.{rest}"), ("b.{rest}", "second.{rest}"))
        assert (one(rules, "a.3.x"), one(rules, "a.3.y")) == ("first.3", "second.3.y")
        assert back(rules, "second.3.y") == "a.3.y"
        with pytest.raises(UserError, match="'third' is no part of x"):
            back(rules, "third")

    def test_letters_end(self):
        rules = (("r{b@a}", "l.{b}"),)
        assert back(rules, "l.25") == "rz"
        with pytest.raises(UserError, match="no part"):
            back(rules, "l.26")

    def test_below(self):
        assert below("a.", (("b", "c"),), "d.") == (("a.b", "d.c"),)


RNG = np.random.default_rng(0)


class TestLayout:
    names = Names(
        {
            "torch": Dialect(
                of="t",
                pattern=r"t\..+",
                rules=(("t.{qkv}_proj.{leaf}", "in_proj_{leaf}"), ("t.{rest}", "{rest}")),
                training=(("m.{rest}", "{rest}"),),
                straight=r"head\.weight",
                flat="first.bias",
                torch=True,
            )
        },
        matrices="proj.weight",
    )
    file = {
        "t.q_proj.weight": RNG.random([4, 4]),
        "t.v_proj.weight": RNG.random([4, 4]),
        "t.k_proj.weight": RNG.random([4, 4]),
        "t.first.weight": RNG.random([6, 4]),
        "t.head.weight": RNG.random([4, 80]),
        "t.norm._mean": RNG.random([4]),
        "t.table": RNG.random([80, 4]),
        "m.proj.weight": RNG.random([5, 3]),
        "m.scale": RNG.random([5, 3]),
    }

    def test_matrices_are_turned_and_packed(self):
        found = convert(Net(), self.names, self.file)
        three = [self.file[f"t.{p}_proj.weight"].T for p in "qkv"]
        assert np.array_equal(found.network["in_proj_weight"], np.concatenate(three, axis=1))
        assert np.array_equal(found.network["first.weight"], self.file["t.first.weight"].T)
        for name in ("head.weight", "norm._mean", "table"):
            assert np.array_equal(found.network[name], self.file[f"t.{name}"])
        assert np.array_equal(found.training_only["proj.weight"], self.file["m.proj.weight"].T)
        assert np.array_equal(found.training_only["scale"], self.file["m.scale"])

    def test_and_back(self):
        found = convert(Net(), self.names, self.file)
        again = write(Net(), self.names, self.names.dialects["torch"], found.network, found.training_only)
        assert again.keys() == {k.replace("_mean", "running_mean") for k in self.file}
        for key, value in self.file.items():
            np.testing.assert_array_equal(again[key.replace("_mean", "running_mean")], value, err_msg=key)

    def test_an_incomplete_projection(self):
        file = {k: v for k, v in self.file.items() if "k_proj" not in k}
        with pytest.raises(UserError, match="'in_proj_weight': the file has no projection of k"):
            convert(Net(), self.names, file)

    def test_layout_is_told_by_a_matrix_where_the_names_do_not(self):
        names = Names(layout=r"first\.weight")
        wide, high = np.zeros([4, 6]), np.zeros([6, 4])
        assert convert(Net(), names, {"first.weight": high}).network["first.weight"].shape == (4, 6)
        assert convert(Net(), names, {"first.weight": wide}).network["first.weight"].shape == (4, 6)
        assert convert(Net(), names, {"first.weight": wide}, torch=True).network["first.weight"].shape == (6, 4)


class TestSeveralNames:
    names = Names(
        {"x": Dialect(of="x", rules=(("a.{i}", "a.{i}"),), also=(("twice.{i}", "a.{i}"),), hint=": do this")},
    )

    def test_are_read_as_one_and_written_again(self):
        dialect = self.names.dialects["x"]
        found = convert(Net(), Names(own=dialect), {"twice.0": np.ones(2), "a.0": np.ones(2), "twice.1": np.zeros(2)})
        assert {k: v.tolist() for k, v in found.network.items()} == {"a.0": [1, 1], "a.1": [0, 0]}
        assert found.ignored == ["twice.0"]
        assert list(write(Net(), self.names, dialect, {"a.0": np.ones(2)}, {})) == ["a.0", "twice.0"]

    def test_must_agree(self):
        file = {"twice.0": np.ones(2), "a.0": np.zeros(2)}
        with pytest.raises(UserError, match="'twice.0' differs from 'a.0', which are one here: do this"):
            convert(Net(), Names(own=self.names.dialects["x"]), file)


class TestClasses:
    def names(self, num_classes: int, cells: int = 1) -> Names:
        return Names(heads=r"head\..+", tables="table", num_classes=num_classes, cells=cells)

    @pytest.mark.parametrize(("count", "chosen"), [(91, COCO_IDS), (365, COCO_CLASSES)])
    def test_coco_takes_its_own(self, count, chosen):
        rows = np.arange(count, dtype="f4")
        file = {"head.weight": rows + np.zeros([4, 1], "f4"), "head.bias": rows, "table": rows[:, None] + np.zeros(4)}
        found = convert(Net(), self.names(80), file).network
        assert found["head.bias"].tolist() == list(chosen)
        assert found["head.weight"][3].tolist() == list(chosen) and found["table"][:, 1].tolist() == list(chosen)
        other = convert(Net(), self.names(7), file).network
        assert other["head.bias"].shape == (count,) and other["table"].shape == (count, 4)

    def test_every_cell_takes_them(self):
        rows = np.arange(3 * 91).reshape(273, 1, 1, 1)
        found = convert(Net(), self.names(80, cells=3), {"head.weight": rows}).network["head.weight"].flatten()
        assert found.tolist() == [91 * cell + i for cell in range(3) for i in COCO_IDS]

    @pytest.mark.parametrize(("count", "num_classes"), [(6, 5), (92, 80)])
    def test_a_row_for_padding_is_left_out(self, count, num_classes):
        table = np.arange(count, dtype="f4")[:, None]
        found = convert(Net(), self.names(num_classes), {"table": table}).network["table"][:, 0]
        assert found.tolist() == (list(range(5)) if num_classes == 5 else list(COCO_IDS))

    def test_a_padded_table_is_written_with_it(self):
        names = Names({"x": Dialect(of="x", rules=(("t", "table"),), padded=True)}, tables="table", num_classes=2)
        out = write(Net(2), names, names.dialects["x"], {"table": np.ones([2, 4])}, {})
        assert out["t"].tolist() == [[1] * 4, [1] * 4, [0] * 4]


class TestOtherPackages:
    """A network of one's own module: one entry of the table."""

    @pytest.fixture
    def module(self, monkeypatch):
        module = types.ModuleType("mynets_for_this_test")

        class Strip(nn.Layer):
            def __init__(self):
                super().__init__()
                self.stem, self.backbone = nn.Linear(2, 3), nn.Linear(2, 5)

        class Longer(Strip):
            pass

        Strip.__module__ = Longer.__module__ = module.__name__
        Strip.__qualname__ = "Strip"
        module.Strip, module.Longer = Strip, Longer
        module.names = lambda net: Names(
            {"theirs": Dialect(of="theirs", pattern="body.+", rules=(("body.{rest}", "{rest}"),), torch=True)},
            backbone="backbone",
            whole=r"(body|stem|backbone)\..+",
        )
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(NAMES, f"{module.__name__}:Strip", f"{module.__name__}:names")
        return module

    @pytest.mark.parametrize("kind", ["Strip", "Longer"])
    def test_an_entry_is_enough(self, module, kind):
        net, other = getattr(module, kind)(), getattr(module, kind)()
        theirs = to_theirs(net, "theirs", state_of(net))
        assert set(theirs) == {f"body.{k}" for k in net.state_dict()} and theirs["body.stem.weight"].shape == (3, 2)
        assert len(load_weights(other, theirs).loaded) == 4
        assert np.array_equal(other.stem.weight.numpy(), net.stem.weight.numpy())

    def test_a_bare_feature_extractor_goes_where_it_is(self, module):
        found = to_ours(module.Strip(), {"model.weight": np.ones([2, 5]), "fc.bias": np.ones(3)})
        assert list(found.network) == ["backbone.weight"] and found.ignored == ["fc.bias"]

    def test_a_network_without_entry_is_loaded_by_its_names(self):
        net = nn.Linear(2, 3)
        assert names_of(net) is None
        assert list(to_ours(net, {"weight": np.ones([2, 3])}).network) == ["weight"]
        with pytest.raises(UserError, match=r"Linear: no names 'x' \(there is: none\)"):
            to_theirs(net, "x", state_of(net))

    def test_an_unknown_dialect_is_answered_with_the_nearest(self):
        net = zoo.create_model("dino_debug")
        with pytest.raises(UserError, match="Dino: no names 'paddledetecton'; did you mean 'paddledetection'"):
            to_theirs(net, "paddledetecton", {})


def test_a_linear_layer_alone_is_turned(tmp_path):
    net = nn.Linear(2, 3)
    found = to_ours(net, {"weight": np.arange(6.0).reshape(3, 2)}, torch=True)
    assert found.network["weight"].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert paddle.to_tensor(found.network["weight"]).shape == net.weight.shape
