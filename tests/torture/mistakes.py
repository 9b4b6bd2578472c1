"""Mistakes: what can be wrong with a recipe, a data set, a weight file, a checkpoint, and the word that must be said.

A maker changes one thing in a `Case`, which starts as a recipe that trains. Every change is a mistake by construction:
a key that no class has, a value of another type or outside its documented range, a file that is damaged.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
import os
import re
import shutil
import struct
import types
import typing
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from ppvision.config import tree
from ppvision.engine import checkpoint

TRAIN, VAL = 6, 3  # images
NAME = "recipe.yml"
SPEC = {
    "model": {"type": "rtformer_debug", "num_classes": 3},
    "method": {
        "type": "supervised",
        "loss": {"type": "cross_entropy", "label_smoothing": 0.1},
        "aux": [{"level": "c3", "channels": 8, "weight": 0.4}],
    },
    "data": {
        "type": "seg_list",
        "root": None,
        "workers": 0,
        "skip_bad": 0,
        "train": {
            "split": "train",
            "transforms": [
                {"type": "RandomScale", "min": 0.75, "max": 1.5, "step": 0.25},
                {"type": "RandomCrop", "size": [32, 48]},
                {"type": "RandomFlip", "p": 0.5},
                {"type": "ColorJitter", "brightness": 0.2, "p": 0.5},
            ],
        },
        "val": {"split": "val", "transforms": [{"type": "PadTo", "multiple": 16}]},
    },
    "optimizer": {
        "type": "adamw",
        "lr": 2.0e-3,
        "weight_decay": 0.01,
        "betas": [0.9, 0.999],
        "lr_mult": {"aux.*": 10},
    },
    "schedule": {"type": "poly", "power": 0.9, "end_lr": 1.0e-6, "warmup_iters": 1},
    "train": {
        "iters": 4,
        "batch_size": 2,
        "accumulate": 1,
        "amp": "O0",
        "clip_norm": 5.0,
        "ema": 0.9,
        "seed": 3,
        "save_interval": 4,
        "keep": 2,
        "max_bad_steps": 2,
    },
    "eval": {
        "enabled": True,
        "interval": 4,
        "batch_size": 1,
        "metrics": ["mIoU"],
        "best": {"name": "mIoU", "mode": "max"},
        "flip": False,
        "scales": [1.0],
        "slide": {"crop": [32, 48], "stride": [16, 48]},
    },
    "export": {"tolerance": 1.0e-4, "formats": ["paddle"]},
    "log": {"interval": 2},
}
DATA_TRAIN, DATA_VAL = "data.train.transforms", "data.val.transforms"
# Values of a type that the key does not take.
WRONG_TYPE: dict[str, list[Any]] = {
    "model": ["rtformer_debug", 3, ["rtformer_debug"]],
    "model.type": [3, ["rtformer_debug"], {"name": "rtformer_debug"}],
    "model.num_classes": ["three", 3.5, [3], None],
    "model.weights": [5, ["a.pdparams"]],
    "model.drop": ["some", [0.1]],
    "model.layer_nums": [2, [2, 2], "222"],
    "method": ["supervised", ["supervised"]],
    "method.loss": ["cross_entropy", 3, ["cross_entropy"]],
    "method.loss.label_smoothing": ["a little", [0.1], True],
    "method.aux": ["c3", 3, {"level": "c3", "channels": 8}],
    "method.aux.0": ["c3", 3, ["c3"]],
    "method.aux.0.level": [3, ["c3"], {"name": "c3"}],
    "method.aux.0.channels": ["eight", 8.5, None, [8]],
    "method.aux.0.weight": ["half", [0.4], {"main": 0.4}],
    "data": ["seg_list", 3, ["seg_list"]],
    "data.type": [3, ["seg_list"]],
    "data.root": [5, ["a", "b"]],
    "data.workers": ["two", 1.5, True, None],
    "data.skip_bad": ["few", 0.5],
    "data.mean": [127.5, [127.5, 127.5], ["a", "b", "c"]],
    "data.train": ["train", ["train"]],
    "data.train.split": [3, ["train"]],
    DATA_TRAIN: ["RandomFlip", 3, {"type": "RandomFlip"}],
    f"{DATA_TRAIN}.0": ["RandomScale", 3, ["RandomScale"]],
    f"{DATA_TRAIN}.0.min": ["small", [0.75], True],
    f"{DATA_TRAIN}.1.size": [32, "32x48", [32.5, 48], ["a", "b"]],
    f"{DATA_TRAIN}.2.p": ["half", [0.5], True],
    f"{DATA_TRAIN}.3.brightness": ["high", [0.2]],
    f"{DATA_VAL}.0.multiple": ["big", 2.5],
    "optimizer": ["adamw", 5],
    "optimizer.lr": ["fast", [1.0e-3], None, True],
    "optimizer.betas": [0.9, [0.9], ["a", "b"]],
    "optimizer.weight_decay": ["none", [0.1]],
    "optimizer.lr_mult": [10, ["aux.*"], {"aux.*": "ten"}],
    "optimizer.no_decay": ["1d", 3],
    "schedule": ["poly", 3],
    "schedule.power": ["linear", [1.0]],
    "schedule.warmup_iters": [1.5, "one"],
    "train": [4, "long", ["iters"]],
    "train.iters": ["many", 4.5, [4], True, {"count": 4}],
    "train.batch_size": ["two", 2.5, None],
    "train.ema": ["yes", True, [0.9]],
    "train.seed": ["random", 1.5],
    "train.amp": [1, True],
    "train.clip_norm": ["big", [5.0]],
    "train.save_interval": ["often", 1.5],
    "train.overwrite": ["of course", 1],
    "eval": [True, "no", ["mIoU"]],
    "eval.enabled": ["of course", 2],
    "eval.metrics": ["mIoU", 3, [3], {"type": "mIoU"}],
    "eval.best": ["mIoU", ["mIoU"]],
    "eval.best.name": [3, ["mIoU"]],
    "eval.best.mode": [1],
    "eval.flip": ["left", 3],
    "eval.scales": [1.0, "1.0", ["big"]],
    "eval.slide": [[32, 48], True, "whole"],
    "eval.slide.crop": [32, [32], "32x48"],
    "export.formats": ["paddle", [3]],
    "export.tolerance": ["small", [1.0e-4]],
    "log.interval": ["often", 1.5, None],
    "log.vdl": ["on request", 1],
}
NAN, INF = float("nan"), float("inf")
# Values of the right type that cannot mean anything.
OUT_OF_RANGE: dict[str, list[Any]] = {
    "model.num_classes": [0, -3, 5, 300],
    "model.base_channels": [0, -8],
    "model.num_heads": [0, 7],
    "model.drop": [1.5, -0.1],
    "model.drop_path": [1.5, -0.1],
    "model.cross_size": [0],
    "model.in_channels": [1, 0],
    "model.bn_momentum": [1.5, -0.1, NAN],
    "model.head_channels": [0, -16],
    "model.spp_channels": [0],
    "model.layer_nums": [[0, 1, 1], [2, -1, 2]],
    "method.output_weights": [[], [-1.0], [0.0], [NAN]],
    "method.loss.ignore_index": [0, 254, 2**40],
    "method.loss.label_smoothing": [1.0, 1.5, -0.1, NAN],
    "method.loss.class_weights": [[1.0, 2.0], [1.0] * 4, [], [1.0, -1.0, 1.0], [1.0, NAN, 1.0], [0.0, 0.0, 0.0]],
    "method.aux.0.level": ["c9", "C3", ""],
    "method.aux.0.channels": [0, -8],
    "method.aux.0.weight": [NAN, INF, -0.4],
    "data.workers": [-1, 5000],
    "data.train.num_classes": [0, -1, 2, 5, 256],
    "data.train.separator": [""],
    "data.skip_bad": [-1],
    "data.train.split": ["trian", "test", ""],
    "data.val.split": ["vla", "training"],
    f"{DATA_TRAIN}.0.min": [0.0, -1.0, 5.0],
    f"{DATA_TRAIN}.0.max": [0.1, 1.0e9, INF],
    f"{DATA_TRAIN}.0.step": [-0.25, 1.0e-12, NAN],
    f"{DATA_TRAIN}.1.size": [[0, 48], [-1, 48], [32], [32, 48, 3]],
    f"{DATA_TRAIN}.1.pad_value": [300.0, -1.0],
    f"{DATA_TRAIN}.1.ignore": [256, -1, 3, 254],
    f"{DATA_TRAIN}.2.p": [1.5, -0.5, NAN],
    f"{DATA_TRAIN}.3.brightness": [-0.2, 50.0],
    f"{DATA_TRAIN}.3.contrast": [NAN, 1.5],
    f"{DATA_TRAIN}.3.saturation": [-1.0],
    f"{DATA_TRAIN}.3.hue": [400.0, -18.0],
    f"{DATA_VAL}.0.multiple": [0, -16, 2**40],
    f"{DATA_VAL}.0.size": [[0, 16], [16], [2**20, 2**20]],
    f"{DATA_VAL}.0.value": [256.0, -1.0],
    "optimizer.lr": [-0.1, NAN, INF],
    "optimizer.betas": [[1.5, 0.9], [0.9, -1.0], [0.9, 1.0], [NAN, 0.9]],
    "optimizer.weight_decay": [-0.1, NAN],
    "optimizer.epsilon": [-1.0e-8, 0.0, NAN],
    "optimizer.lr_mult": [{"aux.*": NAN}, {"aux.*": INF}, {"aux.*": -1.0}, {"nowhere.*": 2.0}],
    "optimizer.no_decay": [["nrom"], ["1d", "spq.*"]],
    "optimizer.layer_decay": [
        {"rate": 0.5},
        {"layers": ["model.*"]},
        {"rate": 2.0, "layers": ["model.*"]},
        {"rate": NAN, "layers": ["model.*"]},
        {"rate": 0.0, "layers": ["model.*"]},
        {"rate": 0.5, "layers": ["nowhere.*"]},
        {"rate": 0.5, "layers": ["model.*"], "first": 1},
    ],
    "schedule.warmup_iters": [-1],
    "schedule.warmup_start_lr": [-1.0e-3, 1.0, NAN],
    "schedule.end_lr": [-1.0e-3, 1.0, NAN],
    "schedule.power": [NAN, -1.0],
    "train.iters": [0, -3],
    "train.batch_size": [0, -2, 100],
    "train.accumulate": [0],
    "train.amp": ["O3", "fp16"],
    "train.amp_dtype": ["float8", "fp16"],
    "train.clip_norm": [-1.0, NAN],
    "train.ema": [1.0, 1.5, -0.1, NAN],
    "train.seed": [-1, 2**70],
    "train.profiler": ["batch_range=[5,2]", "nonsense", "batch_range=[-3,2]", "state=TPU"],
    "train.device": ["tpu", "cuda"],
    "train.save_interval": [0, -1],
    "train.keep": [0, -1],
    "train.loss_scale": [0.0, -1.0, 0.5, 1.0e30, INF],
    "train.max_bad_steps": [-1],
    "train.repeats": [0],
    "train.early_stop": [0],
    "eval.interval": [0, -4],
    "eval.batch_size": [0, -1],
    "eval.workers": [-1, 5000],
    "eval.scales": [[0.0], [-1.0], [], [NAN], [1.0e9], [1.0, 0.0]],
    "eval.task": ["segmentatoin", ""],
    "eval.best.name": ["miou", "top1"],
    "eval.best.mode": ["highest", "MAX"],
    "eval.metrics": [[]],
    "eval.slide.crop": [[0, 48], [-32, 48]],
    "eval.slide.stride": [[0, 0], [64, 48]],
    "export.tolerance": [-1.0, NAN],
    "export.agreement": [-0.5, 1.5],
    "export.formats": [["onyx"], ["paddle", "tflite"]],
    "export.output_op": ["argmin"],
    "export.input_shape": [[], [1, 3, 64], [1, 1, 64, 64], [0, 3, 64, 64], [1, 3, -2, 64]],
    "export.save_name": ["", "a/b", ".."],
    "log.dir": [""],
    "log.interval": [0, -5],
}
# The same where another component stands: (what is put into the recipe first, path, values).
MOMENTUM = {"optimizer": {"type": "momentum", "lr": 0.01}}
SGD, LARS = {"optimizer": {"type": "sgd", "lr": 0.01}}, {"optimizer": {"type": "lars", "lr": 0.01}}
STEP = {"schedule": {"type": "step", "milestones": [2]}}
COSINE = {"schedule": {"type": "cosine"}}
BARE = {"method.aux": [], "optimizer.lr_mult": {}}


def standing(model: str, **more: Any) -> dict[str, Any]:
    """Another network without auxiliary heads."""
    return {"model": {"type": model, "num_classes": 3, **more}, **BARE}


def first(transform: str, **more: Any) -> dict[str, Any]:
    """Another transform at the beginning."""
    return {f"{DATA_TRAIN}.0": {"type": transform, **more}}


UHRNET, UPERNET = standing("uhrnet_debug"), standing("upernet_maformer_debug")
CAE, RESIZE = standing("upernet_cae_v2_debug"), first("Resize", size=[48, 64])
ELSEWHERE: list[tuple[dict[str, Any], str, list[Any]]] = [
    ({"optimizer.model": {}}, "optimizer.model.lr", [-1.0, NAN, "fast"]),
    ({"optimizer.model": {}}, "optimizer.model.betas", [[0.9, 2.0], [0.9]]),
    (MOMENTUM, "optimizer.momentum", [1.0, -0.1, NAN]),
    (MOMENTUM, "optimizer.lr", [-1.0, INF]),
    (SGD, "optimizer.weight_decay", [-1.0]),
    (LARS, "optimizer.trust", [0.0, -1.0, NAN]),
    (LARS, "optimizer.weight_decay", [-0.1]),
    (LARS, "optimizer.momentum", [1.5]),
    (STEP, "schedule.milestones", [[], [3, 2], [2, 2], [0], [-1], [0.5, 3], [NAN]]),
    (STEP, "schedule.gamma", [0.0, -0.1, 2.0, NAN]),
    (COSINE, "schedule.end_lr", [-1.0, 1.0]),
    (UHRNET, "model.num_classes", [0, -1]),
    (UHRNET, "model.width", [0, 3, -2]),
    (UHRNET, "model.blocks", [0, -1]),
    (UHRNET, "model.stem_blocks", [0]),
    (UHRNET, "model.modules", [[1] * 7 + [0], [1] * 7]),
    (UHRNET, "model.init", ["zeros"]),
    (UPERNET, "model.channels", [0, -16]),
    (UPERNET, "model.bins", [[], [0], [1, -2]]),
    (UPERNET, "model.image_size", [0, -64]),
    (UPERNET, "model.fused_stages", [-1, 9]),
    (UPERNET, "model.drop_path", [1.0, -0.1]),
    (UPERNET, "model.backbone", ["huge"]),
    (UPERNET, "model.fusion", ["sum"]),
    (CAE, "model.channels", [0]),
    (CAE, "model.image_size", [0, 63]),
    (CAE, "model.drop_path", [1.0]),
    (CAE, "model.bins", [[0]]),
    (standing("maformer_debug"), "model.num_classes", [-1]),
    (standing("maformer_debug"), "model.head_dim", [0, 5]),
    (standing("maformer_debug"), "model.windows", [[4, 4], [4, 4, 4, 0]]),
    (standing("maformer_debug"), "model.depths", [[], [0, 1, 1, 1]]),
    (standing("maformer_debug"), "model.mlp_ratio", [0.0, -4.0, NAN]),
    (standing("maformer_debug"), "model.stem", [[0, 4, 2], [7, 3, 2], [7, 4, -1]]),
    (standing("cae_v2_debug"), "model.patch_size", [0, -4, 25]),
    (standing("cae_v2_debug"), "model.num_heads", [0, 5]),
    (standing("cae_v2_debug"), "model.dim", [0, -4]),
    (standing("cae_v2_debug"), "model.depth", [0]),
    (RESIZE, f"{DATA_TRAIN}.0.size", [[0, 4], [4], [2**20, 2**20]]),
    (RESIZE, f"{DATA_TRAIN}.0.multiple_of", [0, -1, 2**40]),
    (RESIZE, f"{DATA_TRAIN}.0.max", [64]),
    (RESIZE, f"{DATA_TRAIN}.0.short", [64]),
    (RESIZE, f"{DATA_TRAIN}.0.interpolation", ["bilinear", ""]),
    (first("Resize", short=48), f"{DATA_TRAIN}.0.short", [0, -1, 2**40]),
    (first("Resize", short=48), f"{DATA_TRAIN}.0.max", [0]),
    (first("Resize", short=48), f"{DATA_TRAIN}.0.keep_ratio", [True]),
    (first("RandomResizedCrop", size=[32, 48]), f"{DATA_TRAIN}.0.scale", [[0.0, 1.0], [0.5, 2.0], [0.9, 0.1], [0.5]]),
    (first("RandomResizedCrop", size=[32, 48]), f"{DATA_TRAIN}.0.ratio", [[0.0, 1.0], [2.0, 1.0], [1.0, NAN]]),
    (first("CenterCrop", size=[32, 48]), f"{DATA_TRAIN}.0.size", [[0, 4], [-1, 4], [4]]),
]
# A run that was begun cannot go on with these.
BREAKING: dict[str, list[Any]] = {
    "train.batch_size": [1, 3],
    "train.accumulate": [2],
    "train.seed": [4],
    "train.clip_norm": [None, 1.0],
    "train.ema": [None, 0.5],
    "train.repeats": [2],
    "model.drop_path": [0.3],
    "model.num_heads": [4],
    "model.type": ["uhrnet_debug"],
    "method.aux.0.weight": [0.5],
    "method.loss.label_smoothing": [0.2],
    "data.train.split": ["val"],
    f"{DATA_TRAIN}.0.min": [0.5],
    f"{DATA_TRAIN}.1.size": [[16, 16]],
    f"{DATA_TRAIN}.2": [{"type": "RandomFlip", "vertical": True}],
    "optimizer.lr": [1.0e-3],
    "optimizer.type": ["momentum"],
    "optimizer.weight_decay": [0.1],
    "optimizer.betas": [[0.8, 0.9]],
    "schedule.power": [1.0],
    "schedule.type": ["cosine"],
    "schedule.warmup_iters": [0],
}
# Parts of other packages that cannot be what they are named as: (path, value, words).
FOREIGN: list[tuple[str, Any, tuple[str, ...]]] = [
    ("model.type", "paddle.nn.Linear", ("model", "paddle.nn.Linear")),
    ("model", {"type": "paddle.nn.Conv2D", "in_channels": 3, "out_channels": 0, "kernel_size": 1}, ("model",)),
    ("model", {"type": "paddle.nn.Conv2D", "in_channels": 3, "out_channels": 3, "kernel_size": "x"}, ("model",)),
    ("model", {"type": "paddle.nn.Conv2D", "in_channels": 3, "out_channels": 3, "kernel_size": 1}, ("data.mean",)),
    ("model", {"type": "paddle.vision.models.resnet18", "num_classes": "many"}, ("model",)),
    ("model", {"type": "paddle.nn.Sequential", "layer": 3}, ("layer",)),
    ("method.loss", {"type": "paddle.nn.CrossEntropyLoss"}, ("method.loss",)),
    ("method.loss", {"type": "paddle.nn.L1Loss"}, ("method.loss",)),
    ("method.loss", {"type": "paddle.nn.L1Loss", "reduction": "most"}, ("method.loss", "reduction")),
    ("method.loss", {"type": "paddle.nn.functional.cross_entropy"}, ("method.loss",)),
    ("method.loss", {"type": "os.system"}, ("os.system",)),
    ("method.type", "paddle.nn.Linear", ("paddle.nn.Linear",)),
    (
        "method.aux.0",
        {"type": "paddle.nn.Linear", "level": "c3", "in_features": 3, "out_features": 3},
        ("method.aux.0",),
    ),
    ("optimizer", {"type": "paddle.optimizer.Adam", "lr": 0.1}, ("optimizer",)),
    ("schedule", {"type": "paddle.optimizer.lr.PolynomialDecay"}, ("schedule",)),
    ("data.type", "paddle.vision.datasets.MNIST", ("data", "data.train")),
    (f"{DATA_TRAIN}.2", {"type": "paddle.vision.transforms.RandomHorizontalFlip"}, ("RandomHorizontalFlip",)),
]
UNKNOWN_NAME: dict[str, list[Any]] = {
    "model.type": ["rtformer_debog", "resnet", "nowhere.models.Net", "ppvision.models.rtformer.Nothing"],
    "method.type": ["supervized", "gan", "adversary_nowhere.Method", "ppvision.methods.base.Metod"],
    "method.loss.type": ["cross_entropi", "dice", "ppvision.losses.cross_entropy.CrossEntropyy"],
    "method.aux.0.type": ["seg_haed", "fcn"],
    "data.type": ["seg_lst", "pascal", "cityscape"],
    f"{DATA_TRAIN}.0.type": ["RandomScal", "ResizeStepScaling", "ppvision.data.transforms.image.Nothing"],
    f"{DATA_TRAIN}.2.type": ["Flip", "random_flip"],
    f"{DATA_VAL}.0.type": ["Padd", "PadToo"],
    "optimizer.type": ["adamv", "Adamax"],
    "schedule.type": ["polynomial", "kosine"],
    "eval.metrics": [["mIou"], ["accuracy"], ["mIoU", "IoU"]],
}
MISSING = {  # path -> the word for it
    "model": "model",
    "model.type": "type",
    "method.loss.type": "loss",
    "method.aux.0.level": "level",
    "method.aux.0.channels": "channels",
    "data": "data",
    "data.type": "type",
    "data.root": "root",
    "data.train": "train",
    "data.val": "val",
    "data.train.split": "split",
    "data.val.split": "split",
    f"{DATA_TRAIN}.0.type": "type",
    f"{DATA_TRAIN}.1.size": "size",
    "optimizer.lr": "lr",
    "train": "iters",
    "train.iters": "iters",
    "eval.metrics": "metrics",
    "eval.slide.crop": "crop",
    "eval.slide.stride": "stride",
}
FLAGS: list[tuple[list[str], str]] = [  # (what is added to `train -c recipe.yml`, the word)
    (["-o", "train.itres=5"], "itres"),
    (["-o", "train.iters=abc"], "iters"),
    (["-o", "train.iters"], "train.iters"),
    (["-o", "train.iters="], "iters"),
    (["-o", "=5"], "=5"),
    (["-o", "train..iters=3"], "train..iters"),
    (["-o", "train.iters.count=5"], "count"),
    (["-o", "train.iters=[1"], "iters"),
    (["-o", "modl.type=rtformer_debug"], "modl"),
    (["-o", "model=unet"], "model"),
    (["-o", f"{DATA_TRAIN}.9.size=3"], "transforms"),
    (["-o", f"{DATA_TRAIN}.first.size=3"], "transforms"),
    (["-o", "optimizer.lr=4e-4x"], "lr"),
    (["-o", "train.amp=O7"], "amp"),
    (["-o", "eval.flip=maybe"], "flip"),
    (["-o", "data.root=/nowhere/at/all"], "/nowhere/at/all"),
    (["-o", "optimizer.lr_mult={auks.*: 2}"], "auks.*"),
    (["--itres", "5"], "--itres"),
    (["--iters"], "--iters"),
    (["--iters", "4.5"], "--iters"),
    (["--batch_size", "two"], "--batch_size"),
    (["--batch_size=0"], "batch_size"),
    (["--seed", "x"], "--seed"),
    (["--learning_rate", "fast"], "--learning_rate"),
    (["--save_interval", "-1"], "save_interval"),
    (["--device", "tpu"], "tpu"),
    (["--device", "gpu"], "device"),
    (["--precision", "fp8"], "--precision"),
    (["--amp_level", "O9"], "--amp_level"),
    (["--ema_decay", "1.5"], "ema"),
    (["--use_wandb"], "--use_wandb"),
    (["--model_path", "/nowhere/model"], "/nowhere/model"),
    (["--resume", "/nowhere/run"], "/nowhere/run"),
    (["stray"], "stray"),
]
UPSTREAM = {
    "PaddleSeg": "batch_size: 4\niters: 80000\ntrain_dataset:\n  type: Dataset\n  dataset_root: data\n"
    "optimizer:\n  type: sgd\n  momentum: 0.9\nlr_scheduler:\n  type: PolynomialDecay\n  learning_rate: 0.01\n"
    "loss:\n  types:\n    - type: CrossEntropyLoss\n  coef: [1]\nmodel:\n  type: PPLiteSeg\n",
    "PaddleSeg, based": "_base_: recipe_base.yml\nbatch_size: 4\niters: 80000\nmodel:\n  type: RTFormer\n",
    "PaddleDetection": "_BASE_: ['../datasets/coco_detection.yml', '../runtime.yml']\nweights: output/model_final\n",
    "PaddleDetection, whole": "architecture: DETR\npretrain_weights: https://example.com/r50.pdparams\n"
    "DETR:\n  backbone: ResNet\n  transformer: DETRTransformer\nworker_num: 2\n",
    "PaddleDetection, tagged": "metric: COCO\nTrainDataset:\n  !COCODataSet\n    image_dir: train2017\n",
    "PaddleClas": "Global:\n  epochs: 120\n  output_dir: ./output/\nArch:\n  name: ResNet50\nLoss:\n  Train:\n"
    "    - CELoss:\n        weight: 1.0\n",
    "Paddle3D": "batch_size: 1\nepochs: 80\ntrain_dataset:\n  type: KittiPCDataset\n  dataset_root: datasets/KITTI\n"
    "  transforms:\n    - type: LoadPointCloud\n      dim: 4\n",
}


@dataclass
class Stock:
    """What all mutants start from: a data set, a trained run, weights of another network."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def spec(self) -> dict[str, Any]:
        spec = copy.deepcopy(SPEC)
        spec["data"]["root"] = str(self.data)
        return spec


@dataclass
class Case:
    """One mutant in the making.

    Attributes:
        folder: its own; spec: the recipe, to be changed in place, or `text` instead of it.
        flags: added to the command line; verb: the command, without `-c` if `bare`.
        words: of which the message must contain one; what: the mistake in words; path: the key that is wrong, if there
            is one: its line in the recipe, or that of what it belongs to, names it too.
        statuses: exit statuses that are right; untouched: the run folder may not appear.
        guarded: a folder in which no byte may change.
    """

    stock: Stock
    folder: Path
    rng: np.random.Generator
    spec: dict[str, Any]
    text: str | bytes | None = None
    verb: tuple[str, ...] = ("train",)
    flags: list[str] = field(default_factory=list)
    bare: bool = False
    words: tuple[str, ...] = ()
    what: str = ""
    path: str = ""
    statuses: tuple[int, ...] = (2,)
    untouched: bool = True
    guarded: Path | None = None

    @property
    def recipe(self) -> Path:
        return self.folder / NAME

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def pick(self, items: Any) -> Any:
        items = list(items)
        return items[int(self.rng.integers(len(items)))]

    def copy_data(self) -> Path:
        """A data set of its own; `data.workers` is drawn, for a mistake must look the same from a worker."""
        root = self.folder / "data"
        shutil.copytree(self.stock.data, root)
        self.spec["data"]["root"] = str(root)
        self.spec["data"]["workers"] = self.pick([0, 0, 2])
        self.untouched = False
        return root

    def lines(self) -> tuple[str, ...]:
        """Where the wrong key stands, "recipe.yml:12", and where what it belongs to does."""
        if not self.path or self.text is not None:
            return ()
        origins = tree.read(str(self.recipe))[1]
        parts = self.path.split(".")
        found = [origins.get(".".join(parts[:n])) for n in range(len(parts), 0, -1)]
        return tuple(Path(origin).name for origin in found if origin)

    def argv(self) -> list[str]:
        """The command line; writes the recipe."""
        text = yaml.safe_dump(self.spec, sort_keys=False) if self.text is None else self.text
        self.recipe.write_bytes(text if isinstance(text, bytes) else text.encode())
        where = [] if self.bare else [str(self.recipe)] if self.verb[0] == "config" else ["-c", str(self.recipe)]
        save = ["--save_dir", str(self.run)] if self.verb[0] == "train" and not self.bare else []
        return [*self.verb, *where, *save, *self.flags]


def at(tree: Any, path: str) -> Any:
    """The node at a dotted path."""
    for part in path.split("."):
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree


def put(tree: Any, path: str, value: Any) -> None:
    """Set the node at a dotted path."""
    above, _, last = path.rpartition(".")
    node = at(tree, above) if above else tree
    node[int(last) if isinstance(node, list) else last] = value


def remove(tree: Any, path: str) -> None:
    """Delete the key at a dotted path."""
    above, _, last = path.rpartition(".")
    del (at(tree, above) if above else tree)[last]


def key_of(path: str) -> str:
    """The last part of a path that is not a list index."""
    return next(part for part in reversed(path.split(".")) if not part.isdecimal())


def key_paths(tree: Any, path: str = "") -> Iterator[str]:
    """Every key of a recipe whose name is fixed (patterns of `lr_mult` are not)."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        here = f"{path}.{key}" if path else str(key)
        if isinstance(tree, dict) and key_of(path or "x") != "lr_mult":
            yield here
        yield from key_paths(value, here)


@cache
def known_names() -> frozenset[str]:
    """Every key that means something anywhere in a recipe: a typo may not hit one."""
    import dataclasses

    from ppvision.config import ORDER, schema
    from ppvision.config.component import TABLES, resolve

    names = {*ORDER, "type", "weights", "transforms", "_base_"}
    for section in (schema.Data, schema.Train, schema.Eval, schema.Export, schema.Log):
        names |= {f.name for f in dataclasses.fields(section)}
    names |= {*schema.Best.__annotations__, *schema.Slide.__annotations__}
    kinds = {"method", "loss", "head", "dataset", "transform", "metric", "optimizer", "schedule"}
    for kind in kinds & set(TABLES):
        module, attribute = TABLES[kind]
        for name in getattr(__import__(module, fromlist=[attribute]), attribute):
            with contextlib.suppress(ImportError, AttributeError):  # a name whose optional package is not installed
                names |= set(inspect.signature(resolve(kind, name)).parameters)
    from ppvision.models import zoo

    return frozenset(names | set(zoo.signature("rtformer_debug").parameters))


def typo(rng: np.random.Generator, word: str) -> str:
    """A slip of the finger: a letter dropped, doubled, exchanged with its neighbour or replaced."""
    while True:
        i, how = int(rng.integers(len(word))), int(rng.integers(4))
        letter = "abcdefghijklmnopqrstuvwxyz"[int(rng.integers(26))]
        slipped = [
            word[:i] + word[i + 1 :],
            word[:i] + word[i] + word[i:],
            word[:i] + word[i + 1 : i + 2] + word[i] + word[i + 2 :],
            word[:i] + letter + word[i + 1 :],
        ][how]
        if slipped not in known_names() and slipped and slipped[0].isalpha():
            return slipped


# ---- recipes


def typo_in_a_key(case: Case) -> None:
    path = case.pick(key_paths(case.spec))
    above, _, key = path.rpartition(".")
    node, wrong = at(case.spec, above) if above else case.spec, typo(case.rng, key)
    items = [(wrong if k == key else k, v) for k, v in node.items()]
    node.clear()
    node.update(items)
    # a required key under another name may be reported as missing, by its full path
    case.words, case.what = (wrong, path), f"{path} spelt {wrong}"


def wrong_type(case: Case) -> None:
    path = case.pick(WRONG_TYPE)
    value = case.pick(WRONG_TYPE[path])
    put(case.spec, path, value)
    case.words, case.what, case.path = (key_of(path),), f"{path} is {value!r}", path


def out_of_range(case: Case) -> None:
    path = case.pick(OUT_OF_RANGE)
    value = case.pick(OUT_OF_RANGE[path])
    put(case.spec, path, value)
    case.words, case.what, case.path = (key_of(path),), f"{path} is {value!r}", path
    if isinstance(value, str):  # naming the value is as good: '... has no list 'trian.txt''
        case.words += (f"{value}.txt", *([value] if value else []))


def out_of_range_elsewhere(case: Case) -> None:
    first, path, values = case.pick(ELSEWHERE)
    value = case.pick(values)
    for place, part in first.items():
        put(case.spec, place, copy.deepcopy(part))
    put(case.spec, path, value)
    kind = at(case.spec, path.rpartition(".")[0]).get("type")
    case.words, case.what, case.path = (key_of(path),), f"{path} of {kind} is {value!r}", path


# What is no value of a type.
NO_VALUE: dict[Any, list[Any]] = {
    int: ["x", 1.5, [1], {"a": 1}, True, "", NAN],
    float: ["x", [1.0], {"a": 1.0}, True, NAN, INF],
    bool: ["of course", 2, [True], 0.5],
    str: [3, ["x"], {"a": "x"}, True],
}


def plain_type(hint: Any) -> type | None:
    """int, float, bool or str if a hint means one of these, or null; lists and the like are left out."""
    options = [o for o in typing.get_args(hint) if o is not type(None)] if is_union(hint) else [hint]
    if len(options) != 1:
        return None
    option = options[0]
    option = typing.get_args(option)[0] if typing.get_origin(option) is typing.Annotated else option
    return option if option in NO_VALUE else None


def is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


@cache
def schema_leaves() -> tuple[tuple[str, type], ...]:
    """Every leaf of the typed sections that is a plain value."""
    from ppvision.config import schema

    sections = {"data": schema.Data, "train": schema.Train, "eval": schema.Eval, "export": schema.Export}
    found = []
    for section, cls in {**sections, "log": schema.Log}.items():
        hints = typing.get_type_hints(cls, include_extras=True)
        found += [(f"{section}.{key}", kind) for key, hint in hints.items() if (kind := plain_type(hint))]
    return tuple(found)


def schema_leaf(case: Case) -> None:
    """A value of another type anywhere in the typed sections, read from the schema itself."""
    path, kind = case.pick(schema_leaves())
    value = case.pick(NO_VALUE[kind])
    put(case.spec, path, value)
    case.words, case.what, case.path = (key_of(path),), f"{path} (any leaf) is {value!r}", path


@cache
def all_arguments() -> tuple[tuple[str, str, str, type], ...]:
    """(kind, type, argument, its type) of every component that a recipe can name."""
    from ppvision.config.component import TABLES, resolve, schema

    found = []
    for kind in ("model", "method", "loss", "head", "dataset", "transform", "metric", "optimizer", "schedule"):
        module, attribute = TABLES[kind]
        for name in getattr(__import__(module, fromlist=[attribute]), attribute):
            with contextlib.suppress(ImportError, AttributeError):  # a name whose optional package is not installed
                for key, parameter in schema(kind, resolve(kind, name)).items():
                    plain = plain_type(parameter.annotation)
                    if plain and (kind, key) not in GIVEN:
                        found.append((kind, name, key, plain))
    return tuple(found)


GIVEN = {  # what the program supplies: not for a recipe to say
    *(("metric", k) for k in ("num_classes", "ignore_index", "class_names")),
    *(("head", k) for k in ("num_in", "num_classes")),
    *(("schedule", k) for k in ("lr", "total")),
}


def any_argument(case: Case) -> None:
    """A value of another type for any argument of any component; `config validate` must find it without building."""
    kind, name, key, plain = case.pick(all_arguments())
    value = case.pick(NO_VALUE[plain])
    part = {"type": name, key: value}
    path = {
        "loss": "method.loss",
        "head": "method.aux.0",
        "dataset": "data.train",
        "transform": f"{DATA_TRAIN}.0",
        "metric": "eval.metrics",
    }.get(kind, kind)
    if kind == "head":
        part["level"] = "c3"
    elif kind == "metric":
        part, path = [part], "eval.metrics"
    elif kind == "dataset":
        part["transforms"] = []
    put(case.spec, path, part)
    case.verb = ("config", "validate")
    case.words, case.what = (key,), f"{kind} {name}: {key} is {value!r}"


def foreign_part(case: Case) -> None:
    """A component of another package that is none, or fails."""
    path, value, words = case.pick(FOREIGN)
    put(case.spec, path, copy.deepcopy(value))
    if path.startswith("model"):
        put(case.spec, "method.aux", [])
        put(case.spec, "optimizer.lr_mult", {})
    # what these are called with shows at the first step
    case.untouched = not path.startswith(("method.loss", DATA_TRAIN))
    case.words, case.what, case.path = words, f"{path} is {value!r}", path


def another_recipe(case: Case) -> None:
    """`--resume` with a recipe that would make another run."""
    path = case.pick(BREAKING)
    value = case.pick(BREAKING[path])
    put(case.spec, path, value)
    if path == "model.type":
        case.spec["method"]["aux"], case.spec["optimizer"]["lr_mult"] = [], {}
    elif path == "schedule.type":
        del case.spec["schedule"]["power"]
    elif path == "optimizer.type":
        del case.spec["optimizer"]["betas"]
    case.flags, case.guarded = ["--resume", str(case.stock.run)], case.stock.run
    case.words, case.what = (path,), f"--resume with {path} {value!r}"


def unknown_name(case: Case) -> None:
    path = case.pick(UNKNOWN_NAME)
    value = case.pick(UNKNOWN_NAME[path])
    put(case.spec, path, value)
    name = value[-1] if isinstance(value, list) else value
    case.words, case.what = (name,), f"{path} is {value!r}"


def missing_key(case: Case) -> None:
    path = case.pick(MISSING)
    remove(case.spec, path)
    case.words, case.what = (MISSING[path],), f"{path} is missing"


def half_of_a_pair(case: Case) -> None:
    """Keys that only mean something together."""
    which = case.pick(["mean", "std", "iters and epochs", "zero std", "unit scale", "a mean above 255", "no size"])
    if which == "zero std":
        case.spec["data"] |= {"mean": [127.5] * 3, "std": [58.4, 0.0, 57.4]}
        case.words = ("std",)
    elif which in ("unit scale", "a mean above 255"):
        high = 0.5 if which == "unit scale" else 300.0
        case.spec["data"] |= {"mean": [high] * 3, "std": [0.2] * 3}
        case.words = ("mean",)
    elif which == "no size":
        case.spec["data"]["val"]["transforms"][0] = {"type": "Resize"}
        case.words = ("size", "short")
    elif which in ("mean", "std"):
        case.spec["data"][which] = [127.5] * 3
        case.words = ("mean", "std")
    else:
        case.spec["train"]["epochs"] = 2
        case.words = ("epochs", "iters")
    case.what = f"data.{which} alone" if which in ("mean", "std") else which


def bad_flag(case: Case) -> None:
    flags, word = case.pick(FLAGS)
    case.flags, case.words, case.what = list(flags), (word,), " ".join(flags)


def bad_command(case: Case) -> None:
    words = case.pick(
        [
            (["trian", "-c", "RECIPE"], "trian"),
            (["config", "vlidate", "RECIPE"], "vlidate"),
            (["train", "-c", "nowhere.yml"], "nowhere.yml"),
            (["train", "-c", "FOLDER"], "FOLDER"),
            (["train"], "--config"),
            (["eval", "-c", "RECIPE", "--model_path", "nowhere.pdparams"], "nowhere.pdparams"),
            (["export", "-c", "RECIPE", "--output_op", "argmin"], "--output_op"),
            (["data", "check", "--format", "seglist", "--root", "FOLDER"], "seglist"),
            (["data", "check", "--format", "seg_list", "--root", "/nowhere/data"], "/nowhere/data"),
            (["models", "--task", "segmentatoin"], "segmentatoin"),
        ]
    )
    fill = {"RECIPE": str(case.recipe), "FOLDER": str(case.folder)}
    *verb, case.words = [fill.get(w, w) for w in words[0]], (fill.get(words[1], words[1]),)
    case.verb, case.bare, case.what = tuple(verb[0]), True, " ".join(words[0])


def reading_verb(case: Case) -> None:
    """A mistake in the text of a recipe must look the same from every command that reads it."""
    case.verb = case.pick([("train",), ("train",), ("eval",), ("export",), ("config", "show"), ("config", "validate")])


def dumped(case: Case) -> list[str]:
    """Lines of the recipe in block style."""
    return yaml.safe_dump(case.spec, sort_keys=False, default_flow_style=False).splitlines()


def duplicated_key(case: Case) -> None:
    lines = dumped(case)
    scalars = [i for i, line in enumerate(lines) if re.fullmatch(r" +[a-z_]+: [^\[{&*|>\s].*", line)]
    i = case.pick(scalars)
    key = lines[i].strip().partition(":")[0]
    case.text = "\n".join([*lines[: i + 1], lines[i], *lines[i + 1 :], ""])
    if case.rng.random() < 0.3:
        key = case.pick(["train", "optimizer", "eval", "log"])
        case.text = "\n".join([*lines, f"{key}: {{}}", ""])
    case.words, case.what = (key,), f"{key} twice"
    reading_verb(case)


def broken_yaml(case: Case) -> None:
    lines = dumped(case)
    nested = [
        i
        for i in range(1, len(lines))
        if re.fullmatch(r"( +)[a-z_]+: [^\s].*", lines[i])
        and re.fullmatch(r" +[a-z_]+: [^\s].*", lines[i - 1])
        and len(lines[i]) - len(lines[i].lstrip()) == len(lines[i - 1]) - len(lines[i - 1].lstrip())
    ]
    i = case.pick(nested)
    body = "\n".join(lines) + "\n"
    texts: dict[str, str | bytes] = {
        "tab": "\n".join([*lines[:i], "\t" + lines[i].lstrip(), *lines[i + 1 :]]),
        "indentation": "\n".join([*lines[:i], " " + lines[i], *lines[i + 1 :]]),
        "open bracket": body + "notes: [1, 2\n",
        "open quote": body + 'notes: "begun\n',
        "no colon": body + "notes\n",
        "no alias": body.replace("seed: 3", "seed: *nowhere"),
        "a python tag": body.replace("seed: 3", "seed: !!python/object/apply:os.getpid []"),
        "a tag of ours": body.replace("seed: 3", "seed: !Seed 3"),
        "two documents": body + "---\n" + body,
        "not UTF-8": body.encode() + b"# na\xefve\n",
        "UTF-16": body.encode("utf-16"),
        "a zero byte": body.encode() + b"\0",
        "a list": "- train\n- eval\n",
        "a word": "rtformer_debug\n",
        "empty": "",
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        "an exponent YAML 1.1 reads as text": body.replace("lr: 0.002", "lr: 2e-3"),
        "a recursive alias": body + "notes: &a [*a]\n",
        "a complex key": body + "? [a, b]\n: 1\n",
    }
    case.what = case.pick(texts)
    case.text, case.words = texts[case.what], (NAME,)
    reading_verb(case)


def bad_base(case: Case) -> None:
    body, other = "\n".join(dumped(case)) + "\n", case.folder / "other.yml"
    case.what = case.pick(["missing", "itself", "a cycle", "a number", "a folder", "broken", "one of two", "upstream"])
    bases = {"itself": NAME, "a number": "[3]", "a folder": ".", "one of two": "[good.yml, nowhere.yml]"}
    (case.folder / "good.yml").write_text("log: {interval: 2}\n")
    if case.what == "a cycle":
        other.write_text(f"_base_: {NAME}\n")
    elif case.what == "broken":
        other.write_text("train: {iters: 4\n")
    elif case.what == "upstream":
        other.write_text(UPSTREAM["PaddleSeg"])
    base = {"missing": "nowhere.yml", **bases}.get(case.what, "other.yml")
    case.text = f"_base_: {base}\n{body}"
    word = {"missing": "nowhere.yml", "one of two": "nowhere.yml", "a number": "_base_", "itself": NAME}
    case.words = (word.get(case.what, "other.yml"),)
    if case.what in ("a cycle", "a folder"):
        case.words = ("other.yml", NAME, "_base_")
    case.what = f"_base_ is {case.what}"
    reading_verb(case)


def upstream_recipe(case: Case) -> None:
    case.what = case.pick(UPSTREAM)
    (case.folder / "recipe_base.yml").write_text("model: {type: rtformer_debug}\n")
    case.text, case.words = UPSTREAM[case.what], (NAME,)
    case.what = f"a recipe of {case.what}"
    reading_verb(case)


# ---- data


def sample_of(case: Case) -> tuple[Path, str, Path, Path]:
    """(root, split, image, label) of a random sample of a copied data set."""
    root = case.copy_data()
    split = case.pick(["train", "train", "val"])
    i = int(case.rng.integers(TRAIN if split == "train" else VAL))
    return root, split, root / f"{split}{i}.png", root / f"{split}{i}_label.png"


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, colour: int, packed: bytes) -> bytes:
    """A PNG whose container is right, whatever its pixels are."""
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")


def damaged_picture(case: Case) -> None:
    """An image or a label that cannot be read."""
    _, _, image, label = sample_of(case)
    path = case.pick([image, label])
    whole = path.read_bytes()
    how = case.pick(
        ["truncated", "truncated", "garbled", "empty", "a web page", "a folder", "a loop of links", "a pipe", "gone"]
        + ["half its pixels", "broken pixels", "a huge header", "text", "a cut JPEG"]
    )
    path.unlink()
    if how == "truncated":
        path.write_bytes(whole[: int(len(whole) * case.rng.uniform(0.05, 0.98))])
    elif how == "garbled":
        start = whole.index(b"IDAT") + 4
        cut = int(case.rng.integers(start, max(start + 1, len(whole) - 40)))
        path.write_bytes(whole[:cut] + bytes(b ^ 0x5A for b in whole[cut : cut + 12]) + whole[cut + 12 :])
    elif how == "empty":
        path.touch()
    elif how == "a web page":
        path.write_text("<!DOCTYPE html><html><body>404</body></html>")
    elif how == "a folder":
        path.mkdir()
    elif how == "a loop of links":
        path.symlink_to(path.name)
    elif how == "a pipe":
        os.mkfifo(path)
    elif how == "half its pixels":
        colour, channels = (2, 3) if path == image else (0, 1)
        rows = np.zeros((48, 1 + 64 * channels), np.uint8).tobytes()
        path.write_bytes(png(64, 48, colour, zlib.compress(rows[: len(rows) // 2])))
    elif how == "broken pixels":
        path.write_bytes(png(64, 48, 2 if path == image else 0, b"\x78\x9c" + bytes(200)))
    elif how == "a huge header":
        path.write_bytes(png(100_000, 100_000, 0, zlib.compress(bytes(1000))))
    elif how == "text":
        path.write_text("not a picture\n")
    elif how == "a cut JPEG":
        jpeg = cv2.imencode(".jpg", cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR))[1].tobytes()
        path.write_bytes(jpeg[: len(jpeg) * 2 // 3])
    case.words, case.what = (path.name,), f"{path.name} is {how}"


def wrong_label(case: Case) -> None:
    """A label that can be read and cannot be right."""
    _, _, image, path = sample_of(case)
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    how = case.pick(["of another size", "turned", "out of range", "out of range", "16 bits", "in colour", "the image"])
    if how == "of another size":
        mask = mask[: case.pick([47, 40, 1])]
    elif how == "turned":
        mask = mask.T.copy()
    elif how == "out of range":
        mask[int(case.rng.integers(48)), int(case.rng.integers(64))] = case.pick([3, 4, 100, 254])
    elif how == "16 bits":
        mask = mask.astype(np.uint16)
        mask[0, 0] = case.pick([3, 256, 1000, 65535])
    elif how == "in colour":
        mask = cv2.applyColorMap(mask * 80, cv2.COLORMAP_JET)
    else:
        mask = cv2.imread(str(image))
    cv2.imwrite(str(path), mask)
    case.words, case.what = (path.name,), f"{path.name} is {how}"


def wrong_list(case: Case) -> None:
    """A list of samples that cannot be read."""
    root, split, image, label = sample_of(case)
    path = root / f"{split}.txt"
    lines = path.read_text().splitlines()
    i = int(case.rng.integers(len(lines)))
    how = case.pick(
        ["one column", "three columns", "commas", "columns exchanged", "missing", "empty", "blank", "a folder"]
        + ["not UTF-8", "a name that is not there", "UTF-16", "too short"]
    )
    case.words = (path.name,)
    if how in ("one column", "three columns", "commas", "columns exchanged", "a name that is not there"):
        lines[i] = {
            "one column": image.name,
            "three columns": f"{image.name} {label.name} extra",
            "commas": f"{image.name},{label.name}",
            "columns exchanged": f"{label.name} {image.name}",
            "a name that is not there": f"{image.name} nowhere.png",
        }[how]
        path.write_text("\n".join(lines) + "\n")
    elif how == "too short":
        path = root / "train.txt"
        path.write_text(path.read_text().splitlines()[0] + "\n")
        case.words = ("batch_size", path.name)
    else:
        path.unlink()
        if how == "empty":
            path.touch()
        elif how == "blank":
            path.write_text("\n \n\n")
        elif how == "a folder":
            path.mkdir()
        elif how == "not UTF-8":
            lines[i] = f"stra\udcdfe.png {label.name}"
            path.write_text("\n".join(lines) + "\n", errors="surrogateescape")
        elif how == "UTF-16":
            path.write_text("\n".join(lines) + "\n", "utf-16")
        case.words = (path.name, f"split '{split}'") if how in ("empty", "blank") else (path.name,)
    case.what = f"{path.name}: {how}"


def wrong_root(case: Case) -> None:
    root = case.copy_data()
    case.what = case.pick(["absent", "a file", "the folder above", "an empty folder"])
    case.untouched = True
    if case.what == "absent":
        shutil.rmtree(root)
    elif case.what == "a file":
        shutil.rmtree(root)
        root.write_text("")
    elif case.what == "an empty folder":
        shutil.rmtree(root)
        root.mkdir()
    else:
        root = case.folder
        case.spec["data"]["root"] = str(root)
    case.words, case.what = ("data.root", str(root)), f"data.root is {case.what}"


def wrong_classes(case: Case) -> None:
    root = case.copy_data()
    names = root / "labels.txt"
    case.untouched = True
    case.what = case.pick(["num_classes", "one name more", "a name twice", "not UTF-8", "empty", "a folder"])
    case.words = (names.name, "num_classes")
    if case.what == "num_classes":
        case.spec["data"]["train"]["num_classes"] = case.pick([2, 5, 0, 256])
        case.words = ("num_classes",)
    elif case.what == "one name more":
        names.write_text("ground\ngreen\nred\nblue\n")
        case.words = ("num_classes",)
    elif case.what == "a name twice":
        names.write_text("ground\ngreen\nground\n")
    elif case.what == "not UTF-8":
        names.write_bytes(b"ground\ngr\xfcn\nred\n")
    elif case.what == "empty":
        names.write_text("")
    else:
        names.unlink()
        names.mkdir()
    case.what = f"labels.txt: {case.what}"


# ---- weights and checkpoints


def damaged(case: Case, path: Path) -> str:
    """Damage a weight file in place; how."""
    whole = path.read_bytes()
    how = case.pick(["cut", "cut at the end", "empty", "a web page", "random bytes", "a folder", "hostile", "gone"])
    path.unlink()
    if how == "cut":
        path.write_bytes(whole[: int(len(whole) * case.rng.uniform(0.02, 0.98))])
    elif how == "cut at the end":
        path.write_bytes(whole[:-1])
    elif how == "empty":
        path.touch()
    elif how == "a web page":
        path.write_text("<!DOCTYPE html><html><body>404</body></html>")
    elif how == "random bytes":
        path.write_bytes(b"\x93" + case.rng.bytes(5000))
    elif how == "a folder":
        path.mkdir()
    elif how == "hostile":
        path.write_bytes(b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00true \x85R.")
    return how


def wrong_weights(case: Case) -> None:
    """`model.weights` that cannot be read or do not belong to the network."""
    path = case.folder / "start.pdparams"
    shutil.copyfile(case.stock.run / "latest" / "model.pdparams", path)
    if case.rng.random() < 0.25:
        shutil.copyfile(case.stock.folder / "other.pdparams", path)
        how = "of another network"
    else:
        how = damaged(case, path)
    if case.rng.random() < 0.5:
        case.spec["model"]["weights"] = str(path)
    else:
        case.flags = ["--model_path", str(path)]
    case.words, case.what = (path.name,), f"starting weights: {how}"


def wrong_checkpoint(case: Case) -> None:
    """`--resume` from a run whose only checkpoint is damaged."""
    run = case.folder / "earlier"
    shutil.copytree(case.stock.run, run, symlinks=True)
    (folder,) = [run / f"iter_{step}" for step in checkpoint.steps(run)]
    name = case.pick([p.name for p in folder.iterdir() if p.name not in ("config.yml", checkpoint.SUMS)])
    path = folder / name
    how = case.pick(["damaged", "damaged", "one bit", "no sums", "empty sums", "consistent sums"])
    if how == "one bit":
        whole = bytearray(path.read_bytes())
        whole[int(case.rng.integers(len(whole)))] ^= 1 << int(case.rng.integers(8))
        path.write_bytes(whole)
    elif how == "no sums":
        (folder / checkpoint.SUMS).unlink()
    else:
        path = case.pick([folder / "state.json", folder / "method.pdparams", folder / "optimizer.pdopt"])
        cut = path.read_bytes()[:-20]
        if how == "damaged":
            how = damaged(case, path)
        else:
            path.write_bytes(cut)
            if how == "empty sums":
                (folder / checkpoint.SUMS).write_text("")
            else:
                digest = hashlib.sha256(cut).hexdigest()
                lines = (folder / checkpoint.SUMS).read_text().splitlines()
                lines = [f"{digest}  {path.name}" if line.endswith(f"  {path.name}") else line for line in lines]
                (folder / checkpoint.SUMS).write_text("\n".join(lines) + "\n")
    where = case.pick([str(run), str(folder), "auto"])
    if where == "auto":
        case.flags = ["--save_dir", str(run), "--resume"]
    else:
        case.flags = ["--resume", where]
    case.guarded = run
    case.words, case.what = (run.name,), f"--resume {Path(where).name}, {path.name}: {how}"


def foreign_checkpoint(case: Case) -> None:
    """`--resume` from a run of another recipe, or from where none is."""
    run = case.folder / "earlier"
    shutil.copytree(case.stock.run, run, symlinks=True)
    case.flags, case.guarded, case.words = ["--resume", str(run)], run, (run.name,)
    case.what = case.pick(["seed", "heads", "optimizer", "model", "empty folder", "a file", "weights only"])
    if case.what == "seed":
        case.spec["train"]["seed"] = 4
    elif case.what == "heads":
        case.spec["method"]["aux"] = []
        del case.spec["optimizer"]["lr_mult"]
    elif case.what == "optimizer":
        case.spec["optimizer"] = {"type": "momentum", "lr": 0.01}
    elif case.what == "model":
        case.spec["model"]["type"] = "uhrnet_debug"
        case.spec["method"]["aux"] = []
        del case.spec["optimizer"]["lr_mult"]
    elif case.what == "empty folder":
        shutil.rmtree(run)
        run.mkdir()
    elif case.what == "a file":
        case.flags = ["--resume", str(case.recipe)]
        case.words = (NAME,)
    else:
        for path in [*run.glob("iter_*/*.json"), *run.glob("iter_*/SHA256SUMS")]:
            path.unlink()
    case.what = f"--resume from a run with another {case.what}"


def runaway(case: Case) -> None:
    """A rate that no network survives: the run ends itself, with status 1."""
    case.spec["optimizer"]["lr"] = 1.0e30
    case.spec["schedule"] = {"type": "constant"}
    case.spec["train"] |= {"clip_norm": None, "iters": 8, "save_interval": 8}
    case.spec["eval"]["interval"] = 8
    case.statuses, case.untouched = (1,), False
    case.words, case.what = ("lr",), "optimizer.lr is 1e30"


FAMILIES: dict[str, tuple[int, tuple[Callable[[Case], None], ...]]] = {  # share of all mutants, makers
    "recipe": (
        11,
        (
            typo_in_a_key,
            out_of_range,
            wrong_type,
            typo_in_a_key,
            out_of_range,
            wrong_type,
            unknown_name,
            missing_key,
            bad_flag,
            broken_yaml,
            duplicated_key,
            out_of_range,
            unknown_name,
            bad_base,
            bad_flag,
            upstream_recipe,
            half_of_a_pair,
            bad_command,
            out_of_range_elsewhere,
            schema_leaf,
            any_argument,
            out_of_range_elsewhere,
            foreign_part,
            any_argument,
            schema_leaf,
        ),
    ),
    "data": (6, (damaged_picture, wrong_label, wrong_list, damaged_picture, wrong_classes, wrong_list, wrong_root)),
    "weights": (
        3,
        (
            wrong_weights,
            wrong_checkpoint,
            foreign_checkpoint,
            another_recipe,
            wrong_checkpoint,
            wrong_weights,
            another_recipe,
            runaway,
        ),
    ),
}
