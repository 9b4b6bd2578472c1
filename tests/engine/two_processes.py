"""Run by the launcher in tests/engine/test_distributed.py: five SGD steps, weights and logs to a file.

two_processes.py OUT MODE
"""

import json
import os
import sys

import numpy as np
import paddle
from toys import Segmenter, ToySupervised, batch_of, part, trainer_of, weights_of

from ppvision.engine import distributed
from ppvision.engine.optimizer import optimizer_state

out, mode = sys.argv[1:]
distributed.start()
rank, world = distributed.rank(), distributed.world_size()
paddle.seed(rank)  # different on purpose: the trainer must make the ranks agree
method = ToySupervised(Segmenter())
if mode != "statistics":
    method.model.block[1]._use_global_stats = True
if rank == 0:
    paddle.seed(7)
    for key, tensor in sorted(method.state_dict().items()):
        if not key.endswith(("_mean", "_variance")):
            tensor.set_value(paddle.randn(tensor.shape) * 0.3)
warnings = []
shard = mode.startswith("shard")
options = {"shard_optimizer": mode == "sharded", "clip_norm": 1.0} if shard else {}
trainer = trainer_of(method, "adam" if shard else "sgd", lr=0.05 if shard else 0.5, warn=warnings.append, **options)
logs = []
for step in range(5):
    whole = batch_of(step, ignored=[0.0, 0.1, 0.9, 0.95])
    mine = part(whole, rank * 4 // world, (rank + 1) * 4 // world)
    if mode == "nan" and step == 2 and rank == world - 1:
        whole_loss, method.losses = (
            method.losses,
            lambda phase, batch: {"ce": method.model(batch["image"]).mean() * float("nan")},
        )
    if mode == "stop" and step == 2 and rank == 1:
        trainer.stop_signalled = True
    logs.append(trainer.update([mine]))
    if mode == "nan" and step == 2 and rank == world - 1:
        method.losses = whole_loss
    if trainer.stop_requested:
        break
    if shard and step == 2:  # a restart: what one trainer saved, a fresh one continues
        files = {name: {k: np.array(v) for k, v in part.items()} for name, part in trainer.files().items()}
        state = trainer.state()
        moments = {k for k in files["optimizer.pdopt"] if "moment1" in k}
        assert moments == {f"model|{k}|moment1" for k in trainer.groups["model"].parameters}, moments
        trainer = trainer_of(method, "adam", lr=0.05, warn=warnings.append, **options)
        trainer.load(state, files.__getitem__, "the first half")
if mode == "statistics":
    trainer.sync_buffers()
ragged = distributed.gather({"n": np.arange(rank + 1)})
assert [g["n"].tolist() for g in ragged] == [list(range(r + 1)) for r in range(len(ragged))]
counts = sum(g["n"] for g in distributed.gather({"n": np.array([rank + 1, 10], "int64")})).tolist()
np.savez(f"{out}.{world}.{rank}.npz", **weights_of(trainer))
with open(f"{out}.{world}.{rank}.json", "w") as file:
    json.dump(
        {
            "kept": sorted(k for g in trainer.groups.values() for k in optimizer_state(g.stepped, g.optimizer)),
            "logs": logs,
            "skipped": trainer.skipped,
            "step": trainer.step,
            "counts": counts,
            "warnings": warnings,
        },
        file,
    )
print("done", rank, os.getpid())
