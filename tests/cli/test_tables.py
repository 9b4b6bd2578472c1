"""Every spelling that the Paddle suites use: what it does to the resolved recipe, or which one-line error it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ppvision.cli import main, recipe
from ppvision.cli.parser import help_text, parse_args
from ppvision.cli.tables import VERBS
from ppvision.config import load

RECIPE = """\
model: {type: rtformer_debug, num_classes: 19}
data: {type: seg_list, root: data, train: {split: train}, val: {split: val}}
optimizer: {type: adamw, lr: 1.0e-3}
train: {iters: 20}
eval: {metrics: [mIoU]}
"""


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yml").write_text(RECIPE)
    Path("w").mkdir()
    for name in ("w/model.pdparams", "w.pdparams"):
        Path(name).touch()


def leaf(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else value[int(step)]
    return value


def resolved(verb: str, *argv: str) -> dict[str, Any]:
    return recipe.resolved(parse_args(verb, VERBS[verb], ["--config", "x.yml", *argv])).to_dict()


ALL = ("train", "eval", "export", "predict")
BOTH = ("eval", "predict")
AMP = {"train.amp": "O1", "train.amp_dtype": "float16"}
SLIDE = {"eval.slide": {"crop": [512, 1024], "stride": [256, 768]}}
ROWS: list[tuple[tuple[str, ...], str, dict[str, Any]]] = [
    (ALL, "--opts train.seed=3 log.interval=7", {"train.seed": 3, "log.interval": 7}),
    (ALL, "-o train.seed=3 -o log.interval=7", {"train.seed": 3, "log.interval": 7}),
    (ALL, "--opt train.seed=3 --override log.interval=7", {"train.seed": 3, "log.interval": 7}),
    (ALL, "--device cpu", {"train.device": "cpu"}),
    (ALL, "--device GPU", {"train.device": "gpu"}),
    (ALL, "--device gpu --device=cpu", {"train.device": "cpu"}),
    (ALL, "-o use_gpu=False", {"train.device": "cpu"}),
    (ALL, "-o use_gpu=true", {"train.device": "gpu"}),
    (ALL, "-o Global.device=cpu", {"train.device": "cpu"}),
    (("train",), "--model_path w.pdparams", {"model.weights": "w.pdparams"}),
    (("train",), "--model w/model.pdparams", {"model.weights": "w/model.pdparams"}),
    (("train",), "--model_path=w/", {"model.weights": "w/model.pdparams"}),
    (("train",), "-o weights=w/model", {"model.weights": "w/model.pdparams"}),
    (("train",), "-o pretrain_weights=w", {"model.weights": "w.pdparams"}),
    (("train",), "-o Global.pretrained_model=w/model", {"model.weights": "w/model.pdparams"}),
    (("train",), "--resume_model w", {"train.resume": "w"}),
    (("train",), "--resume_model w/", {"train.resume": "w"}),
    (("train",), "-r out/iter_20/model", {"train.resume": "out/iter_20"}),
    (("train",), "-r out/iter_20/model.pdparams", {"train.resume": "out/iter_20"}),
    (("train",), "--resume out/iter_20", {"train.resume": "out/iter_20"}),
    (("train",), "--resume out/iter_20.pdparams", {"train.resume": "out/iter_20"}),
    (("train",), "-o Global.checkpoints=out/latest", {"train.resume": "out/latest"}),
    (("train",), "--resume", {"train.resume": "auto"}),
    (("train",), "-r --iters 5", {"train.resume": "auto", "train.iters": 5}),
    (("train",), "--resume auto", {"train.resume": "auto"}),
    (("train",), "--resume false", {"train.resume": None}),
    (("train",), "--iters=7", {"train.iters": 7, "train.epochs": None}),
    (("train",), "-o iters=7", {"train.iters": 7}),
    (("train",), "--epochs 7", {"train.epochs": 7, "train.iters": None}),
    (("train",), "-o epoch=7", {"train.epochs": 7, "train.iters": None}),
    (("train",), "-o Global.epochs=7", {"train.epochs": 7, "train.iters": None}),
    (("train",), "--batch_size 4", {"train.batch_size": 4, "eval.batch_size": 1}),
    (("train",), "-o batch_size=4", {"train.batch_size": 4}),
    (("train", "eval"), "-o TrainReader.batch_size=4", {"train.batch_size": 4, "eval.batch_size": 1}),
    (("train", "eval"), "-o EvalReader.batch_size=4", {"eval.batch_size": 4}),
    (("train", "eval"), "-o DataLoader.Train.sampler.batch_size=4", {"train.batch_size": 4}),
    (("eval",), "--batch_size=4", {"eval.batch_size": 4}),
    (("eval",), "-o batch_size=4", {"eval.batch_size": 4}),
    (("train",), "--learning_rate 4e-4", {"optimizer.lr": 4e-4}),
    (("train",), "-o LearningRate.base_lr=4e-4", {"optimizer.lr": 4e-4}),
    (("train",), "-o Optimizer.lr.learning_rate=0.1", {"optimizer.lr": 0.1}),
    (("train",), "--save_dir out", {"train.save_dir": "out"}),
    (("train",), "-o save_dir=out", {"train.save_dir": "out"}),
    (("train",), "-o Global.output_dir=out", {"train.save_dir": "out"}),
    (("train",), "--save_interval 5", {"train.save_interval": 5}),
    (("train",), "-o snapshot_epoch=5", {"train.save_interval": 5}),
    (("train",), "-o Global.save_interval=5", {"train.save_interval": 5}),
    (("train",), "--log_iters 5", {"log.interval": 5}),
    (("train",), "--log_interval=5", {"log.interval": 5}),
    (("train",), "-o log_iter=5", {"log.interval": 5}),
    (("train",), "-o Global.print_batch_step=5", {"log.interval": 5}),
    (("train",), "--do_eval", {"eval.enabled": True}),
    (("train",), "--eval", {"eval.enabled": True}),
    (("train",), "--do_eval False", {"eval.enabled": False}),
    (("train",), "-o Global.eval_during_train=False", {"eval.enabled": False}),
    (("train",), "--keep_checkpoint_max 2", {"train.keep": 2}),
    (("train",), "--early_stop_intervals 2", {"train.early_stop": 2}),
    (("train",), "--seed 9", {"train.seed": 9}),
    (("train",), "-o Global.seed=9", {"train.seed": 9}),
    (("train",), "--num_workers 0", {"data.workers": 0}),
    (("train",), "-o worker_num=3", {"data.workers": 3}),
    (("eval",), "--num_workers 0", {"eval.workers": 0}),
    (("eval",), "-o worker_num=3", {"eval.workers": 3}),
    (("train", "eval"), "-o DataLoader.Train.loader.num_workers=3", {"data.workers": 3}),
    (("train",), "--precision fp32", {"train.amp": "O0"}),
    (("train",), "--precision fp16", AMP),
    (("train",), "--precision=bf16", {"train.amp": "O1", "train.amp_dtype": "bfloat16"}),
    (("train",), "--amp", AMP),
    (("train",), "-o AMP.use_amp=True", AMP),
    (("train",), "-o AMP.use_amp=False", {"train.amp": "O0"}),
    (("train",), "--precision=fp16 --amp_level=O2", {**AMP, "train.amp": "O2"}),
    (("train",), "--amp -o amp_level=O2", {**AMP, "train.amp": "O2"}),
    (("train",), "--amp -o AMP.level=O2", {**AMP, "train.amp": "O2"}),
    (("train",), "--precision=fp32 --amp_level O2", {"train.amp": "O0"}),
    (("train",), "--amp_level O2", {"train.amp": "O2"}),
    (("train",), "-o train.amp=O2 --precision fp16", {**AMP, "train.amp": "O2"}),
    (("train",), "--use_vdl", {"log.vdl": True}),
    (("train",), "--use_vdl false --vdl_log_dir D", {"log.vdl": False, "log.dir": "D"}),
    (("train",), "-o Global.use_visualdl=True", {"log.vdl": True}),
    (("train",), "--use_ema", {"train.ema": 0.9998}),
    (("train",), "-o use_ema=True", {"train.ema": 0.9998}),
    (("train",), "-o train.ema=0.99 --use_ema", {"train.ema": 0.99}),
    (("train",), "-o use_ema=False", {"train.ema": None}),
    (("train",), "-o EMA.decay=0.9", {"train.ema": 0.9}),
    (("train",), "--to_static_training True", {"train.to_static": True}),
    (("train",), "--opts to_static_training=True", {"train.to_static": True}),
    (("train",), "--to_static", {"train.to_static": True}),
    (("train",), "-o Global.to_static=True", {"train.to_static": True}),
    (("train",), "--profiler_options=batch_range=[1,2];state=CPU", {"train.profiler": "batch_range=[1,2];state=CPU"}),
    (("train",), "--profiler_options='batch_range=[1,2]'", {"train.profiler": "batch_range=[1,2]"}),
    (("train",), "-p batch_range=[1,2]", {"train.profiler": "batch_range=[1,2]"}),
    (("train",), "--repeats 500", {"train.repeats": 500}),
    (("train",), "--fleet", {}),
    (("train",), "--overwrite", {"train.overwrite": True}),
    (ALL, "--data_format NCHW", {}),
    (("eval",), "--aug_eval --scales 0.5 1.0 --flip_horizontal", {"eval.scales": [0.5, 1.0], "eval.flip": True}),
    (("predict",), "--aug_pred --scales 0.5 --flip_vertical", {"eval.scales": [0.5], "eval.flip_vertical": True}),
    (BOTH, "-o eval.flip=true eval.scales=[2.0] --aug_eval False", {"eval.flip": False, "eval.scales": [1.0]}),
    (BOTH, "--is_slide --crop_size 1024 512 --stride 768 256", SLIDE),
    (BOTH, "--crop_size=1024,512 --stride=768,256", SLIDE),
    (BOTH, "--is_slide --crop_size 64 32", {"eval.slide": {"crop": [32, 64], "stride": [32, 64]}}),
    (BOTH, "--slice_infer --slice_size 640 320 --overlap_ratio 0.25 0.5", {"eval.slide.stride": [480, 160]}),
    (BOTH, "-o eval.slide={crop:[8,8],stride:[8,8]} --is_slide false", {"eval.slide": None}),
    (("eval",), "--classwise --output_eval D", {}),
    (("export",), "--input_shape 1 3 512 1024 --model_path=w", {"export.input_shape": [1, 3, 512, 1024]}),
    (("export",), "--input_shape -1 3 -1 -1", {"export.input_shape": [-1, 3, -1, -1]}),
    (("export",), "-o TestReader.inputs_def.image_shape=[3,640,640]", {"export.input_shape": [-1, 3, 640, 640]}),
    (("export",), "-o Global.image_shape=[3,224,224]", {"export.input_shape": [-1, 3, 224, 224]}),
    (("export",), "--output_op none", {"export.output_op": "none"}),
    (("export",), "--save_name net", {"export.save_name": "net"}),
    (("export",), "--for_fd", {"export.save_name": "inference"}),
    (("export",), "--formats paddle", {"export.formats": ["paddle"]}),
    (("export",), "--save_file out/net.onnx --opset_version=17", {"export.save_name": "net"}),
    (("export",), "--model_filename=net.json --params_filename=net.pdiparams", {"export.save_name": "net"}),
    (("export",), "--enable_onnx_checker=True", {}),
]
CASES = [(verb, line, expected) for verbs, line, expected in ROWS for verb in verbs]


@pytest.mark.parametrize(("verb", "line", "expected"), CASES, ids=[f"{v} {line}" for v, line, _ in CASES])
def test_a_spelling_gives_a_recipe(verb, line, expected):
    line = line.replace("{crop:[8,8],stride:[8,8]}", "{crop:\u00a0[8,8],stride:\u00a0[8,8]}")
    found = resolved(verb, *(word.replace("\u00a0", " ") for word in line.split(" ")))
    assert {key: leaf(found, key) for key in expected} == expected
    unchanged = load("x.yml").to_dict()
    touched = {key.split(".")[0] for key in expected}
    assert {k: v for k, v in found.items() if k not in touched} == {
        k: v for k, v in unchanged.items() if k not in touched
    }


REFUSED: list[tuple[tuple[str, ...], str, str]] = [
    (ALL, "--device xpu", "device 'xpu' is not supported; use cpu or gpu"),
    (ALL, "--device npu", "device 'npu' is not supported; use cpu or gpu"),
    (ALL, "--device mlu", "device 'mlu' is not supported; use cpu or gpu"),
    (ALL, "--device gpu:1", "device 'gpu:1' is not supported; use cpu or gpu; choose cards with CUDA_VISIBLE_DEVICES"),
    (
        ALL,
        "--slim_config s.yml",
        "--slim_config is not supported: int8 models come from ppvision export; pruning needs PaddleSlim",
    ),
    (ALL, "--quant_config q.yml", "--quant_config is not supported: int8 models come from ppvision export"),
    (("train",), "--do_bind", "--do_bind is not supported: bind processes from outside (numactl, taskset)"),
    (ALL, "--data_format NHWC", "--data_format must be one of NCHW, got 'NHWC'"),
    (
        ALL,
        "--use_multilabel",
        "--use_multilabel is not supported: one label per pixel only; use data with index labels",
    ),
    (ALL, "--use_wandb", "--use_wandb is not supported: use --use_vdl, or read the run folder's log.jsonl"),
    (
        ALL,
        "-o uniform_output_enabled=True",
        "-o uniform_output_enabled is not supported: the run folder has one layout;",
    ),
    (
        ("export",),
        "--export_serving_model True",
        "--export_serving_model is not supported: deploy/serving reads the exported",
    ),
    (
        ("export",),
        "--export_for_apollo",
        "--export_for_apollo is not supported: use the exported model.json and deploy.yaml",
    ),
    (("eval",), "--json_eval", "--json_eval is not supported: evaluate the weights themselves (--model_path)"),
    (("eval",), "--save_prediction_only", "--save_prediction_only is not supported: use ppvision predict --image_path"),
    (("train",), "--iters 5 --epochs 3", "--epochs 3: give 'train.iters' or 'train.epochs', not both"),
    (("train",), "--precision int8", "--precision must be one of fp32, fp16, bf16, got 'int8'"),
    (
        ("train",),
        "--model_path nothing",
        "no weights at 'nothing' (tried nothing, nothing.pdparams, nothing/model.pdparams)",
    ),
    (
        ("train",),
        "--profiler_options=state=NPU",
        "--profiler_options=state=NPU: 'train.profiler': 'state' must be one of",
    ),
    (("train",), "--profiler_options=rnage=1", "--profiler_options=rnage=1: 'train.profiler': unknown key 'rnage'"),
    (("train",), "--batch_size 0", "--batch_size 0: 'train.batch_size' must be an integer >= 1, got 0"),
    (("train",), "-o Global.foo=1", "-o Global.foo=1: unknown key 'Global'"),
    (("train",), "--itres 5", "train: unknown flag '--itres'; did you mean '--iters'?"),
    (BOTH, "--is_slide --image_path x.yml", "a sliding window needs --crop_size W H (and --stride W H)"),
    (("export",), "--opset_version 11", "--opset_version 11: export writes opset 17 and no other"),
    (("export",), "--save_file out/net", "--save_file out/net: --save_file names the ONNX file, <folder>/<name>.onnx"),
    (("export",), "--input_shape 3 3", "--input_shape takes N C H W or C H W, -1 is free; got 3 3"),
    (
        ("export",),
        "--save_dir a --output_dir b",
        "give --save_dir (used as it is) or --output_dir (the recipe's name is added)",
    ),
    (("predict",), "--save_dir out", "predict: --image_path is missing (ppvision predict --help)"),
    (("predict",), "--image_path nowhere.jpg", "predict: 'nowhere.jpg' does not exist"),
    (
        ("predict",),
        "--image_path x.yml --custom_color 1 2",
        "--custom_color takes R G B of one class after the other, 0..255;",
    ),
    (
        ("predict",),
        "--image_path x.yml --save_results 0",
        "--save_results false is not supported: results are always written;",
    ),
]
REFUSED_CASES = [(verb, line, message) for verbs, line, message in REFUSED for verb in verbs]


@pytest.mark.parametrize(
    ("verb", "line", "message"), REFUSED_CASES, ids=[f"{v} {line}" for v, line, _ in REFUSED_CASES]
)
def test_what_is_not_supported_says_so_in_one_line(capsys, verb, line, message):
    if verb == "eval":
        line = line.replace("--image_path x.yml", "")
    elif verb == "predict" and "--image_path" not in line and "missing" not in message:
        line += " --image_path x.yml"
    assert main([verb, "--config", "x.yml", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {message}") and err.count("\n") == 1 and out == ""


@pytest.mark.parametrize("verb", VERBS)
def test_no_spelling_means_two_things(verb):
    spellings = [s for flag in VERBS[verb] for s in [*flag.spellings, *flag.opts.split()]]
    assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize("verb", VERBS)
def test_every_key_of_a_table_exists(verb):
    known = load("x.yml").to_dict()
    for flag in VERBS[verb]:
        if flag.key:
            section, key = flag.key.split(".")
            assert key in known[section], flag.names


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_the_screen(verb):
    lines = help_text(verb, "About.", VERBS[verb]).splitlines()
    assert max(map(len, lines)) <= 120 and lines[0] == f"usage: ppvision {verb} -c FILE [flags]"
