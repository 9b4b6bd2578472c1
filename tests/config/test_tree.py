"""YAML layers: positions, bases, merging, overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppvision.config import tree
from ppvision.errors import UserError


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.yml").write_text(text)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def error_of(path: str = "a.yml") -> str:
    with pytest.raises(UserError) as caught:
        tree.read(path)
    return str(caught.value)


class TestRead:
    def test_every_value_knows_its_line(self, tmp_path):
        write(tmp_path, a="train:\n  iters: 5\n  list:\n  - {x: 1}\n  -\n    y: 2\n")
        values, origins = tree.read("a.yml")
        assert values == {"train": {"iters": 5, "list": [{"x": 1}, {"y": 2}]}}
        assert origins["train"] == "a.yml:1" and origins["train.iters"] == "a.yml:2"
        assert origins["train.list.0.x"] == "a.yml:4" and origins["train.list.1.y"] == "a.yml:6"

    def test_bases_are_relative_and_later_ones_win(self, tmp_path):
        (tmp_path / "sub").mkdir()
        write(tmp_path, b1="train: {iters: 1, seed: 1}\n", b2="\ntrain: {iters: 2}\n")
        write(tmp_path / "sub", a="_base_: [../b1.yml, ../b2.yml]\ntrain: {amp: O1}\n")
        values, origins = tree.read("sub/a.yml")
        assert values == {"train": {"iters": 2, "seed": 1, "amp": "O1"}}
        assert (origins["train.iters"], origins["train.seed"]) == ("b2.yml:2", "b1.yml:1")
        assert origins["train.amp"] == "sub/a.yml:2"

    def test_a_base_may_have_a_base(self, tmp_path):
        write(tmp_path, a="_base_: b.yml\n", b="_base_: c.yml\n", c="log: {interval: 3}\n")
        assert tree.read("a.yml")[0] == {"log": {"interval": 3}}

    def test_two_bases_may_share_one(self, tmp_path):
        write(tmp_path, a="_base_: [b.yml, c.yml]\n", b="_base_: d.yml\n", c="_base_: d.yml\n", d="x: 1\n")
        assert tree.read("a.yml")[0] == {"x": 1}

    def test_a_cycle_is_refused(self, tmp_path):
        write(tmp_path, a="_base_: b.yml\n", b="train: {}\n_base_: a.yml\n")
        assert error_of() == "b.yml:2: 'a.yml' is its own _base_"

    def test_a_missing_base_names_its_place_and_the_nearest_file(self, tmp_path):
        write(tmp_path, a="_base_: cityscape.yml\n", cityscapes="x: 1\n")
        assert error_of() == "a.yml:1: no file 'cityscape.yml'; did you mean 'cityscapes.yml'?"

    def test_dates_and_words_that_yaml_calls_booleans(self, tmp_path):
        write(tmp_path, a="on: 2024-01-31\nm: {0: a, 1: b}\n")
        assert tree.read("a.yml")[0] == {"on": "2024-01-31", "m": {0: "a", 1: "b"}}

    def test_anchors_and_merge_keys(self, tmp_path):
        write(tmp_path, a="x: &x {p: 1, q: 2}\ny: {<<: *x, q: 3}\n")
        assert tree.read("a.yml")[0]["y"] == {"p": 1, "q": 3}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: 1\nb: 2\na: 3\n", "a.yml:3: duplicate key 'a'"),
            ("train:\n  iters: 1\n  iters: 2\n", "a.yml:3: duplicate key 'train.iters'"),
            (
                "optimizer:\n  lr: 4e-4\n",
                "a.yml:2: 'optimizer.lr': YAML reads 4e-4 as text; write 4.0e-4 (or quote it if text is meant)",
            ),
            ("a: 1.5e3\n", "a.yml:1: 'a': YAML reads 1.5e3 as text; write 1.5e+3 (or quote it if text is meant)"),
            ("a: [1, 2\n", "a.yml:2: not valid YAML: expected ',' or ']', but got '<stream end>'"),
            ("a: !!python/object/apply:os.system ['true']\n", "a.yml:1: tag tag:yaml.org,2002:python/"),
            ("a: !Special 3\n", "a.yml:1: cannot read '3' as !Special"),
            ("a: &x [*x]\n", "a.yml:1: 'a.0' contains itself"),
            ("{[1]: 2}\n", "a.yml:1: a key must be a word or a number"),
            ("- 1\n", "a.yml:1: a recipe is a mapping of sections"),
            ("", "'a.yml' is empty; a recipe is a mapping of sections"),
            ("# nothing\n---\n", "'a.yml' is empty"),
            ("a: !!binary aGVsbG8=\n", "a.yml:1: values of type tag:yaml.org,2002:binary are not supported"),
            ("a: 1\n---\nb: 2\n", "a.yml:2: not valid YAML"),
            ("_base_: {a: 1}\n", "a.yml:1: '_base_' must be a file name or a list of file names"),
            (
                "batch_size: 4\ntrain_dataset:\n  type: Cityscapes\n",
                "a.yml:2: this is a PaddleSeg or Paddle3D file ('train_dataset:'), not a ppvision recipe; "
                "see docs/migration.md",
            ),
            ("architecture: YOLO\nx: !LinearWarmup {}\n", "a.yml:1: this is a PaddleDetection file ('architecture:')"),
            ("Arch:\n  name: ResNet50\n", "a.yml:1: this is a PaddleClas file ('Arch:')"),
        ],
    )
    def test_faults_are_one_line_with_file_and_line(self, tmp_path, text, message):
        write(tmp_path, a=text)
        found = error_of()
        assert found.startswith(message) and "\n" not in found

    def test_files_that_are_no_text(self, tmp_path):
        (tmp_path / "a.yml").write_bytes(b"\xff\xfe\x00")
        assert error_of() == "'a.yml' is not UTF-8 text"
        (tmp_path / "d.yml").mkdir()
        assert error_of("d.yml") == "cannot read 'd.yml': Is a directory"

    def test_aliases_that_explode_are_refused(self, tmp_path):
        lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 9)]
        write(tmp_path, a="\n".join(lines))
        assert "more than 100000 values" in error_of()

    def test_depth_is_limited(self, tmp_path):
        write(tmp_path, a="a: " + "[" * 5000)
        assert error_of() == "a.yml:1: nested too deeply"


class TestMerge:
    def test_mappings_merge_and_lists_are_replaced(self):
        base, child = {"a": {"x": 1, "y": [1, 2]}}, {"a": {"y": [3]}}
        assert tree.merge(base, child) == {"a": {"x": 1, "y": [3]}}
        assert base == {"a": {"x": 1, "y": [1, 2]}}

    @pytest.mark.parametrize(
        ("base", "child", "result"),
        [
            ({"type": "a", "x": 1}, {"type": "b", "y": 2}, {"type": "b", "y": 2}),
            ({"type": "a", "x": 1}, {"type": "a", "y": 2}, {"type": "a", "x": 1, "y": 2}),
            ({"type": "a", "x": 1}, {"y": 2}, {"type": "a", "x": 1, "y": 2}),
            ({"x": 1}, {"type": "b", "y": 2}, {"x": 1, "type": "b", "y": 2}),
        ],
    )
    def test_another_type_replaces_the_component(self, base, child, result):
        assert tree.merge({"method": {"loss": base}}, {"method": {"loss": child}}) == {"method": {"loss": result}}

    def test_the_type_of_data_is_a_default_only(self):
        base = {"data": {"type": "cityscapes", "workers": 4}}
        assert tree.merge(base, {"data": {"type": "ade20k"}})["data"] == {"type": "ade20k", "workers": 4}

    def test_the_length_of_a_run_is_counted_one_way(self):
        base = {"train": {"iters": 10, "seed": 1}}
        assert tree.merge(base, {"train": {"epochs": 3}}) == {"train": {"seed": 1, "epochs": 3}}
        assert tree.merge(base, {"train": {"epochs": None}}) == {"train": {"iters": 10, "seed": 1, "epochs": None}}


class TestApply:
    VALUES = {
        "data": {"train": {"transforms": [{"type": "A", "s": 1}, {"type": "B"}]}},
        "optimizer": {"lr_mult": {"spp.*": 10}},
        "model": {"type": "m", "width": 3},
        "train": {"iters": 5},
    }

    def applied(self, *overrides: str) -> dict:
        return tree.apply(self.VALUES, {}, overrides)[0]

    def test_values_are_yaml(self):
        values = self.applied(
            "x.i=1", "x.f=4e-4", "x.b=true", "x.n=null", "x.e=", "x.l=[1, {a: b}]", "x.s='1'", "x.t=a=b"
        )
        expected = {"i": 1, "f": 4e-4, "b": True, "n": None, "e": None, "l": [1, {"a": "b"}], "s": "1", "t": "a=b"}
        assert values["x"] == expected

    def test_a_list_is_addressed_by_index(self):
        values = self.applied("data.train.transforms.0.s=2", "data.train.transforms.1=A")
        assert values["data"]["train"]["transforms"] == [{"type": "A", "s": 2}, "A"]
        assert self.VALUES["data"]["train"]["transforms"][0]["s"] == 1

    def test_a_key_may_contain_dots(self):
        assert self.applied("optimizer.lr_mult.spp.*=5")["optimizer"] == {"lr_mult": {"spp.*": 5}}

    def test_the_type_alone_keeps_the_arguments_a_mapping_does_not(self):
        assert self.applied("model.type=n")["model"] == {"type": "n", "width": 3}
        assert self.applied("model={type: n}")["model"] == {"type": "n"}

    def test_the_later_wins(self):
        assert self.applied("train.iters=6", "train.iters=7")["train"] == {"iters": 7}

    def test_origins_are_what_was_typed(self):
        _, origins = tree.apply(self.VALUES, {"train.iters": "a.yml:1"}, ["train.iters=6", "eval.slide={crop: [1, 2]}"])
        assert origins["train.iters"] == "-o train.iters=6"
        assert origins["eval.slide.crop.0"] == "-o eval.slide={crop: [1, 2]}"

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("train.iters", "-o expects key=value, got 'train.iters'"),
            ("=3", "-o expects key=value, got '=3'"),
            ("a..b=3", "-o expects key=value, got 'a..b=3'"),
            ("train.iters.x=3", "-o train.iters.x=3: 'train.iters' is a single value, it has no 'x'"),
            (
                "data.train.transforms.2.s=3",
                "-o data.train.transforms.2.s=3: 'data.train.transforms' has 2 items, counted from 0",
            ),
            ("data.train.transforms.s=3", "-o data.train.transforms.s=3: 'data.train.transforms' has 2 items, counted"),
            ("a=[1", "-o a=[1: not valid YAML: "),
            ("a={b: 1, b: 2}", "-o a={b: 1, b: 2}: duplicate key 'b'"),
        ],
    )
    def test_faults(self, override, message):
        with pytest.raises(UserError) as caught:
            self.applied(override)
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "hint"),
    [("4e-4", "; write 4.0e-4"), ("1E5", "; write 1.0e+5"), ("-2.5e3", "; write -2.5e+3"), ("e4", ""), ("1.0", "")],
)
def test_float_hint(text, hint):
    assert tree.float_hint(text) == hint
