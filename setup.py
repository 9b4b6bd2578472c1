"""Packaging of ppvision.

`pip install .` brings the library without Paddle, because the CPU wheel (`paddlepaddle`) and the GPU wheel
(`paddlepaddle-gpu`) own the same files and must not meet in one environment: `pip install ".[cpu]"` takes the first,
docs/install.md says how to get the second.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "ppvision/version.py").read_text("utf-8"), re.MULTILINE)[1]

INSTALL_REQUIRES = [
    "numpy>=1.26,<3",  # samples, transforms, metrics; 1.26 is the oldest that Python 3.12 has
    "PyYAML>=6.0",  # recipes and deploy.yaml (safe loader only)
    "opencv-python-headless>=4.8,<6",  # reads, resizes and warps images; headless: servers have no libGL
    "Pillow>=9.1",  # palette PNG masks, which OpenCV cannot write
    "requests>=2.31",  # downloads of weights: proxies, certificates, redirects
    "urllib3>=2.2",  # under requests; its HTTPResponse.read1, without which a trickling connection hangs
    "safetensors>=0.4",  # weight files that cannot execute code
    "scipy>=1.11",  # linear_sum_assignment: matching of predictions and objects in training and metrics
    "tqdm>=4.60",  # progress bar on a terminal
]

EXTRAS = {
    "cpu": ["paddlepaddle>=3.1.1,<3.4"],  # tested range; the GPU wheel comes from Paddle's own index, not from PyPI
    "onnx": [
        "paddle2onnx>=2.0.1,<3",  # model.json -> model.onnx
        "onnxruntime>=1.18",  # the onnx backend and its column of the parity table
    ],
    "openvino": ["openvino>=2024.4"],  # reads model.onnx; the openvino backend
    "detection": [
        "faster-coco-eval>=1.8,<2",  # the metric coco (pycocotools' figures in a fraction of its time), COCO outlines
        "matplotlib>=3.8",  # plots of precision over recall and of the confusion matrix (eval --output_eval)
    ],
    "vdl": ["visualdl>=2.5.3"],  # log.vdl; its last release is of 2023, so it is never required
    "dev": [
        "pytest>=8.0",
        "pytest-xdist>=3.5",  # two workers on two cores
        "hypothesis>=6.100",  # properties of configuration, loader and geometry
        "ruff>=0.9",
        "pycocotools>=2.0.8",  # what the metric coco and the outlines of the data set are compared with
        "setuptools>=70.1",  # builds the wheel in tests/test_packaging.py without asking a registry
    ],
}
EXTRAS["all"] = sorted({name for extra in ("cpu", "onnx", "detection", "vdl", "dev") for name in EXTRAS[extra]})

setup(
    name="ppvision",
    version=VERSION,
    description="Ten computer-vision systems for PaddlePaddle: one training loop, one export path",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["ppvision", "ppvision.*"]),
    package_data={"": ["*.txt", "*.json", "*.yml", "*.yaml", "py.typed"]},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["ppvision = ppvision.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
