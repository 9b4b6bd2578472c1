"""The server that downloads are tested with, and an empty cache."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from ppvision.weights import download

sys.path.insert(0, str(Path(__file__).parent))
from web import Server


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("PPVISION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("PPVISION_OFFLINE", raising=False)
    monkeypatch.setattr(download, "BACKOFF", 0.01)
    monkeypatch.setattr(download.files, "POLL", 0.01)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join(5)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "weights"
