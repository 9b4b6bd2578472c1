"""Spellings that change no key of the recipe: weights of eval, export and predict, thresholds, the deploy dialects."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppvision.cli import recipe
from ppvision.cli.infer import INFER
from ppvision.cli.parser import parse_args
from ppvision.cli.tables import VERBS

RECIPE = """\
model: {type: rtformer_debug, num_classes: 19}
data: {type: seg_list, root: data, train: {split: train}, val: {split: val}}
optimizer: {type: adamw, lr: 1.0e-3}
train: {iters: 20}
"""


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yml").write_text(RECIPE)
    Path("w").mkdir()
    for name in ("w/model.pdparams", "w.pdparams"):
        Path(name).touch()


@pytest.mark.parametrize("verb", ["eval", "export", "predict"])
@pytest.mark.parametrize(
    ("words", "file"),
    [
        ("--model_path w.pdparams", "w.pdparams"),
        ("--model_path=w", "w.pdparams"),
        ("--model_path=w/", "w/model.pdparams"),
        ("--model-path w/model", "w/model.pdparams"),
        ("--model w/model.pdparams", "w/model.pdparams"),
        ("--weights w/model.pdparams", "w/model.pdparams"),
        ("-o weights=w/model", "w/model.pdparams"),
        ("-o pretrain_weights=w/model", "w/model.pdparams"),
        ("-o Global.pretrained_model=w/model", "w/model.pdparams"),
        ("--model_path nothing --model_path=w.pdparams", "w.pdparams"),
    ],
)
def test_weights(verb, words, file):
    parsed = parse_args(verb, VERBS[verb], ["-c", "x.yml", *words.split()])
    assert recipe.weights_of(parsed) == file


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("--draw_threshold 0.3 --save_threshold=0.1", {"draw_threshold": 0.3, "save_threshold": 0.1}),
        ("--visualize False --save_results True", {"visualize": False, "save_results": True}),
    ],
)
def test_drawing(words, values):
    assert parse_args("predict", VERBS["predict"], ["-c", "x.yml", *words.split()]).values.items() >= values.items()


DEPLOY = [  # PaddleSeg, PaddleDetection, PaddleClas: one meaning per row
    (("--config D", "-c=D", "--model_dir D", "-o Global.inference_model_dir=D"), {"config": "D"}),
    (("--image_path I", "--image_file I", "--image_dir=I", "-o Global.infer_imgs=I"), {"image_path": "I"}),
    (("--save_dir R", "--output_dir=R"), {"save_dir": "R"}),
    (("--device CPU", "--device=CPU"), {"device": "CPU"}),
    (("--use_gpu False", "-o Global.use_gpu=False"), {"use_gpu": False}),
    (("--use_trt True", "--use_tensorrt=1", "-o Global.use_tensorrt=yes"), {"use_trt": True}),
    (("--use_fp16", "-o Global.use_fp16=True"), {"use_fp16": True}),
    (("--enable_mkldnn False", "-o Global.enable_mkldnn=false"), {"enable_mkldnn": False}),
    (("--cpu_threads 6", "-o Global.cpu_num_threads=6"), {"cpu_threads": 6}),
    (("--batch_size=4", "-o Global.batch_size=4"), {"batch_size": 4}),
    (("--benchmark True", "--run_benchmark True", "-o Global.benchmark=True"), {"benchmark": True}),
    (("--enable_auto_tune True", "--collect_trt_shape_info"), {"enable_auto_tune": True}),
    (("--auto_tuned_shape_file F", "--tuned_trt_shape_file=F"), {"auto_tuned_shape_file": "F"}),
    (("--precision int8",), {"precision": "int8"}),
    (("--run_mode trt_fp16",), {"run_mode": "trt_fp16"}),
    (("--min_subgraph_size 5",), {"min_subgraph_size": 5}),
    (("--threshold 0.5",), {"threshold": 0.5}),
    (("--save_images false", "--visualize=false"), {"save_images": False}),
]


@pytest.mark.parametrize(("words", "values"), [(w, v) for spellings, v in DEPLOY for w in spellings])
def test_deploy_dialects(words, values):
    required = ["--config=other", "--image_path=other"]
    parsed = parse_args("infer", INFER, [*required, *words.split()])
    assert {key: parsed.values[key] for key in values} == values
