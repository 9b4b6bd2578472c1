"""Components: names, schemas, nesting."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING

import pytest

from ppvision.config import Component, build, component, load, resolve
from ppvision.errors import UserError

if TYPE_CHECKING:
    from nowhere import Layer


class Loss:
    def __init__(self, scale: float = 1.0, weights: list[float] | None = None):
        self.scale, self.weights = scale, weights

    def forward(self): ...


class Method:
    components = {"loss": "loss", "extra": "loss"}

    def __init__(self, model: Layer, loss: Loss, extra: tuple = (), size: tuple[int, int] = (1, 1), *, name: str = ""):
        self.model, self.loss, self.extra, self.size, self.name = model, loss, extra, size, name


class Open:
    def __init__(self, first: int, **rest: int):
        self.first, self.rest = first, rest

    def forward(self): ...


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("stand_in")
    module.Method, module.Loss, module.Open = Method, Loss, Open
    module.METHODS, module.LOSSES = {"m": "stand_in:Method"}, {"l": "stand_in:Loss", "open": "stand_in:Open"}
    monkeypatch.setitem(sys.modules, "stand_in", module)
    monkeypatch.setitem(component.TABLES, "method", ("stand_in", "METHODS"))
    monkeypatch.setitem(component.TABLES, "loss", ("stand_in", "LOSSES"))


def method(**changes: object) -> Component:
    return load({"method": {"type": "m", "loss": {"type": "l"}, **changes}}).method


def error_of(spec: Component | dict, kind: str = "method", **given: object) -> str:
    with pytest.raises(UserError) as caught:
        build(kind, spec, **given)
    return str(caught.value)


class TestBuild:
    def test_nested_components_are_built_first(self):
        extra = [{"type": "l", "weights": [1, 2]}, {"no": "component"}]
        built = build("method", method(extra=extra, size=[2, 3]), model="net")
        assert isinstance(built, Method) and built.model == "net" and built.size == (2, 3)
        assert isinstance(built.loss, Loss) and built.extra[0].weights == [1.0, 2.0]
        assert built.extra[1] == {"no": "component"}

    def test_a_plain_mapping_is_a_component_too(self):
        assert build("loss", {"type": "l", "scale": 2}).scale == 2.0

    def test_a_dotted_path(self):
        assert isinstance(build("loss", {"type": "stand_in.Loss"}), Loss)

    def test_a_class_that_takes_anything(self):
        assert build("loss", {"type": "open", "first": 1, "other": 2}).rest == {"other": 2}

    def test_a_model_of_the_zoo_is_checked_against_its_class(self):
        message = error_of({"type": "rtformer_debug", "num_clases": 3}, "model")
        assert message == "model.num_clases: unknown key 'model.num_clases'; did you mean 'num_classes'?"

    def test_a_teacher_gets_its_weights(self, monkeypatch):
        from ppvision.models import weights

        loaded = []
        monkeypatch.setattr(weights, "load_weights", lambda layer, path: loaded.append((layer, path)))
        monkeypatch.setitem(Method.components, "extra", "model")
        monkeypatch.setitem(component.TABLES, "model", ("stand_in", "LOSSES"))
        built = build("method", method(extra={"type": "stand_in.Open", "first": 1, "weights": "t.pdparams"}), model=1)
        assert loaded == [(built.extra, "t.pdparams")] and built.extra.rest == {}
        assert built.extra.weights_source == "t.pdparams"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"siez": [1, 2]}, "config: unknown key 'method.siez'; did you mean 'size'?"),
        ({"size": [1]}, "config: 'method.size' must be a list of 2 (an integer each), got [1]"),
        ({"loss": {"type": "k"}}, "config: no loss 'k'"),
        ({"loss": {"type": "l", "scael": 1}}, "config: unknown key 'method.loss.scael'; did you mean 'scale'?"),
        ({"extra": [{"type": "l", "scale": "x"}]}, "config: 'method.extra.0.scale' must be a number, got the text 'x'"),
        ({"model": 3}, "config: unknown key 'method.model'"),
        ({"type": "supervised"}, "config: no method 'supervised'"),
    ],
)
def test_mistakes(spec, message):
    assert error_of(method(**spec), model="net") == message


def test_a_missing_argument():
    message = error_of(load({"method": {"type": "m"}}).method, model="net")
    assert message == "config: 'method.loss' is missing, m needs it"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.Thing", "no loss 'nowhere.Thing': No module named 'nowhere'"),
        ("stand_in.Los", "no loss 'stand_in.Los': module 'stand_in' has no 'Los'; did you mean 'Loss'?"),
        (".Loss", "no loss '.Loss': Empty module name"),
    ],
)
def test_a_wrong_dotted_path(name, message):
    with pytest.raises(UserError) as caught:
        resolve("loss", name)
    assert str(caught.value) == message


def test_a_component_without_type():
    assert error_of({"scale": 1}, "loss") == "loss: 'loss.type' is missing"


def test_components_are_mappings():
    found = Component({"type": "l", "scale": 2}, "loss")
    assert dict(found) == {"type": "l", "scale": 2} and found.get("nothing") is None and found.kwargs == {"scale": 2}


@pytest.mark.parametrize(
    "path", ["os.system", "subprocess.Popen", "builtins.print", "shutil.rmtree", "numpy.save", "stand_in.Method"]
)
@pytest.mark.parametrize("kind", ["model", "loss", "transform", "dataset"])
def test_a_dotted_path_is_no_way_to_call_anything(kind, path):
    """A recipe names components: what is not one is refused before it is called."""
    with pytest.raises(UserError, match=f"no {kind} '{path}'"):
        component.resolve(kind, path)
