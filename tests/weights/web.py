"""A server on this machine that drops, stalls, lies and changes its mind, for the tests of downloads."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
BODY = b"\x80\x02" + np.random.default_rng(0).bytes(300_000)
OTHER = b"\x80\x02" + np.random.default_rng(1).bytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()
CUT = 100_000
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>" + b"x" * 2000 + b"</body></html>"


def respond(
    body=BODY,
    *,
    status=200,
    etag='"1"',
    modified=None,
    ranges=True,
    drop=None,
    length=None,
    kind="application/octet-stream",
    pause=0.0,
    piece=None,
    headers=None,
    content_range=None,
):
    """What the server does with one request.

    Args:
        ranges: honour Range, if If-Range agrees with `etag` or `modified`.
        drop: close the connection after so many bytes of the body.
        length: a Content-Length that may be wrong; "" for none.
        piece, pause: send the body in pieces of that many bytes with a pause before each.
        content_range: what to say instead of the true one.
    """

    def send(handler):
        start, code = 0, status
        range_asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if ranges and status == 200 and range_asked and handler.headers.get("If-Range") in (etag, modified):
            start, code = int(range_asked[1]), 206
        part = body[start:]
        handler.send_response(code)
        for key, value in {"Content-Type": kind, "ETag": etag, "Last-Modified": modified, **(headers or {})}.items():
            if value is not None:
                handler.send_header(key, value)
        if code == 206:
            handler.send_header("Content-Range", content_range or f"bytes {start}-{len(body) - 1}/{len(body)}")
        if length != "":
            handler.send_header("Content-Length", str(len(part) if length is None else length))
        handler.end_headers()
        part = part[:drop]
        for i in range(0, len(part), piece or len(part) or 1):
            if pause and handler.server.closing.wait(pause):
                return
            handler.wfile.write(part[i : i + (piece or len(part))])

    return send


def hang_up(handler):
    """A reset instead of an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()
    handler.wfile = handler.rfile = open(os.devnull, "r+b")


def redirect(to):
    return respond(b"", status=302, headers={"Location": to}, etag=None)


class Server(ThreadingHTTPServer):
    """Answers `/x` as `script["/x"]` says, a list whose last entry repeats; `requests` are what was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.requests, self.closing = {}, [], threading.Event()

    def url(self, path, *script):
        self.script[path] = list(script)
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def handle_error(self, request, client_address):
        pass  # a client that went away is part of the tests


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        script = self.server.script[self.path]
        (script.pop(0) if len(script) > 1 else script[0])(self)

    def log_message(self, *args):
        pass


def left(cache: Path) -> set[str]:
    """Kinds of files in the cache, the lock file (which stays, empty) aside."""
    return {p.name.partition(".pdparams")[2] for p in cache.iterdir() if not p.name.endswith(".lock")}
