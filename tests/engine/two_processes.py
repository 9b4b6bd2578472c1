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
trainer = trainer_of(method, "sgd", lr=0.5, warn=warnings.append)
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
        trainer.stop_wanted = True
    logs.append(trainer.update([mine]))
    if mode == "nan" and step == 2 and rank == world - 1:
        method.losses = whole_loss
    if trainer.stop_requested:
        break
if mode == "statistics":
    trainer.average_buffers()
counts = distributed.sum_arrays({"n": np.array([rank + 1, 10], "int64")})["n"].tolist()
np.savez(f"{out}.{world}.{rank}.npz", **weights_of(trainer))
with open(f"{out}.{world}.{rank}.json", "w") as file:
    json.dump(
        {"logs": logs, "skipped": trainer.skipped, "step": trainer.step, "counts": counts, "warnings": warnings}, file
    )
print("done", rank, os.getpid())
