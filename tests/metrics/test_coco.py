"""Average precision against pycocotools, against figures worked by hand, and whatever the number of processes."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppvision.cli import main
from ppvision.errors import UserError
from ppvision.metrics import NAMES
from ppvision.metrics.base import Metric
from ppvision.metrics.coco import CocoAP
from ppvision.metrics.detection_report import verdict
from ppvision.predict.results import Boxes
from tests.exporting.samples import write_detection_recipe
from tools.experiments.detection import METRICS, by_pycocotools, scenes

SCRIPT = Path(__file__).with_name("two_processes.py")


def metric_of(results, targets, classes, **options) -> CocoAP:
    metric = CocoAP(classes, **options)
    metric.update(results, targets)
    return metric


def boxes(rows, scores=None, classes=None, name="") -> Boxes:
    rows = np.asarray(rows, np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.5, len(rows)) if scores is None else scores
    classes = np.zeros(len(rows), np.int64) if classes is None else np.asarray(classes)
    return Boxes(name, rows, np.asarray(scores, np.float32), classes)


def target(number, rows, classes=None, crowd=None, **more) -> dict:
    rows = np.asarray(rows, np.float32).reshape(-1, 4)
    return {
        "image_id": number,
        "boxes": rows,
        "classes": np.zeros(len(rows), np.int64) if classes is None else np.asarray(classes),
        "crowd": np.zeros(len(rows), bool) if crowd is None else np.asarray(crowd),
        **more,
    }


class TestAgainstPycocotools:
    @pytest.mark.parametrize(
        ("seed", "options"),
        [
            (0, dict(images=40, classes=5, detections=60)),
            (1, dict(images=25, classes=90, detections=120, objects=20)),
            (2, dict(images=12, classes=1, detections=250, objects=40, crowds=0.3)),  # more than 100 of a class
            (3, dict(images=30, classes=3, detections=40, tied=True)),
            (4, dict(images=60, classes=300, detections=5, objects=2, empty=0.5)),  # most classes never occur
            (5, dict(images=20, classes=4, detections=30, crowds=1.0)),  # nothing to find
            (6, dict(images=20, classes=4, detections=30, objects=0, empty=1.0)),
        ],
    )
    def test_every_figure(self, seed, options):
        results, targets = scenes(np.random.default_rng(seed), **options)
        metrics = metric_of(results, targets, options["classes"]).compute()
        theirs = dict(zip(METRICS, by_pycocotools(results, targets, options["classes"]).stats.tolist()))
        for name, value in theirs.items():
            if value == -1:  # nothing of that size, or nothing at all
                assert name not in metrics if name.startswith("AP_") else metrics[name] == 0
            else:
                assert metrics[name] == pytest.approx(value, abs=1e-6), name
        assert set(metrics) <= set(theirs) and next(iter(metrics)) == "mAP"
        if seed < 4:
            assert 0.02 < metrics["mAP"] < 0.9 and "AP_large" in metrics

    def test_every_class(self):
        results, targets = scenes(np.random.default_rng(7), images=40, classes=6, detections=60, objects=4)
        for t in targets:  # class 3 is predicted but never annotated, class 4 only as a crowd
            t["classes"][t["classes"] == 3] = 0
            t["crowd"] |= t["classes"] == 4
        precision = by_pycocotools(results, targets, 6).eval["precision"]
        rows = metric_of(results, targets, 6, class_names=list("abcdef")).table()
        assert [row["class"] for row in rows] == list("abcdef")
        for k, row in enumerate(rows):
            expected = precision[:, :, k, 0, -1]
            if k in (3, 4):
                assert (expected == -1).all() and np.isnan(row["AP"]) and row["Objects"] == 0
            else:
                found = [row[key] for key in ("AP", "AP50", "AP75")]
                assert found == pytest.approx([expected.mean(), expected[0].mean(), expected[5].mean()], abs=1e-6)
                assert row["Objects"] == sum(int(((t["classes"] == k) & ~t["crowd"]).sum()) for t in targets)

    def test_the_written_file(self, tmp_path):
        """What `detections.json` says, by the file's own category ids, is judged the same by pycocotools."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        results, targets = scenes(np.random.default_rng(8), images=30, classes=3, detections=40)
        ids = [7, 2, 90]
        metric = metric_of(results, targets, 3)
        metric.bind(type("Data", (), {"category_ids": ids}))
        metric.write(tmp_path)
        rows = json.loads((tmp_path / "detections.json").read_text())
        assert {row["category_id"] for row in rows} == set(ids) and len(rows) == sum(len(r.scores) for r in results)
        truth = COCO()
        truth.dataset = {"images": [], "categories": [{"id": i} for i in ids], "annotations": []}
        for t in targets:
            truth.dataset["images"].append({"id": t["image_id"]})
            for box, k, crowd, area in zip(t["boxes"].astype(float), t["classes"], t["crowd"], t["areas"]):
                row = {"id": len(truth.dataset["annotations"]) + 1, "image_id": t["image_id"], "category_id": ids[k]}
                row |= {"bbox": [*box[:2], *(box[2:] - box[:2])], "area": float(area), "iscrowd": int(crowd)}
                truth.dataset["annotations"].append(row)
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(rows), "bbox")
        run.evaluate(), run.accumulate(), run.summarize()
        assert run.stats[0] == pytest.approx(metric.compute()["mAP"], abs=1e-6)


class TestByHand:
    def test_the_truth_is_perfect(self):
        _, targets = scenes(np.random.default_rng(0), images=50, classes=10, detections=0, objects=12, crowds=0.2)
        results = [boxes(t["boxes"][~t["crowd"]], classes=t["classes"][~t["crowd"]]) for t in targets]
        metrics = metric_of(results, targets, 10).compute()
        assert {key: f"{value:.12f}" for key, value in metrics.items() if key not in ("AR1", "AR10")} == dict.fromkeys(
            ["mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR100"], "1.000000000000"
        )

    @pytest.mark.parametrize(
        ("overlap", "thresholds"), [(0.72, 5), (0.51, 1), (0.49, 0), (0.96, 10), (0.94, 9), (0.76, 6)]
    )
    def test_shifted_boxes_count_up_to_their_overlap(self, overlap, thresholds):
        """A box of width 100 shifted by d overlaps by (100 - d) / (100 + d): right at so many of the ten thresholds."""
        shift = 100 * (1 - overlap) / (1 + overlap)
        truth = [[50.0, 20, 150, 80], [300, 200, 400, 260]]
        moved = np.asarray(truth) + [shift, 0, shift, 0]
        metrics = metric_of(
            [boxes(moved), boxes(moved - [2 * shift, 0, 2 * shift, 0])], [target(3, truth), target(1, truth)], 1
        ).compute()
        assert metrics["mAP"] == pytest.approx(thresholds / 10, abs=1e-12)
        assert metrics["AP50"] == pytest.approx(float(thresholds >= 1), abs=1e-12)
        assert metrics["AP75"] == pytest.approx(float(thresholds >= 6), abs=1e-12)

    def test_half_found(self):
        """Precision 1 up to recall 1/2, which is 51 of the 101 levels; one wrong box in front of both halves that."""
        truth = [[0.0, 0, 50, 50], [100, 100, 150, 150]]
        assert metric_of([boxes(truth[:1])], [target(0, truth)], 1).compute()["mAP"] == pytest.approx(51 / 101)
        behind = boxes([truth[0], [300, 300, 340, 340]], scores=[0.9, 0.8])
        assert metric_of([behind], [target(0, truth)], 1).compute()["mAP"] == pytest.approx(51 / 101)
        before = boxes([[300, 300, 340, 340], truth[0]], scores=[0.9, 0.8])
        assert metric_of([before], [target(0, truth)], 1).compute()["mAP"] == pytest.approx(51 / 101 / 2)

    def test_boxes_in_a_crowd_count_nowhere(self):
        truth = target(0, [[0, 0, 50, 50], [100, 100, 300, 300]], crowd=[False, True])
        found = boxes([[110, 110, 130, 130], [200, 150, 240, 190], [0, 0, 50, 50]])
        assert metric_of([found], [truth], 1).compute()["mAP"] == pytest.approx(1.0)
        truth["crowd"][:] = False
        assert metric_of([found], [truth], 1).compute()["mAP"] < 0.3

    def test_sizes_go_by_the_area_of_the_annotation(self):
        truth = [[0.0, 0, 100, 100]]
        by_box = metric_of([boxes(truth)], [target(0, truth)], 1).compute()
        assert "AP_large" in by_box and "AP_small" not in by_box and "AP_medium" not in by_box
        thin = metric_of([boxes(truth)], [target(0, truth, areas=np.array([900.0]))], 1).compute()
        assert "AP_small" in thin and "AP_large" not in thin

    def test_before_anything_is_judged_it_says_what_there_will_be(self):
        assert metric_of([], [], 2).compute() == dict.fromkeys(METRICS, 0.0) and metric_of([], [], 2).table() == []
        assert all(np.isfinite(v) for v in metric_of([boxes([])], [target(0, [])], 2).compute().values())

    def test_confusion(self):
        """Found as itself, found as another class, missed, false alarm, in a crowd, below the score."""
        truth = target(
            5,
            [[0, 0, 50, 50], [100, 0, 150, 50], [200, 0, 250, 50], [0, 100, 400, 400]],
            classes=[0, 1, 2, 0],
            crowd=[0, 0, 0, 1],
        )
        truth["crowd"] = truth["crowd"].astype(bool)
        found = boxes(
            [[0, 0, 50, 48], [101, 0, 150, 50], [300, 0, 350, 50], [20, 120, 60, 160], [200, 0, 250, 50]],
            scores=[0.9, 0.8, 0.7, 0.6, 0.1],
            classes=[0, 2, 1, 0, 2],
        )
        matrix = metric_of([found], [truth], 3).confusion()
        expected = np.zeros((4, 4), int)
        expected[0, 0] = expected[1, 2] = expected[2, 3] = expected[3, 1] = 1
        assert matrix.tolist() == expected.tolist()
        assert metric_of([found], [truth], 3, score=0.05).confusion()[2, 2] == 1
        assert matrix.sum(1)[:3].tolist() == [1, 1, 1]  # single objects of each class

    def test_curves(self):
        truth = [[0.0, 0, 50, 50], [100, 100, 150, 150]]
        found = boxes([truth[0], [300, 300, 340, 340], [100, 100, 150, 144]], scores=[0.9, 0.8, 0.7])
        curves = metric_of([found], [target(0, truth)], 2, class_names=["cat", "dog"]).curves()
        assert list(curves["classes"]) == ["cat"] and curves["recall"][50] == 0.5 and len(curves["recall"]) == 101
        half = curves["classes"]["cat"]
        assert half["0.50"] == pytest.approx([1.0] * 51 + [2 / 3] * 50) and curves["mean"]["0.50"] == half["0.50"]
        assert half["score"] == pytest.approx([0.9] * 51 + [0.7] * 50)


class TestManyProcesses:
    def test_order_and_shares_change_no_digit(self):
        results, targets = scenes(np.random.default_rng(9), images=41, classes=7, detections=50, tied=True)
        whole = metric_of(results, targets, 7)
        order = np.random.default_rng(1).permutation(len(results))
        parts = [CocoAP(7) for _ in range(3)]
        for i, number in enumerate(order):
            parts[i % 2].update([results[number]], [targets[number]])  # the third process has no image at all
        parts[1].update([results[order[0]]], [targets[order[0]]])  # one image twice, as a padded shard has it
        merged = CocoAP(7)
        merged.load(merged.merge([part.state() for part in parts]))
        assert merged.compute() == whole.compute()
        assert [str(row) for row in merged.table()] == [str(row) for row in whole.table()]
        for key, value in whole.state().items():
            np.testing.assert_array_equal(merged.state()[key], value, err_msg=key)

    def test_load_replaces(self):
        results, targets = scenes(np.random.default_rng(3), images=6, classes=2, detections=10)
        metric = CocoAP(2)
        empty = metric.state()
        metric.update(results, targets)
        assert metric.compute()["AR100"] > 0
        metric.load(empty)
        assert metric.compute() == dict.fromkeys(METRICS, 0.0)

    def test_the_default_is_a_sum(self):
        parts = [{"n": np.array([1, 2])}, {"n": np.array([10, 20])}]
        assert Metric.merge(Metric(2), parts)["n"].tolist() == [11, 22]

    @pytest.mark.slow
    def test_two_real_processes(self, tmp_path):
        """The Evaluator over a data set in shares of unequal size, with ragged states."""
        digits = {}
        for world in (1, 2):
            env = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES" and not k.startswith("PADDLE_")}
            env["PYTHONPATH"] = os.pathsep.join([str(SCRIPT.parents[2]), env.get("PYTHONPATH", "")])
            launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path / "log")]
            command = [sys.executable, *(launcher if world == 2 else []), str(SCRIPT), str(tmp_path / str(world))]
            done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
            logs = "".join(p.read_text()[-2000:] for p in tmp_path.glob("log/workerlog.*"))
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + logs
            ranks = [json.loads((tmp_path / f"{world}.{rank}.json").read_text()) for rank in range(world)]
            assert all(metrics == ranks[0] for metrics in ranks)
            digits[world] = {key: float(value).hex() for key, value in ranks[0].items()}
        assert digits[1] == digits[2] and 0 < float.fromhex(digits[1]["mAP"]) < 1


class TestFiles:
    def test_pictures_show_the_worst_images(self, tmp_path):
        for i in range(3):
            Image.fromarray(np.full((80, 90, 3), 120, np.uint8)).save(tmp_path / f"i{i}.png")
        names = [str(tmp_path / f"i{i}.png") for i in range(3)] + [str(tmp_path / "gone.png")]
        truth = [[10.0, 10, 40, 40], [50, 30, 80, 70]]
        results = [
            boxes([*truth, [5, 50, 30, 75]][:n], scores=[0.9] * n, name=name) for n, name in zip((2, 3, 1, 0), names)
        ]
        metric = metric_of(results, [target(i, truth) for i in range(4)], 1, class_names=["bear"])
        (tmp_path / "out").mkdir()
        files = {path.relative_to(tmp_path / "out").as_posix() for path in metric.write(tmp_path / "out")}
        assert files == {
            "detections.json", "curves.json", "confusion.json", "curves.png", "confusion.png",
            "pictures/i0.png", "pictures/i1.png", "pictures/i2.png",
        }  # fmt: skip
        assert all((tmp_path / "out" / file).stat().st_size > 20 for file in files)
        colours = {}
        for i in range(3):
            pixels = np.asarray(Image.open(tmp_path / f"out/pictures/i{i}.png")).reshape(-1, 3)
            colours[i] = {tuple(c) for c in np.unique(pixels, axis=0).tolist()}
        green, red, yellow = (0, 170, 0), (220, 0, 0), (255, 210, 0)
        assert [green in colours[i] for i in range(3)] == [True, True, True]
        assert [red in colours[i] for i in range(3)] == [False, True, False]
        assert [yellow in colours[i] for i in range(3)] == [False, False, True]
        matrix = json.loads((tmp_path / "out/confusion.json").read_text())["matrix"]
        assert matrix == [[5, 3], [1, 0]]

    def test_a_hit_is_of_the_same_class_and_finds_one_object(self):
        places = np.array([[0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]], np.float32)
        predicted = {"boxes": places, "classes": np.array([1, 1, 0])}
        objects = {"boxes": places[[0, 2, 0]], "classes": np.array([1, 1, 0])}
        hit, found = verdict(predicted, objects, 0.5)
        assert hit.tolist() == [True, False, False] and found.tolist() == [True, False, False]

    @pytest.mark.slow
    def test_the_command_writes_them(self, tmp_path, capsys):
        recipe, weights = write_detection_recipe(tmp_path)
        out = tmp_path / "judged"
        assert main(["eval", "-c", str(recipe), "--model_path", str(weights), "--output_eval", str(out)]) == 0
        metrics = json.loads((out / "metrics.json").read_text())["figures"]
        assert next(iter(metrics)) == "mAP" and "AP_small" in metrics and "AP_large" not in metrics
        assert f"[EVAL] #Images: 3 mAP: {metrics['mAP']:.4f} AP50:" in capsys.readouterr().out
        rows = json.loads((out / "detections.json").read_text())
        assert {row["image_id"] for row in rows} == {1, 2, 3} and {row["category_id"] for row in rows} == {5, 6, 7}
        assert len(list((out / "pictures").iterdir())) == 3 and (out / "curves.png").is_file()

    def test_nothing_judged_writes_files_all_the_same(self, tmp_path):
        metric_of([boxes([])], [target(0, [])], 2).write(tmp_path)
        assert json.loads((tmp_path / "detections.json").read_text()) == []

    def test_without_matplotlib_only_the_plots_are_missing(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        files = metric_of([boxes([[0, 0, 9, 9]])], [target(0, [[0, 0, 9, 9]])], 1).write(tmp_path)
        assert [path.name for path in files] == ["detections.json", "curves.json", "confusion.json"]
        assert "ppvision[detection]" in caplog.text


class TestMistakes:
    @pytest.mark.parametrize(
        ("result", "truth", "message"),
        [
            (boxes([[0, 0, 1, np.nan]], name="a.jpg"), target(0, []), "a.jpg: the prediction holds NaN"),
            (boxes([[0, 0, 1, 1]], scores=[np.inf]), target(0, []), "the prediction holds NaN or infinity"),
            (boxes([[0, 0, 1, 1]], classes=[2]), target(0, []), "class 2..2, expected 0..1"),
            (boxes([]), target(0, [[0, 0, 1, 1]], classes=[-1]), "the annotation has class -1..-1"),
            (boxes([]), target(0, [[0, 0, 1, 1]], classes=[0, 1]), "arrays of \\[1, 2\\] rows"),
            (boxes([]), {k: v for k, v in target(0, []).items() if k != "image_id"}, "no image_id"),
        ],
    )
    def test_are_named(self, result, truth, message):
        with pytest.raises(UserError, match=message):
            metric_of([result], [truth], 2)

    def test_lengths_and_options(self):
        with pytest.raises(UserError, match="1 results for 0 targets"):
            metric_of([boxes([])], [], 2)
        with pytest.raises(UserError, match="score must be"):
            CocoAP(2, score=1.5)

    def test_the_missing_package_is_said_before_training(self, monkeypatch):
        real = builtins.__import__

        def without(name, *args, **kwargs):
            if name.startswith("faster_coco_eval"):
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(UserError, match=r"pip install 'ppvision\[detection\]'"):
            CocoAP(2)


def test_its_name():
    module, attribute = NAMES["coco"].split(":")
    assert (module, attribute) == (CocoAP.__module__, CocoAP.__name__) and CocoAP.tasks == ("detection",)
