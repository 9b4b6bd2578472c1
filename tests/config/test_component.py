"""Components: names, schemas, nesting."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest

from ppvision.config import Component, Deferred, build, component, load, resolve
from ppvision.errors import UserError, require

if TYPE_CHECKING:
    from nowhere import Layer


class Level(TypedDict):
    level: str


class Own(Level, total=False):
    share: Annotated[float, 0]


class Loss:
    def __init__(self, scale: float = 1.0, weights: list[float] | None = None):
        self.scale, self.weights = scale, weights

    def forward(self): ...


class Method:
    components = {"loss": "loss", "extra": "loss"}

    def __init__(self, model: Layer, loss: Loss, extra: Any = (), size: tuple[int, int] = (1, 1), *, name: str = ""):
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
        extra = [{"type": "l", "weights": [1, 2]}, {"type": "l"}]
        built = build("method", method(extra=extra, size=[2, 3]), model="net")
        assert isinstance(built, Method) and built.model == "net" and built.size == (2, 3)
        assert isinstance(built.loss, Loss) and built.extra[0].weights == [1.0, 2.0]
        assert isinstance(built.extra[1], Loss)

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
        from ppvision import weights

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
        ({"extra": [{"scale": 1}]}, "config: 'method.extra.0.type' is missing"),
        ({"extra": ["l"]}, "config: 'method.extra.0' must be a mapping with 'type', got the text 'l'"),
        ({"loss": {"scale": 1}}, "config: 'method.loss.type' is missing"),
        ({"loss": "l"}, "config: 'method.loss' must be a mapping with 'type', got the text 'l'"),
        ({"loss": 3}, "config: 'method.loss' must be a mapping with 'type', got 3"),
        ({"loss": [{"type": "l"}]}, "config: 'method.loss' must be a mapping with 'type', got [{'type': 'l'}]"),
        ({"loss": None}, "config: 'method.loss' must be a mapping with 'type', got null"),
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


def test_a_key_that_is_no_word():
    assert error_of({"type": "open", "first": 1, 3: 4}, "loss") == "loss.3: unknown key 'loss.3'"


class Failing:
    def __init__(self, size: int = 3):
        raise {3: KeyError("size"), 4: TypeError("no\nsize"), 5: RuntimeError(), 6: UserError("mine")}[size]

    def forward(self): ...


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (3, "l.py:2: stand_in.Failing(size=3): KeyError: 'size'"),
        (4, "l.py:2: stand_in.Failing(size=4): TypeError: no size"),
        (5, "l.py:2: stand_in.Failing(size=5): RuntimeError"),
        (6, "l.py:2: mine"),
    ],
)
@pytest.mark.parametrize("kind", ["model", "loss"])
def test_a_constructor_of_another_package_may_raise_anything(kind, size, reason):
    sys.modules["stand_in"].Failing = Failing
    spec = Component({"type": "stand_in.Failing", "size": size}, kind, lambda path: "l.py:2")
    assert error_of(spec, kind) == reason


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(sys.modules["stand_in"].LOSSES, "failing", "stand_in:Failing")
    sys.modules["stand_in"].Failing = Failing
    with pytest.raises(KeyError):
        build("loss", {"type": "failing", "size": 3})


class Checked:
    def __init__(self, width: int = 3, inner: str = ""):
        require(not inner, inner, "must be even, got 3")

    def forward(self): ...


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ("width", "place of loss.width: 'loss.width' must be even, got 3"),
        ("width.0", "place of loss.width.0: 'loss.width.0' must be even, got 3"),
        ("depth", "place of loss: stand_in.Checked: 'depth' must be even, got 3"),  # of something built inside
    ],
)
def test_a_wrong_argument_is_named_by_its_key(inner, message):
    sys.modules["stand_in"].Checked = Checked
    spec = Component({"type": "stand_in.Checked", "inner": inner}, "loss", lambda path: f"place of {path}")
    assert error_of(spec, "loss") == message


class Heads:
    components = {"heads": Deferred("loss", given=("scale",), default="l", own=Own)}

    def __init__(self, heads: list = ()):
        self.heads = heads


class TestAPartThatIsBuiltByItsOwner:
    @pytest.fixture(autouse=True)
    def table(self, monkeypatch):
        sys.modules["stand_in"].Heads = Heads
        monkeypatch.setitem(sys.modules["stand_in"].METHODS, "heads", "stand_in:Heads")

    def spec(self, *heads):
        return Component({"type": "heads", "heads": list(heads)}, "method", lambda path: "x.yml:2")

    def test_is_handed_over_with_its_place(self):
        (head,) = build("method", self.spec({"level": "c3", "share": 1, "weights": [1]})).heads
        assert head["level"] == "c3" and head["share"] == 1.0 and head.type == "l" and head.path == "method.heads.0"
        assert build("loss", head, scale=2.0).scale == 2.0 and head.kwargs == {"weights": [1]}

    @pytest.mark.parametrize("make", [True, False])
    @pytest.mark.parametrize(
        ("head", "message"),
        [
            ({}, "x.yml:2: 'method.heads.0.level' is missing"),
            ({"level": 3}, "x.yml:2: 'method.heads.0.level' must be text, got 3"),
            ({"level": "a", "share": -1}, "x.yml:2: 'method.heads.0.share' must be a number >= 0, got -1"),
            ({"level": "a", "scale": 1.0}, "x.yml:2: unknown key 'method.heads.0.scale'"),
            ({"level": "a", "weigths": 1}, "x.yml:2: unknown key 'method.heads.0.weigths'; did you mean 'weights'?"),
            ({"level": "a", "type": "k"}, "x.yml:2: no loss 'k'"),
            ("a", "x.yml:2: 'method.heads.0' must be a mapping with 'type', got the text 'a'"),
        ],
    )
    def test_is_checked_before(self, head, message, make):
        with pytest.raises(UserError) as caught:
            component.arguments("method", self.spec(head), (), make=make)
        assert str(caught.value) == message

    def test_is_a_list_where_the_argument_is_one(self):
        spec = Component({"type": "heads", "heads": {"level": "a"}}, "method")
        assert error_of(spec) == "method.heads: 'method.heads' must be a list of mappings, got {'level': 'a'}"


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
