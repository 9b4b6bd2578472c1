"""Runs inside the oracle environment: PaddleSeg's own networks with random weights, their logits and gradients.

    .venv-oracles/bin/python tests/oracles/paddleseg_logits.py FOLDER NETWORK '{"argument": 1}' 64x64,33x51 [128x256]

writes into FOLDER: model.pdparams as PaddleSeg users save it; for every size image_HxW.npy and logits_HxW.npy
(evaluation, batch 2; one image for large sizes); with a last argument train.npz for one batch of that size in training,
in double precision: image, label, loss, the gradient of every parameter as `grad/<key>`, and the batch-norm statistics
after the step as `stat/<key>`.
"""

# ruff: noqa: I001  (cv2 and PIL come before paddle: some of their wheels crash a process that imported Paddle first)

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2  # noqa: F401
import PIL.Image  # noqa: F401
import numpy as np
import paddle
import paddle.nn.functional as F
from paddleseg.models import FCN, RTFormer
from paddleseg.models.backbones import UHRNet_W18, UHRNet_W18_Small, UHRNet_W48

NETWORKS = {
    "RTFormer": RTFormer,
    "UHRNet_W18_Small": lambda **kwargs: FCN(backbone=UHRNet_W18_Small(), **kwargs),
    "UHRNet_W18": lambda **kwargs: FCN(backbone=UHRNet_W18(), **kwargs),
    "UHRNet_W48": lambda **kwargs: FCN(backbone=UHRNet_W48(), **kwargs),
}


def randomise(net: paddle.nn.Layer, rng: np.random.Generator) -> None:
    """Weights at the scale of trained ones; biases, norms and statistics all away from their neutral values."""
    for key, tensor in net.state_dict().items():
        noise = rng.standard_normal(tensor.shape)
        if key.endswith("_variance"):
            value = 1 + 0.5 * np.abs(noise)
        elif len(tensor.shape) == 4:
            value = noise / np.sqrt(np.prod(tensor.shape[1:]))
        elif key.endswith(".weight"):
            value = 1 + 0.1 * noise
        else:
            value = 0.1 * noise
        tensor.set_value(value.astype("float32"))


def main(folder: str, network: str, kwargs: str, sizes: str, train_size: str = "") -> None:
    out, rng = Path(folder), np.random.default_rng(0)
    net = NETWORKS[network](**json.loads(kwargs))
    randomise(net, rng)
    paddle.save(net.state_dict(), str(out / "model.pdparams"))
    net.eval()
    for size in sizes.split(","):
        h, w = map(int, size.split("x"))
        image = rng.standard_normal([2 if h * w < 500_000 else 1, 3, h, w]).astype("float32")
        with paddle.no_grad():
            logits = net(paddle.to_tensor(image))[0].numpy()
        np.save(out / f"image_{size}.npy", image)
        np.save(out / f"logits_{size}.npy", logits)
    if train_size:
        h, w = map(int, train_size.split("x"))
        image = rng.standard_normal([2, 3, h, w])
        label = rng.integers(0, 19, [2, h, w])
        label[:, : h // 8] = 255
        net.to(dtype="float64")  # in single precision a ReLU whose input is almost 0 decides differently for no reason
        net.train()
        outputs = net(paddle.to_tensor(image))
        loss = sum(
            weight * F.cross_entropy(logits, paddle.to_tensor(label), axis=1, ignore_index=255)
            for weight, logits in zip((1.0, 0.4), outputs)
        )
        loss.backward()
        gradients = {f"grad/{k}": p.grad.numpy() for k, p in net.named_parameters() if p.grad is not None}
        statistics = {f"stat/{k}": v.numpy() for k, v in net.state_dict().items() if k.endswith(("_mean", "_variance"))}
        np.savez(out / "train.npz", image=image, label=label, loss=loss.item(), **gradients, **statistics)


if __name__ == "__main__":
    main(*sys.argv[1:])
