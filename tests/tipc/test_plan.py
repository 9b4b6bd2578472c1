"""Commands, logs and their order. The golden files were compared, argument for argument, with what PaddleSeg's own
scripts run (docs/tipc.md says how); `python tests/tipc/test_plan.py` writes them again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from sandbox import TXT, build, tipc, txt

from test_tipc.harness import recipe
from test_tipc.harness.plan import count_gpus, on_device, plan

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONFIGS = "test_tipc/configs/rtformer_slim"
GOLDEN = {
    "cpu": (f"{CONFIGS}/train_infer_python.txt", "lite_train_lite_infer"),
    "gpus": (f"{CONFIGS}/train_linux_gpu_normal_amp_infer_python_linux_gpu_cpu.txt", "whole_train_whole_infer"),
    "inference": (f"{CONFIGS}/train_infer_python.txt", "whole_infer"),
}


def shown(name: str) -> str:
    """Output of `tipc.py plan` at the root of this repository."""
    return tipc(ROOT, "plan", *GOLDEN[name], TIPC_GPUS="2").stdout


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name):
    assert shown(name) == (HERE / "golden" / f"{name}.txt").read_text()


def planned(tmp_path: Path, mode: str = "lite_train_lite_infer", gpus: int = 8, environment=None, **changes: str):
    file = tmp_path / "x.txt"
    file.write_text(txt(**changes))
    return plan(on_device(recipe.read(file), environment or {}), mode, gpus=gpus, environment=environment or {})


def commands(*args, **kwargs) -> list[str]:
    return [" ".join(step.argv) for step in planned(*args, **kwargs).steps]


def test_loops_over_devices_precisions_and_trainers(tmp_path):
    found = planned(
        tmp_path,
        line_4="gpu_list:0|0,1",
        line_6="--precision:null|fp16",
        line_15="trainer:norm_train|free",
        line_20="free:tools/free.py",
        line_34="export1:tools/export.py --free",
    )
    trains = [s for s in found.steps if s.kind == "train"]
    assert [(s.gpu, s.precision, s.trainer) for s in trains] == [
        (gpu, precision, trainer)
        for gpu in ("0", "0,1")
        for precision in ("null", "fp16")
        for trainer in ("norm_train", "free")
    ]
    assert trains[0].environment == {"CUDA_VISIBLE_DEVICES": "0"} and trains[4].environment == {}
    assert trains[4].argv[1:4] == ["-m", "paddle.distributed.launch", "--devices=0,1"]
    # line 5 has one item, so the second run gets no --device
    assert "--device=cpu" in trains[0].argv and not any(a.startswith("--device=") for a in trains[4].argv)
    assert "--precision=fp16" in trains[2].argv and "free.py" in trains[1].argv[1]
    assert trains[7].log.endswith("/free_gpus_0,1_autocast_fp16_nodes_1.log")
    exports = [s for s in found.steps if s.kind == "export"]
    assert "--free" in exports[1].argv and "--free" not in exports[0].argv


def test_several_machines(tmp_path):
    found = planned(
        tmp_path, line_4="gpu_list:192.168.0.1,192.168.0.2;0,1", line_10="--model_path:w.pdparams", gpus=2
    ).steps[0]
    launch = "python -m paddle.distributed.launch --ips=192.168.0.1,192.168.0.2 --devices=0,1 tools/train.py"
    assert " ".join(found.argv).startswith(launch)
    assert found.argv.index("--model_path=w.pdparams") < found.argv.index("--iters=4")
    assert found.log.endswith("norm_train_gpus_0,1_autocast_null_nodes_2.log") and "_nodes_2" in found.makes[0]


def test_two_processes_on_a_cpu(tmp_path):
    steps = planned(tmp_path, environment={"TIPC_CPU_PROCS": "2"}).steps
    assert [s.kind for s in steps] == ["train", "eval", "export", "infer", "infer"]  # stored figures are of one process
    step = steps[0]
    assert step.argv[1:5] == ["-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    assert step.environment == {"CUDA_VISIBLE_DEVICES": None}


def test_tipc_device(tmp_path):
    for line in commands(
        tmp_path, line_4="gpu_list:0|0,1", line_5="--device:gpu|gpu", environment={"TIPC_DEVICE": "cpu"}
    ):
        assert "gpu" not in line.replace("_gpus_-1", "")
    assert "--device=gpu" in commands(tmp_path, environment={"TIPC_DEVICE": "gpu"})[0]
    with pytest.raises(recipe.TxtError, match="TIPC_DEVICE is cpu or gpu, got 'tpu'"):
        planned(tmp_path, environment={"TIPC_DEVICE": "tpu"})


def test_what_is_null_is_left_out(tmp_path):
    kinds = [s.kind for s in planned(tmp_path, line_24="eval:null", line_30="norm_export:null").steps]
    assert kinds == ["train"]
    line = commands(tmp_path, line_5="null:cpu", line_6="--precision:", line_13="--extra:1 2")[0]
    assert "--device" not in line and "--precision" not in line and line.endswith("--extra=1 2")


def test_quantised_and_half_precision_rounds(tmp_path):
    changes = {"line_39": "infer_quant:True", "line_46": "--precision:fp32|fp16|int8", "line_41": "--device:cpu|gpu"}
    changes["line_45"] = "--use_trt:True|False"
    quantised = [s for s in planned(tmp_path, "whole_infer", **changes).steps if s.kind == "infer"]
    assert [
        (a, b)
        for s in quantised
        for a in s.argv
        for b in s.argv
        if a.startswith("--enable_mkldnn") and b.startswith("--precision")
    ] == [("--enable_mkldnn=True", "--precision=int8")]
    assert sum("--use_trt=True" in s.argv for s in quantised) == 2  # fp32 and fp16
    changes["line_39"] = "infer_quant:False"
    plain = [s for s in planned(tmp_path, "whole_infer", **changes).steps if s.kind == "infer"]
    assert len([s for s in plain if "--device=cpu" in s.argv]) == 2
    forced = [s for s in planned(tmp_path, "klquant_whole_infer", **changes).steps if s.kind == "infer"]
    assert [a for a in forced[0].argv if a.startswith("--precision")] == ["--precision=int8"]


def test_an_inference_model_needs_no_export(tmp_path):
    steps = planned(
        tmp_path,
        "whole_infer",
        line_37="infer_model:./models/a|./b/m.pdparams",
        line_38="infer_export:null|tools/export.py",
        line_39="infer_quant:False|False",
    ).steps
    assert [s.kind for s in steps] == ["infer", "infer", "export", "infer", "infer"]
    assert "--config=./models/a/deploy.yaml" in steps[0].argv and steps[0].needs == []
    assert "--config=./b/deploy.yaml" in steps[3].argv and steps[3].needs == [3]


def test_a_folder_inside_the_export(tmp_path):
    steps = planned(tmp_path, line_36="inference_dir:downscale").steps
    assert steps[2].makes[0].endswith("norm_train_gpus_-1_autocast_null/downscale/deploy.yaml")
    assert any(a.endswith("null/downscale/deploy.yaml") for a in steps[3].argv)


def test_benchmark_extras(tmp_path):
    line = commands(
        tmp_path,
        "benchmark_train",
        line_6="--precision:fp16",
        line_7="--iters:benchmark_train=6",
        line_9="--batch_size:benchmark_train=2",
    )[0]
    assert line.endswith("--precision=fp16 --batch_size=2 --amp_level=O2 --log_iters 1 --repeats 2")


def test_number_of_cards():
    assert count_gpus({"TIPC_GPUS": "3"}) == 3


def test_modes_without_length_stop_before_anything_runs(tmp_path):
    build(tmp_path, line_7="--iters:lite_train_lite_infer=4")
    done = tipc(tmp_path, "plan", TXT, "whole_train_whole_infer")
    assert done.returncode == 2 and f"error: {TXT}:7: '--iters' has no value for" in done.stderr and not done.stdout


if __name__ == "__main__":
    os.chdir(ROOT)
    for word in GOLDEN:
        (HERE / "golden" / f"{word}.txt").write_text(shown(word))
