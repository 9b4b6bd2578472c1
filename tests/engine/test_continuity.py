"""A run continued with another recipe: what may change, what breaks the promise, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipes import recipe, run_of

from ppvision.config import load
from ppvision.errors import UserError

ROOT = Path(__file__).parents[2]


class TestContinuingWithAnotherRecipe:
    @pytest.fixture
    def begun(self, tmp_path):
        path = recipe(tmp_path, train={"iters": 4})
        return path, run_of(path, tmp_path / "run")

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("train.batch_size=1", "train.batch_size 2 (now 1)"),
            ("train.accumulate=2", "train.accumulate 1 (now 2)"),
            ("model.drop_path=0.3", "model.drop_path 0.1 (now 0.3)"),
            ("method.aux.0.weight=0.5", "method.aux.0.weight 0.4 (now 0.5)"),
            ("method.loss={type: cross_entropy, label_smoothing: 0.1}", "method.loss"),
            ("data.train.transforms.2.p=0.1", "data.train.transforms.2.p 0.5 (now 0.1)"),
            ("data.train.split=val", "data.train.split train (now val)"),
            ("optimizer.lr=0.1", "optimizer.lr 0.002 (now 0.1)"),
            ("optimizer.weight_decay=0.0", "optimizer.weight_decay 0.01 (now 0.0)"),
            ("schedule.power=1.0", "schedule.power 0.9 (now 1.0)"),
            ("schedule.warmup_iters=1", "schedule.warmup_iters 2 (now 1)"),
            ("train.seed=4", "train.seed 3 (now 4)"),
            ("train.clip_norm=null", "train.clip_norm 5.0 (now null)"),
            ("train.ema=0.5", "train.ema 0.9 (now 0.5)"),
            ("train.amp=O1", "train.amp O0 (now O1)"),
            ("train.sync_bn=true", "train.sync_bn False (now True)"),
        ],
    )
    def test_another_run_is_refused(self, begun, override, message):
        path, run = begun
        before = sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*"))
        with pytest.raises(UserError) as caught:
            run_of(path, run, "train.resume=auto", "train.iters=6", override)
        text = str(caught.value)
        assert (
            message in text and "--overwrite" in text and "iter_4/model.pdparams" in text and "train.iters" not in text
        )
        assert sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*")) == before

    @pytest.mark.parametrize(
        ("override", "warning"),
        [
            ("log.interval=1", "log.interval 3 (now 1)"),
            ("train.iters=6", "train.iters 4 (now 6); the schedule now spans the new length"),
            ("train.save_interval=1", "train.save_interval 4 (now 1)"),
            ("train.keep=1", "train.keep 3 (now 1)"),
            ("data.workers=1", "data.workers 0 (now 1)"),
            ("data.skip_bad=2", "data.skip_bad 0 (now 2)"),
            ("eval.enabled=false", "eval.enabled True (now False)"),
            ("data.val.transforms=[{type: PadTo, multiple: 16}]", "data.val.transforms"),
        ],
    )
    def test_what_does_no_harm_is_told(self, begun, override, warning, capsys):
        path, run = begun
        capsys.readouterr()
        run_of(path, run, "train.resume=auto", override)
        out = capsys.readouterr().out
        assert len([line for line in out.splitlines() if line.startswith("warning: ")]) == 1 and warning in out

    def test_the_same_recipe_is_silent_and_defaults_may_be_written_out(self, begun, capsys):
        path, run = begun
        capsys.readouterr()
        written = ["data.train.transforms.2.p=0.5", "optimizer.betas=[0.9, 0.999]", "model.num_heads=8"]
        run_of(path, run, "train.resume=auto", *written)
        assert "warning" not in capsys.readouterr().out

    def test_processes_and_batch_count_together(self, begun):
        from ppvision.engine.continuity import check_continuity

        path, run = begun
        warnings = []
        check_continuity(load(path, ["train.batch_size=1"]), run / "iter_4", warnings.append, (1, 2))
        assert warnings == []
        with pytest.raises(UserError, match=r"train.batch_size 2 in 1 processes \(now 2 in 2 processes\)"):
            check_continuity(load(path), run / "iter_4", warnings.append, (1, 2))

    def test_a_checkpoint_without_its_recipe_is_told(self, begun):
        from ppvision.engine.continuity import check_continuity

        path, run = begun
        (run / "iter_4/config.yml").unlink()
        warnings = []
        check_continuity(load(path), run / "iter_4", warnings.append)
        assert len(warnings) == 1 and "cannot be compared" in warnings[0]
