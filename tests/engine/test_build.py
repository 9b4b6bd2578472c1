"""From a recipe to the parts of a run: its length, and what the method is told of it."""

import pytest
from gan import write_recipe
from recipes import recipe

from ppvision.config import load
from ppvision.engine.build import build_parts, length_of
from ppvision.engine.progress import Length


@pytest.mark.parametrize(
    ("train", "eval_", "length"),
    [
        ({"iters": 8, "save_interval": 4}, {}, Length(8, 5, 4, 4)),
        ({"iters": 8, "save_interval": 4, "accumulate": 2}, {"interval": 3}, Length(8, 2, 4, 3)),
        ({"iters": None, "epochs": 3, "save_interval": 2}, {}, Length(15, 5, 10, 10)),
        ({"iters": None, "epochs": 3, "save_interval": 2, "accumulate": 9}, {"interval": 1}, Length(3, 1, 2, 1)),
    ],
)
def test_a_run_counts_in_updates_or_in_epochs(tmp_path, train, eval_, length):
    """Five batches of two pictures an epoch."""
    cfg = load(write_recipe(tmp_path, train={"batch_size": 2, **train}, eval=eval_))
    assert length_of(cfg, range(5)) == length
    assert build_parts(cfg).length == length


def test_the_epoch_of_an_update():
    length = Length(total=8, updates_per_epoch=3, save_interval=1, eval_interval=1)
    assert [length.epoch(step) for step in range(1, 9)] == [1, 1, 1, 2, 2, 2, 3, 3]


def test_a_method_knows_the_length_of_its_run(tmp_path):
    parts = build_parts(load(write_recipe(tmp_path, train={"iters": 7})))
    method = parts.trainer.method
    assert method.total_updates == 7 and list(method.averaged()) == ["generator"]
    assert (method.seed, list(method.mean)) == (5, [60.0, 40.0, 70.0])
    assert parts.evaluator is None and set(parts.trainer.groups) == {"d", "g"}
    rates = {name: group.schedule(0) for name, group in parts.trainer.groups.items()}
    assert rates == {"d": 5.0e-3, "g": 2.0e-3}


def test_the_evaluator_holds_the_method(tmp_path):
    parts = build_parts(load(recipe(tmp_path)))
    assert parts.evaluator.method is parts.trainer.method and len(parts.evaluator.loader.dataset) == 3
    # metrics want the annotations as read, training does not carry them along
    assert parts.evaluator.loader.keep_target and not parts.loader.keep_target
