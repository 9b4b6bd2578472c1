"""Run by the launcher in tests/methods/test_kd_detr.py: three updates of a distillation, losses to a file.

two_processes_kd.py OUT
"""

import json
import sys

from test_kd_detr import batch_of, method_of, part, trainer_of

from ppvision.engine import distributed

distributed.start()
rank, world = distributed.rank(), distributed.world_size()
method = method_of()
trainer = trainer_of(method)
logs = []
for step in range(3):
    logs.append(trainer.update([part(batch_of(4, step), rank * 4 // world, (rank + 1) * 4 // world)]))
with open(f"{sys.argv[1]}.{world}.{rank}.json", "w") as file:
    json.dump([{k: float(v) for k, v in log.items() if isinstance(v, (int, float))} for log in logs], file)
