"""dy2static, paddle2onnx and benchmark_train over tools that only pretend."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from sandbox import NAME, TXT, build, tipc, txt

STATIC = f"test_tipc/configs/{NAME}/train_dy2static_python.txt"
ONNX = f"test_tipc/configs/{NAME}/{NAME}_model_linux_gpu_normal_normal_paddle2onnx_python_linux_cpu.txt"


def statuses(folder: Path, mode: str) -> list[tuple[str, str]]:
    file = folder / "test_tipc/output" / NAME / mode / "summary.json"
    return [(s["kind"], s["status"]) for s in json.loads(file.read_text())["steps"]]


@pytest.mark.parametrize(("fault", "status", "last"), [("", 0, "passed"), ("train-drift", 1, "failed")])
def test_losses_of_dynamic_and_static_training(fault, status, last, tmp_path):
    build(tmp_path)
    body = txt(line_11="train_model_name:latest/model.pdparams").split("\n")[1:21]
    (tmp_path / STATIC).write_text("\n".join(["=== base ===", *body, "##", ""]))
    done = tipc(tmp_path, "dy2static", STATIC, FAULT=fault)
    assert done.returncode == status
    assert statuses(tmp_path, "dy2static") == [("train", "passed"), ("train", "passed"), ("losses", last)]
    folder = tmp_path / "test_tipc/output" / NAME / "dy2static"
    assert (folder / "base_dygraph_loss.txt").read_text().split() == ["1.0", "0.5", "0.3333", "0.25"]
    assert len((folder / "dy2static_base.txt").read_text().splitlines()) == 22
    assert ("Run failed with command" in (folder / "results_python.log").read_text()) == bool(status)
    assert "gpu_list:0" in (folder / "dy2static_base.txt").read_text()


ONNX_TXT = f"""===========================paddle2onnx_params===========================
model_name:{NAME}
python:python
2onnx: python tools/export.py --config x.yml
--model_path:test_tipc/output/{NAME}/model.pdparams
--model_filename:model.json
--params_filename:model.pdiparams
--save_file:test_tipc/output/{NAME}/onnx/model.onnx
--opset_version:17
--enable_onnx_checker:True
inference:deploy/python/infer_onnx.py --save_dir test_tipc/output/{NAME}/onnx_results
--onnx_file:
--img_path:test_tipc/data/set/val.list
"""


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("", 0, ["passed", "passed"]),
        ("export-lazy", 1, ["failed", "skipped"]),
        ("infer_onnx-status", 1, ["passed", "failed"]),
        ("infer_onnx-one", 1, ["passed", "failed"]),
    ],
)
def test_conversion(fault, status, words, tmp_path):
    build(tmp_path)
    (tmp_path / ONNX).write_text(ONNX_TXT)
    weights = tmp_path / f"test_tipc/output/{NAME}/model.pdparams"
    weights.parent.mkdir(parents=True)
    weights.write_text("weights")
    assert tipc(tmp_path, "prepare", ONNX, "paddle2onnx_infer").returncode == 0  # data of the txt beside it
    assert tipc(tmp_path, "paddle2onnx", ONNX, FAULT=fault).returncode == status
    assert statuses(tmp_path, "paddle2onnx_infer") == list(zip(["convert", "onnx_infer"], words))
    log = tmp_path / f"test_tipc/output/{NAME}/paddle2onnx_infer/results_paddle2onnx.log"
    assert log.read_text().count("Run failed with command") == (status == 1)
    assert "--save_file=" in log.read_text() and "--opset_version=17" in log.read_text()


def test_benchmark(tmp_path):
    build(tmp_path)
    logs = tmp_path / "logs"
    environment = {"BENCHMARK_LOG_DIR": str(logs)}
    done = tipc(tmp_path, "benchmark", TXT, "benchmark_train", "dynamic_bs4_null_DP_N1C1", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    stem = f"{tmp_path.name}_{NAME}_bs4_fp32_DP_N1C1_"
    found = json.loads((logs / "index" / f"{stem}speed").read_text())
    assert found["ips"] == pytest.approx((19 + 20 + 21 + 22) / 4) and found["convergence_value"] == 0.1667
    assert found["model_name"] == f"{NAME}_bs4_fp32_DP" and found["batch_size"] == 4 and found["device_num"] == "N1C1"
    assert float(found["model_run_time"]) > 0 and found["device_type"] in ("cpu", "gpu")
    profile = (logs / "profiling_log" / f"{stem}profiling").read_text()
    assert "--profiler_options='\"'\"'batch_range=[2,4];state=CPU" in profile  # shell-quoted, single quotes kept
    train = (logs / "train_log" / f"{stem}log").read_text()
    assert "--iters=6" in train and "--batch_size=4" in train and "--log_iters 1 --repeats 2" in train
    assert "profiler" not in train and "FLAGS_a 0.5" in train
    assert (logs / "benchmark_log/results.log").read_text().count("Run successfully with command") == 3
    copy = (tmp_path / "test_tipc/benchmark_train.txt").read_text().splitlines()
    assert (copy[3], copy[23], copy[29]) == ("gpu_list:0", "eval:null", "norm_export:null")


def test_benchmark_without_params_or_device(tmp_path):
    build(tmp_path)
    logs = {"BENCHMARK_LOG_DIR": str(tmp_path / "logs"), "PROFILING_TIMER_ONLY": "no"}
    done = tipc(tmp_path, "benchmark", TXT, "benchmark_train", **logs)
    assert done.returncode == 0
    assert [s for _, s in statuses(tmp_path, "benchmark")] == ["passed", "passed", "skipped", "skipped"]
    done = tipc(tmp_path, "benchmark", TXT, "benchmark_train", "dynamicTostatic_bs2_fp32_DP_N1C1", **logs)
    assert done.returncode == 0
    log = next((tmp_path / "logs/train_log").glob("*d2sT_log")).read_text()
    assert "--opts to_static_training=True" in log
    done = tipc(tmp_path, "benchmark", TXT, "benchmark_train", "dynamic_bs2_fp32_DP_N1C1", FAULT="train-status", **logs)
    assert done.returncode == 1
    assert [s for _, s in statuses(tmp_path, "benchmark")] == ["failed", "skipped"]
    done = tipc(tmp_path, "benchmark", TXT, "benchmark_train", "bs2", **logs)
    assert done.returncode == 2 and done.stderr.startswith("error: params are <dynamic|dynamicTostatic>_bs<n>")


def test_a_log_that_is_too_short(tmp_path):
    log = tmp_path / "log"
    log.write_text("loss: 1.0, ips: 3.0 samples/sec\n" * 2)
    words = ["--model_name", "m", "--base_batch_size", "2", "--run_mode", "DP", "--fp_item", "fp32"]
    words += ["--device_num", "N1C4", "--speed_unit", "samples/s", "--speed_log_file", str(tmp_path / "speed")]
    command = [sys.executable, "test_tipc/tipc.py", "analyse", "--filename", str(log), *words]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 1 and "2 speeds, more than 2 are needed" in done.stderr
    log.write_text("loss: 1.0, ips: 3.0 samples/sec\n" * 3)
    assert subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True).returncode == 0
    assert json.loads((tmp_path / "speed").read_text())["ips"] == 12.0
