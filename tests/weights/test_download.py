"""Downloads from a server on this machine that drops, stalls, lies and changes its mind."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ppvision.errors import RunError, UserError
from ppvision.weights import download
from ppvision.weights.download import cached_path, fetch, resolve

ROOT = Path(__file__).resolve().parents[2]
BODY = b"\x80\x02" + np.random.default_rng(0).bytes(300_000)
OTHER = b"\x80\x02" + np.random.default_rng(1).bytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()
CUT = 100_000
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>" + b"x" * 2000 + b"</body></html>"


def answer(
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
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if ranges and status == 200 and wanted and handler.headers.get("If-Range") in (etag, modified):
            start, code = int(wanted[1]), 206
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
    return answer(b"", status=302, headers={"Location": to}, etag=None)


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


def left(cache: Path) -> set[str]:
    """Kinds of files in the cache, the lock file (which stays, empty) aside."""
    return {p.name.partition(".pdparams")[2] for p in cache.iterdir() if not p.name.endswith(".lock")}


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "weights"


class TestArrives:
    def test_once_then_from_the_cache(self, server, cache):
        url = server.url("/seg/base/model.pdparams", answer())
        path = fetch(url)
        assert path.read_bytes() == BODY
        assert path == cached_path(url) and path.parent == cache and path.name.startswith("base-model-")
        assert left(cache) == {"", ".json"}
        assert json.loads(Path(f"{path}.json").read_text()) == {"url": url, "size": len(BODY), "sha256": SHA}
        assert fetch(url) == resolve(url) == path
        assert len(server.requests) == 1

    def test_same_name_in_two_places_and_in_two_queries(self, server):
        a = server.url("/a/model.pdparams", answer())
        b = server.url("/b/a/model.pdparams", answer(OTHER))
        c = server.url("/a/model.pdparams?v=2", answer(OTHER))
        assert [fetch(u).read_bytes() for u in (a, b, c)] == [BODY, OTHER, OTHER]

    def test_name_in_the_cache_stays_in_the_cache(self, cache):
        for path in ("/../../etc/passwd", "/%2e%2e/%2Fetc%2Fx.pdparams", "/" + "n" * 400 + ".pdparams", "/.x", "/", ""):
            path = cached_path(f"https://h{path}", cache)
            assert path.parent == cache and len(path.name) < 150 and path.name[0] != "."

    def test_checksum_in_url_and_argument(self, server):
        url = server.url("/m.pdparams", answer())
        path = fetch(f"{url}#sha256={SHA}")
        assert (
            path == fetch(url, sha256=SHA.upper()) == fetch(f"{url}#{SHA}", sha256=SHA) == cached_path(f"{url}#{SHA}")
        )
        assert len(server.requests) == 1

    def test_redirects(self, server):
        target = server.url("/there", answer())
        server.url("/hop", redirect(target))
        assert fetch(server.url("/m.pdparams", redirect("/hop"))).read_bytes() == BODY
        assert [path for path, *_ in server.requests] == ["/m.pdparams", "/hop", "/there"]

    def test_without_a_length(self, server):
        assert fetch(server.url("/m.pdparams", answer(length=""))).read_bytes() == BODY

    def test_server_that_compresses_unasked(self, server):
        import gzip

        url = server.url("/m.pdparams", answer(gzip.compress(BODY), headers={"Content-Encoding": "gzip"}))
        assert fetch(url).read_bytes() == BODY

    def test_bar_only_on_a_terminal(self, server, capsys, monkeypatch):
        fetch(server.url("/m.pdparams", answer()))
        assert capsys.readouterr() == ("", "")
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        fetch(server.url("/n.pdparams", answer(piece=CUT, pause=0.15)))
        assert "n-" in (bar := capsys.readouterr().err) and "100%" in bar.rpartition("\r")[0]
        fetch(server.url("/o.pdparams", answer()), progress=False)
        assert capsys.readouterr() == ("", "")


class TestContinues:
    @pytest.mark.parametrize(
        "known, validator",
        [
            ({"etag": '"1"'}, '"1"'),
            ({"etag": 'W/"1"', "modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, "Mon, 01 Jan 2024 00:00:00 GMT"),
        ],
    )
    def test_after_a_drop(self, server, cache, known, validator):
        url = server.url("/m.pdparams", answer(drop=CUT, **known), answer(**known))
        assert fetch(url).read_bytes() == BODY
        assert server.requests[1:] == [("/m.pdparams", f"bytes={CUT}-", validator)]
        assert left(cache) == {"", ".json"}

    def test_after_a_drop_without_a_length(self, server):
        """Chunked and cut: only the missing last chunk tells."""

        def chunked(handler):
            handler.protocol_version = "HTTP/1.1"
            answer(b"", length="", headers={"Transfer-Encoding": "chunked"})(handler)
            handler.wfile.write(b"%x\r\n%s\r\n" % (CUT, BODY[:CUT]))
            handler.close_connection = True

        assert fetch(server.url("/m.pdparams", chunked, answer())).read_bytes() == BODY
        assert server.requests[1][1] == f"bytes={CUT}-"

    def test_rest_without_a_length_is_cut_again(self, server):
        """Only the total of the first answer tells."""
        url = server.url("/m.pdparams", answer(drop=CUT), answer(drop=CUT, length=""), answer())
        assert fetch(url).read_bytes() == BODY
        assert [asked for _, asked, _ in server.requests] == [None, f"bytes={CUT}-", f"bytes={2 * CUT}-"]

    def test_in_the_next_call(self, server, cache, monkeypatch):
        monkeypatch.setattr(download, "ATTEMPTS", 1)
        url = server.url("/m.pdparams", answer(drop=CUT), answer())
        with pytest.raises(UserError, match="broke.*the next call goes on"):
            fetch(url)
        assert left(cache) == {".part", ".part.json"}
        assert fetch(url).read_bytes() == BODY
        assert server.requests[1][1] == f"bytes={CUT}-"

    def test_anew_when_the_file_changed_between_two_parts(self, server):
        url = server.url("/m.pdparams", answer(drop=CUT), answer(OTHER, etag='"2"'))
        assert fetch(url).read_bytes() == OTHER
        assert server.requests[1][2] == '"1"' and len(server.requests) == 2

    @pytest.mark.parametrize(
        "lie",
        [
            {"content_range": f"bytes 0-{len(BODY) - 1}/{len(BODY)}"},
            {"content_range": f"bytes {CUT}-{len(BODY)}/{len(BODY) + 1}"},
            {"content_range": "none"},
            {"headers": {"ETag": '"2"'}},
        ],
    )
    def test_anew_when_the_answer_is_not_the_part_asked_for(self, server, lie):
        wrong = answer(OTHER, **lie)
        assert fetch(server.url("/m.pdparams", answer(drop=CUT), wrong, answer())).read_bytes() == BODY
        assert [asked for _, asked, _ in server.requests] == [None, f"bytes={CUT}-", None]

    def test_anew_when_range_is_ignored_or_refused(self, server):
        url = server.url("/m.pdparams", answer(drop=CUT), answer(ranges=False))
        assert fetch(url).read_bytes() == BODY
        url = server.url("/n.pdparams", answer(drop=CUT), answer(b"", status=416), answer())
        assert fetch(url).read_bytes() == BODY

    def test_anew_when_nothing_identifies_the_file(self, server):
        url = server.url("/m.pdparams", answer(drop=CUT, etag=None), answer(etag=None))
        assert fetch(url).read_bytes() == BODY
        assert [asked for _, asked, _ in server.requests] == [None, None]

    def test_anew_when_the_parts_do_not_fit(self, server):
        """The same ETag for another file: the checksum tells."""
        url = server.url("/m.pdparams", answer(OTHER, drop=CUT), answer())
        assert fetch(url, sha256=SHA).read_bytes() == BODY
        assert [asked for _, asked, _ in server.requests] == [None, f"bytes={CUT}-", None]

    def test_a_complete_part_needs_no_server(self, server, cache):
        url = server.url("/m.pdparams", answer(b"", status=500))
        part = Path(f"{cached_path(url)}.part")
        cache.mkdir(parents=True)
        part.write_bytes(BODY)
        Path(f"{part}.json").write_text(json.dumps({"total": len(BODY), "validator": '"1"'}))
        assert fetch(url).read_bytes() == BODY
        assert not server.requests and left(cache) == {"", ".json"}

    @pytest.mark.parametrize("state", ["", "[]", '{"total": 3, "validator": "\\"1\\""}'])
    def test_a_part_of_unknown_origin_is_dropped(self, server, cache, state):
        url = server.url("/m.pdparams", answer())
        part = Path(f"{cached_path(url)}.part")
        cache.mkdir(parents=True)
        part.write_bytes(OTHER[:CUT])
        Path(f"{part}.json").write_text(state)
        assert fetch(url).read_bytes() == BODY
        assert server.requests == [("/m.pdparams", None, None)]

    def test_many_drops_when_each_brings_enough(self, server, monkeypatch):
        monkeypatch.setattr(download, "PROGRESS", 10_000)
        url = server.url("/m.pdparams", *[answer(drop=20_000)] * 14, answer())
        assert fetch(url).read_bytes() == BODY
        assert len(server.requests) == 15 > download.ATTEMPTS


class TestGivesUp:
    @pytest.mark.parametrize(
        "status, words", [(404, "link is dead"), (410, "link is dead"), (403, "refused"), (418, "418")]
    )
    def test_dead_link(self, server, cache, status, words):
        url = server.url("/m.pdparams", answer(PAGE, status=status, kind="text/html"))
        with pytest.raises(UserError, match=f"{url}.*{words}.*by hand and give the path") as e:
            fetch(url)
        assert str(cached_path(url)) in str(e.value) and str(status) in str(e.value)
        assert len(server.requests) == 1 and left(cache) == set()

    @pytest.mark.parametrize("failure", [answer(status=500), answer(status=503), answer(status=429), hang_up])
    def test_failures_that_pass(self, server, failure):
        assert fetch(server.url("/m.pdparams", failure, failure, answer())).read_bytes() == BODY

    def test_failures_that_stay(self, server, cache):
        url = server.url("/m.pdparams", answer(b"", status=502))
        with pytest.raises(UserError, match=r"502.*\(5 attempts\)"):
            fetch(url)
        assert len(server.requests) == download.ATTEMPTS and left(cache) == set()
        url = server.url("/n.pdparams", hang_up)
        with pytest.raises(UserError, match=r"connection broke.*\(5 attempts\)"):
            fetch(url)

    def test_waits_as_long_as_asked_but_not_longer(self, server, monkeypatch):
        waits = []
        monkeypatch.setattr(download.time, "sleep", waits.append)
        soon, late = (answer(b"", status=503, headers={"Retry-After": str(s)}) for s in (7, 86400))
        fetch(server.url("/m.pdparams", soon, late, answer()))
        assert waits == [7, download.MAX_WAIT]

    def test_unknown_host(self, server, monkeypatch):
        def fail(*args, **kwargs):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        monkeypatch.setenv("NO_PROXY", "*")
        with pytest.raises(UserError, match="the name weights.invalid is not known.*by hand"):
            fetch("https://weights.invalid/m.pdparams")

    def test_refused(self, server, monkeypatch):
        """Said at once: where nothing ever answered, a repetition only delays the message."""
        monkeypatch.setattr(download, "BACKOFF", 60)
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            with pytest.raises(UserError, match="127.0.0.1 refuses the connection.*by hand"):
                fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/m.pdparams")

    def test_nobody_answers(self, server, monkeypatch):
        monkeypatch.setattr(download, "ATTEMPTS", 2)
        start = time.monotonic()
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen()
            with pytest.raises(UserError, match=r"no answer within 0.2 s \(2 attempts\)"):
                fetch(f"http://127.0.0.1:{deaf.getsockname()[1]}/m.pdparams", timeout=0.2)
        assert time.monotonic() - start < 3

    def test_no_certificate(self, server):
        """An http server spoken to in https."""
        url = server.url("/m.pdparams", answer()).replace("http:", "https:")
        with pytest.raises(UserError, match="no secure connection to 127.0.0.1"):
            fetch(url)

    @pytest.mark.parametrize("piece, pause", [(10, 0.05), (CUT, 1.0)])
    def test_trickle_and_silence(self, server, monkeypatch, piece, pause):
        """Ten bytes every 0.05 s never trip a socket's timeout."""
        monkeypatch.setattr(download, "ATTEMPTS", 2)
        start = time.monotonic()
        with pytest.raises(UserError, match=r"(only \d+ bytes came in|nothing came for 0.3 s).*\(2 attempts\)"):
            fetch(server.url("/m.pdparams", answer(piece=piece, pause=pause)), timeout=0.3)
        assert time.monotonic() - start < 3

    def test_length_that_is_never_reached(self, server, cache):
        url = server.url("/m.pdparams", answer(length=len(BODY) + 5))
        with pytest.raises(UserError, match=r"broke.*\(5 attempts\)"):
            fetch(url)
        assert not cached_path(url).exists()

    def test_length_too_short(self, server):
        """What lies beyond a Content-Length is not part of the answer; only a checksum tells that the file is cut."""
        url = server.url("/m.pdparams", answer(length=CUT))
        with pytest.raises(UserError, match=r"what came \(100.0 kB\) has sha256"):
            fetch(url, sha256=SHA)

    def test_redirect_loop(self, server):
        with pytest.raises(UserError, match="more than 10 redirects"):
            fetch(server.url("/m.pdparams", redirect("/m.pdparams")))

    def test_redirect_to_a_local_file(self, server, tmp_path):
        (tmp_path / "secret").write_text("x")
        with pytest.raises(UserError, match="cannot be fetched"):
            fetch(server.url("/m.pdparams", redirect(f"file://{tmp_path}/secret")))

    def test_redirect_from_https_to_http(self, server):
        response = SimpleNamespace(history=[], url="http://h/m")
        job = download._Download("https://h/m", cached_path("https://h/m"), None, False, 1)
        with pytest.raises(UserError, match="redirects to http://h/m, unencrypted"):
            job._check_redirects(response)
        job.expected = SHA
        job._check_redirects(response)

    @pytest.mark.parametrize(
        "url", ["http://", "http://[", "http://h:port/x", "http://a b/", "https://" + "a" * 300 + ".com/"]
    )
    def test_no_url(self, server, url):
        with pytest.raises(UserError):
            fetch(url, timeout=0.2)

    def test_password_is_not_shown(self, server, monkeypatch):
        url = server.url("/m.pdparams", answer(status=404)).replace("//", "//me:secret@")
        with pytest.raises(UserError, match="http://127.0.0.1") as e:
            fetch(url)
        assert "secret" not in str(e.value)
        monkeypatch.setattr(download, "ATTEMPTS", 1)
        server.url("/m.pdparams", answer(drop=CUT), answer())
        with pytest.raises(UserError, match="broke"):
            fetch(url)
        files = [p.read_bytes() for p in cached_path(url).parent.iterdir()]
        fetch(url)
        files += [p.read_bytes() for p in cached_path(url).parent.iterdir()]
        assert len(files) > 4 and not any(b"secret" in content for content in files)


class TestNotWeights:
    @pytest.mark.parametrize(
        "body, kind, words",
        [
            (PAGE, "text/html; charset=utf-8", "a web page titled 'Sign in'"),
            (PAGE, "application/octet-stream", "a web page titled 'Sign in'"),
            (b"Please log in", "text/html", "a web page"),
            (b"\xef\xbb\xbf\n <html>", None, "a web page"),
            (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "application/xml", "a web page"),
            (b'{"error": "quota"}', "application/json", 'a JSON answer: {"error": "quota"}'),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "text/plain", "a Git LFS pointer"),
            (b"", "application/octet-stream", "an empty answer"),
        ],
    )
    def test_refused(self, server, cache, body, kind, words):
        url = server.url("/m.pdparams", answer(body, kind=kind))
        with pytest.raises(UserError, match=re.escape(words)) as e:
            fetch(url)
        assert url in str(e.value) and len(server.requests) == 1
        assert left(cache) == set()

    def test_page_behind_a_redirect_is_named(self, server):
        page = server.url("/login", answer(PAGE, kind="text/html"))
        with pytest.raises(UserError, match=rf"Sign in.*\(from {page}\)"):
            fetch(server.url("/m.pdparams", redirect(page)))

    def test_weights_of_a_careless_server_are_accepted(self, server):
        assert fetch(server.url("/m.pdparams", answer(kind="text/html"))).read_bytes() == BODY

    def test_page_saved_by_hand_in_the_cache(self, server, cache):
        url = server.url("/m.pdparams", answer())
        cache.mkdir(parents=True)
        cached_path(url).write_bytes(PAGE)
        assert fetch(url).read_bytes() == BODY


class TestChecksum:
    def test_wrong_one_leaves_nothing(self, server, cache):
        url = server.url("/m.pdparams", answer(OTHER))
        with pytest.raises(UserError, match=f"has sha256 {hashlib.sha256(OTHER).hexdigest()}, expected {SHA}"):
            fetch(f"{url}#{SHA}")
        assert left(cache) == set() and len(server.requests) == 1

    @pytest.mark.parametrize("sha256", [SHA, None])
    def test_altered_file_comes_anew(self, server, sha256):
        """Without a published checksum, the one it had when it came tells."""
        url = server.url("/m.pdparams", answer())
        path = fetch(url, sha256=sha256)
        flipped = bytearray(BODY)
        flipped[1000] ^= 1
        path.write_bytes(flipped)
        assert fetch(url, sha256=sha256).read_bytes() == BODY
        assert len(server.requests) == 2

    def test_altered_file_stays_altered(self, server):
        """It is fetched anew once per call, and never handed out."""
        url = server.url("/m.pdparams", answer(), answer(OTHER))
        path = fetch(url, sha256=SHA)
        path.write_bytes(OTHER)
        with pytest.raises(UserError, match="has sha256"):
            fetch(url, sha256=SHA)
        assert len(server.requests) == 2

    def test_file_put_there_by_hand(self, server, cache):
        url = server.url("/m.pdparams", answer(status=404))
        cache.mkdir(parents=True)
        cached_path(url).write_bytes(BODY)
        assert fetch(url) == fetch(url, sha256=SHA) == cached_path(url)
        assert not server.requests

    @pytest.mark.parametrize("bad", ["abc", "g" * 64, SHA[:8], "model"])
    def test_no_checksum(self, server, bad):
        with pytest.raises(UserError, match="is no sha256"):
            fetch(f"http://127.0.0.1/m.pdparams#{bad}")
        with pytest.raises(UserError, match="is no sha256"):
            fetch("http://127.0.0.1/m.pdparams", sha256=bad)

    def test_two_checksums(self, server):
        with pytest.raises(UserError, match="another sha256"):
            fetch(f"http://127.0.0.1/m.pdparams#{SHA}", sha256="0" * 64)


class TestLocal:
    def test_paths_pass(self, tmp_path, monkeypatch):
        for path in ("output/x/model", Path("a#b.pdparams"), "C:\\x.pdparams", str(tmp_path)):
            assert fetch(path) == resolve(path) == Path(path)

    def test_file_urls(self, tmp_path):
        path = tmp_path / "a b.pdparams"
        path.write_bytes(BODY)
        assert fetch(path.as_uri()) == fetch(f"{path.as_uri()}#{SHA}") == fetch(path, sha256=SHA) == path
        with pytest.raises(UserError, match=f"a b.pdparams: has sha256 {SHA}, expected 0000"):
            fetch(path, sha256="0" * 64)
        with pytest.raises(UserError, match="No such file"):
            fetch(tmp_path / "none", sha256=SHA)
        with pytest.raises(UserError, match="another machine"):
            fetch("file://host/x.pdparams")

    def test_other_schemes(self):
        with pytest.raises(UserError, match="not s3://"):
            fetch("s3://bucket/m.pdparams")


class TestOffline:
    def test_says_where_the_file_is_expected(self, server, cache, monkeypatch):
        monkeypatch.setenv("PPVISION_OFFLINE", "1")
        url = server.url("/m.pdparams", answer())
        with pytest.raises(UserError, match=f"PPVISION_OFFLINE is set and {cached_path(url)} is not there"):
            fetch(url)
        assert not server.requests and not cache.exists()

    def test_uses_the_cache_but_nothing_altered(self, server, monkeypatch):
        url = server.url("/m.pdparams", answer())
        path = fetch(url)
        monkeypatch.setenv("PPVISION_OFFLINE", "true")
        assert fetch(url) == path
        path.write_bytes(OTHER)
        with pytest.raises(UserError, match="is altered"):
            fetch(url)
        monkeypatch.setenv("PPVISION_OFFLINE", "0")
        assert fetch(url).read_bytes() == BODY


class TestDisk:
    def test_too_small_is_said_before(self, server, cache, monkeypatch):
        monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        url = server.url("/m.pdparams", answer())
        with pytest.raises(RunError, match=r"needs 300.0 kB and 1.0 kB are free.*PPVISION_CACHE"):
            fetch(url)
        assert left(cache) == set()

    def test_full_while_writing(self, server, cache):
        """/dev/full: every write fails as on a full disk."""
        url = server.url("/m.pdparams", answer())
        cache.mkdir(parents=True)
        Path(f"{cached_path(url)}.part").symlink_to("/dev/full")
        with pytest.raises(RunError, match=f"{cache}: no space left for .*{os.strerror(errno.ENOSPC)}.*PPVISION_CACHE"):
            fetch(url)
        assert left(cache) == set() and Path("/dev/full").exists()
        assert fetch(url).read_bytes() == BODY

    def test_full_half_way(self, server, cache):
        """A real limit on the size of files, in a process of its own."""
        url = server.url("/m.pdparams", answer())
        limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({CUT}, {CUT}))"
        run = process(url, limit)
        out = run.communicate(timeout=20)[0]
        assert run.returncode == 0 and re.search("RunError .*no space left.*File too large", out), out
        assert left(cache) == set()

    def test_folder_that_cannot_be_written(self, server, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(UserError, match="PPVISION_CACHE"):
            fetch(server.url("/m.pdparams", answer()), cache=tmp_path / "file")

    def test_cache_that_is_only_read(self, server, monkeypatch):
        """A hit writes nothing, so a shared read-only cache serves."""
        url = server.url("/m.pdparams", answer())
        path = fetch(url)
        before = {p: p.stat().st_mtime_ns for p in [path.parent, *path.parent.iterdir()]}
        assert fetch(url) == path
        assert before == {p: p.stat().st_mtime_ns for p in [path.parent, *path.parent.iterdir()]}


def process(url: str, before: str = "") -> subprocess.Popen:
    """Fetches `url` in another process, which prints the size of the file or the error."""
    code = f"""
import sys
from ppvision.errors import UserError
from ppvision.weights.download import fetch
{before}
try:
    print(fetch({url!r}).stat().st_size)
except UserError as e:
    print(type(e).__name__, e)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )


def wait_for(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class TestProcesses:
    def test_one_downloads_the_others_wait(self, server, cache):
        url = server.url("/m.pdparams", answer(piece=CUT, pause=0.3))
        runs = [process(url) for _ in range(3)]
        assert [run.communicate(timeout=20)[0].strip() for run in runs] == [str(len(BODY))] * 3
        assert len(server.requests) == 1
        assert left(cache) == {"", ".json"}

    def test_threads_too(self, server):
        url = server.url("/m.pdparams", answer(piece=CUT, pause=0.05))
        found = []
        threads = [threading.Thread(target=lambda: found.append(fetch(url).read_bytes() == BODY)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert found == [True] * 4 and len(server.requests) == 1

    def test_killed_half_way(self, server, cache):
        """The lock of a dead process is free, and its bytes are not lost."""
        url = server.url("/m.pdparams", answer(piece=150_000, pause=0.3), answer())
        run = process(url)
        part = Path(f"{cached_path(url)}.part")
        try:
            wait_for(lambda: part.exists() and part.stat().st_size)
        finally:
            run.send_signal(signal.SIGKILL)
            run.communicate(timeout=10)
        assert left(cache) == {".part", ".part.json"}
        size = part.stat().st_size
        assert 0 < size < len(BODY)
        assert fetch(url).read_bytes() == BODY
        assert server.requests[1][1] == f"bytes={size}-"

    def test_a_stuck_owner_is_not_waited_for_forever(self, server, cache, monkeypatch):
        import fcntl

        monkeypatch.setattr(download, "MAX_WAIT", 0.1)
        url = server.url("/m.pdparams", answer())
        cache.mkdir(parents=True)
        path = cached_path(url)
        with open(path.with_name(f".{path.name}.lock"), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(UserError, match="another process has held this lock"):
                fetch(url, timeout=0.01)
        assert not server.requests
        assert fetch(url).read_bytes() == BODY


def test_importing_brings_no_http_client():
    code = "import sys, ppvision.weights.download; print({'requests', 'paddle', 'tqdm'} & set(sys.modules))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=env)
    assert run.stdout.strip() == "set()", run.stderr
