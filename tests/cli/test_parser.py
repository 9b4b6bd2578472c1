"""The grammar of the command line."""

from __future__ import annotations

import pytest

from ppvision.cli.parser import Flag, Override, help_text, parse_args, recipe_overrides
from ppvision.errors import UserError

TABLE = [
    Flag("--config -c", help="recipe", required=True),
    Flag("--opts -o", "overrides", "change"),
    Flag("--batch_size", int, "samples", "train.batch_size", opts="TrainReader.batch_size"),
    Flag("--rate", float, "rate", "optimizer.lr"),
    Flag("--do_eval --eval", bool, "evaluate", "eval.enabled"),
    Flag("--shape", [int], "sides", "export.input_shape"),
    Flag("--resume -r", help="continue", key="train.resume", optional="auto"),
    Flag("--level", help="level", choices=("O1", "O2"), key="train.amp"),
    Flag("--old", refuse="use --new"),
    Flag("--double", int, "twice", to=lambda v, parsed, recipe: {"x.y": 2 * v}),
]


def overrides(*argv: str) -> dict:
    parsed = parse_args("train", TABLE, ["-c", "x.yml", *argv])
    return {o.key: o.value for o in recipe_overrides(parsed)}


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--batch_size", "4"], {"train.batch_size": 4}),
        (["--batch_size=4"], {"train.batch_size": 4}),
        (["--batch-size=4"], {"train.batch_size": 4}),
        (["--batch_size=2", "--batch-size", "4"], {"train.batch_size": 4}),
        (["--rate", "4e-4"], {"optimizer.lr": 4e-4}),
        (["--rate", "-1"], {"optimizer.lr": -1.0}),
        (["--do_eval"], {"eval.enabled": True}),
        (["--do_eval", "--rate=1"], {"eval.enabled": True, "optimizer.lr": 1.0}),
        (["--eval", "False"], {"eval.enabled": False}),
        (["--do-eval=yes"], {"eval.enabled": True}),
        (["--eval", "off", "--do_eval"], {"eval.enabled": True}),
        (["--shape", "1", "3", "-1", "-1", "--rate=1"], {"export.input_shape": [1, 3, -1, -1], "optimizer.lr": 1.0}),
        (["--shape=1,3,64,96"], {"export.input_shape": [1, 3, 64, 96]}),
        (["--shape=[1, 3]"], {"export.input_shape": [1, 3]}),
        (["--resume"], {"train.resume": "auto"}),
        (["-r", "--do_eval"], {"train.resume": "auto", "eval.enabled": True}),
        (["-r", "out/iter_5"], {"train.resume": "out/iter_5"}),
        (["--resume='out dir'"], {"train.resume": "out dir"}),
        (["--level=O2"], {"train.amp": "O2"}),
        (["--double", "4"], {"x.y": 8}),
        (["-o", "a.b=1", "a.c=[1, 2]", "--rate=1"], {"a.b": 1, "a.c": [1, 2], "optimizer.lr": 1.0}),
        (["-o", "a.b=1", "-o", "a.b=2"], {"a.b": 2}),
        (["--opts=a.b=1=2"], {"a.b": "1=2"}),
        (["-o", "TrainReader.batch_size=4"], {"train.batch_size": 4}),
        (["-o", "train.batch_size=2", "--batch_size=4"], {"train.batch_size": 4}),
        (["--batch_size=4", "-o", "train.batch_size=2"], {"train.batch_size": 2}),
        (["--batch_size=4", "-o", "train.batch_size=2", "--batch_size=5"], {"train.batch_size": 5}),
    ],
)
def test_accepts(argv, expected):
    assert overrides(*argv) == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batchsize=4"], "train: unknown flag '--batchsize'; did you mean '--batch_size'?"),
        (["--batch=4"], "train: unknown flag '--batch'; did you mean '--batch_size'?"),
        (["--batch_size"], "--batch_size needs a value"),
        (["--batch_size", "--rate"], "--batch_size needs a value"),
        (["--batch_size=four"], "--batch_size must be an integer, got 'four'"),
        (["--rate", "fast"], "--rate must be a number, got 'fast'"),
        (["--do_eval=maybe"], "--do_eval must be true or false, got 'maybe'"),
        (["--shape"], "--shape needs a value"),
        (["--level", "O3"], "--level must be one of O1, O2, got 'O3'"),
        (["--old", "x"], "--old is not supported: use --new"),
        (["-o"], "-o expects key=value"),
        (["-o", "x"], "-o expects key=value, got 'x'"),
        (["-o", "TrainReader.batch_size=x"], "-o TrainReader.batch_size=x: must be an integer, got 'x'"),
        (["stray"], "train: unexpected 'stray'; flags start with -- (ppvision train --help)"),
    ],
)
def test_refuses(argv, message):
    with pytest.raises(UserError) as caught:
        overrides(*argv)
    assert str(caught.value) == message


def test_a_required_flag():
    with pytest.raises(UserError, match=r"train: --config is missing \(ppvision train --help\)"):
        parse_args("train", TABLE, [])


def test_positional_arguments():
    table = [Flag("action"), Flag("files", [str]), Flag("--quiet", bool)]
    parsed = parse_args("config", table, ["diff", "a.yml", "--quiet", "b.yml"])
    assert (parsed.action, parsed.files, parsed.quiet) == ("diff", ["a.yml", "b.yml"], True)


def test_origins_are_what_was_typed():
    parsed = parse_args("train", TABLE, ["-c", "x.yml", "--batch-size", "4", "-o", "a.b=1"])
    first = Override("train.batch_size", 4, "--batch-size 4")
    assert recipe_overrides(parsed) == [first, Override("a.b", 1, "-o a.b=1")]


def test_help_lists_what_has_a_help():
    text = help_text("train", "About.", TABLE)
    assert text.startswith("usage: ppvision train -c CONFIG [flags]\n\nAbout.\n")
    assert "--do_eval, --eval" in text and "--resume, -r [RESUME]" in text and "(-o TrainReader.batch_size)" in text
    assert "--old" not in text and max(map(len, text.splitlines())) <= 120
