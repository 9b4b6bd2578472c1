"""A repository in miniature: the real harness over tools that only pretend, and break on demand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = "fake"
TXT = f"test_tipc/configs/{NAME}/train_infer_python.txt"
LOG = f"test_tipc/output/{NAME}/lite_train_lite_infer"

TOOL = """
import os, pathlib, signal, sys, time
words = [w for a in sys.argv[1:] for w in (a.split("=", 1) if a.startswith("--") else [a])]
value = lambda flag: words[len(words) - 1 - words[::-1].index(flag) + 1]
kind = pathlib.Path(__file__).stem
fault = os.environ.get("FAULT", "")
fault = fault.removeprefix(kind + "-") if fault.startswith(kind + "-") else ""
print(f"{kind} speaks", flush=True)
if fault == "status": sys.exit(1)
if fault == "usage": print("error: unknown key"); sys.exit(2)
if fault == "killed": os.kill(os.getpid(), signal.SIGKILL)
if fault == "hangs":
    if os.fork() == 0: time.sleep(600)
    time.sleep(600)
if fault == "leaves" and os.fork() == 0: time.sleep(600)
if fault == "lazy": sys.exit(0)
def write(path, text="x"):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
"""
TRAIN = """
folder, iters = pathlib.Path(value("--save_dir")), int(value("--iters"))
static = "to_static_training=True" in words
for i in range(1, iters + 1):
    loss = float("nan") if fault == "nan" and i == iters else 1.0 / i + (1e-3 if static and fault == "drift" else 0)
    print(f"[2026/01/01 00:00:00] INFO: [TRAIN] epoch: 1, iter: {i}/{iters}, loss: {loss:.4f}, lr: 0.010000, "
          f"batch_cost: 0.1, reader_cost: 0.01, ips: {16.0 + i:.4f} samples/sec | ETA 00:00:01", flush=True)
for word in ("PYTHONUNBUFFERED", "CUDA_VISIBLE_DEVICES", "FLAGS_a"): print(word, os.environ.get(word))
write(folder / f"iter_{iters}" / "model.pdparams", "weights")
if fault != "nobest":
    link = folder / "best_model"
    if link.is_symlink(): link.unlink()
    link.symlink_to(f"iter_{iters}")
"""
VAL = """
assert pathlib.Path(value("--model_path")).read_text() == "weights"
print("[EVAL] #Images: 2 mIoU: 0.5000 Acc: 0.9")
"""
EXPORT = """
assert pathlib.Path(value("--model_path")).read_text() == "weights"
file = pathlib.Path(value("--save_file")) if "--save_file" in words else None
folder = file.parent if file else pathlib.Path(value("--save_dir"))
for name in ("deploy.yaml", "model.json", "model.pdiparams", *(["parity.json", file.name] if file else [])):
    if fault != "half" or name != "model.pdiparams": write(folder / name)
"""
INFER = """
images = pathlib.Path(value("--image_path") if "--image_path" in words else value("--img_path"))
names = images.read_text().split()
for name in names if fault != "one" else names[:1]:
    if not (images.parent / name).is_file(): print(f"error: {name} does not exist"); sys.exit(2)
    write(pathlib.Path(value("--save_dir")) / (pathlib.Path(name).stem + ".png"), "1")
print("preprocess_time(ms): 1.0, inference_time(ms): 2.5, postprocess_time(ms): 0.5")
"""
COMPARE = """
import glob
assert len(glob.glob(value("--predict_dir"))) == 2
"""
DATA = """
write(pathlib.Path(value("--root")) / "val.list", "a.png\\nb.png\\n")
for name in "ab": write(pathlib.Path(value("--root")) / f"{name}.png")
"""
TOOLS = {
    "tools/train.py": TRAIN,
    "tools/val.py": VAL,
    "tools/export.py": EXPORT,
    "tools/data.py": DATA,
    "deploy/python/infer.py": INFER,
    "deploy/python/infer_onnx.py": INFER,
    "test_tipc/compare.py": COMPARE,
}


def txt(**changes: str) -> str:
    """The 52 lines and trailing sections; `line_7="..."` replaces a line, `tail="..."` what follows."""
    lines = f"""===========================train_params===========================
model_name:{NAME}
python:python
gpu_list:-1
--device:cpu
--precision:null
--iters:lite_train_lite_infer=4|lite_train_whole_infer=4|whole_train_whole_infer=9
--save_dir:
--batch_size:lite_train_lite_infer=2|lite_train_whole_infer=2|whole_train_whole_infer=3
--model_path:null
train_model_name:best_model/model.pdparams
train_infer_img_dir:test_tipc/data/set/val.list
null:null
##
trainer:norm_train
norm_train:tools/train.py --config x.yml --do_eval --seed 100
pact_train:null
fpgm_train:null
distill_train:null
null:null
null:null
##
===========================eval_params===========================
eval:tools/val.py --config x.yml
null:null
##
===========================export_params===========================
--save_dir:
--model_path:
norm_export:tools/export.py --config x.yml --input_shape 1 3 64 64
quant_export:null
fpgm_export:null
distill_export:null
export1:null
export2:null
===========================infer_params===========================
infer_model:./test_tipc/output/{NAME}/model.pdparams
infer_export:tools/export.py --config x.yml
infer_quant:False
inference:deploy/python/infer.py --save_dir ./test_tipc/output/{NAME}/
--device:cpu
--enable_mkldnn:True|False
--cpu_threads:6
--batch_size:1
--use_trt:False
--precision:fp32
--config:
--image_path:test_tipc/data/set/val.list
--save_log_path:null
--benchmark:True
--save_dir:
--model_name:{NAME}""".split("\n")
    tail = """===========================data_params===========================
data:tools/data.py make fake --root test_tipc/data/set
===========================compare_params===========================
compare:test_tipc/compare.py --atol 0.1
===========================to_static_train_benchmark_params===========================
to_static_train:--opts to_static_training=True
===========================train_benchmark_params===========================
batch_size:2
fp_items:fp32
epoch:6
--profiler_options:'batch_range=[2,4];state=CPU;tracer_option=Default;profile_path=model.profile'
flags:FLAGS_a=0.5;FLAGS_b=False
log_iters:1;repeats:2
"""
    tail = changes.pop("tail", tail)
    for name, line in changes.items():
        lines[int(name.removeprefix("line_")) - 1] = line
    return "\n".join(lines) + "\n" + tail


def build(folder: Path, **changes: str) -> Path:
    """The miniature in `folder`, its data made."""
    harness = folder / "test_tipc"
    (harness / "configs" / NAME).mkdir(parents=True)
    for path in [*ROOT.glob("test_tipc/*.py"), *ROOT.glob("test_tipc/*.sh"), ROOT / "test_tipc/harness"]:
        (harness / path.name).symlink_to(path)
    for path, body in TOOLS.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(TOOL + body)
    (folder / TXT).write_text(txt(**changes))
    return folder


def tipc(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    """Run `tipc.py` there."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TIPC_", "BENCHMARK_", "CUDA_", "PROFILING"))}
    return subprocess.run(
        [sys.executable, "test_tipc/tipc.py", *words],
        cwd=folder,
        env={**clean, "TIPC_GPUS": "0", **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )


def chain(folder: Path, mode: str = "lite_train_lite_infer", **environment: str) -> tuple[int, list[tuple[str, str]]]:
    """Prepare and run the chain: exit status, and (kind, status) of the steps."""
    assert tipc(folder, "prepare", TXT, mode, **environment).returncode == 0
    done = tipc(folder, "train_infer", TXT, mode, **environment)
    summary = json.loads((folder / "test_tipc/output" / NAME / mode / "summary.json").read_text())
    return done.returncode, [(step["kind"], step["status"]) for step in summary["steps"]]
