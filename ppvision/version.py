"""The version of the suite: read by `setup.py` without an import, written into checkpoints and exports."""

__version__ = "0.1.0"
