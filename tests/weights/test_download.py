"""Downloads from a server on this machine that drops, stalls, lies and changes its mind."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from web import BODY, CUT, OTHER, PAGE, SHA, hang_up, left, redirect, respond

from ppvision.errors import UserError
from ppvision.weights import download
from ppvision.weights.download import cached_path, fetch, resolve


class TestArrives:
    def test_once_then_from_the_cache(self, server, cache):
        url = server.url("/seg/base/model.pdparams", respond())
        path = fetch(url)
        assert path.read_bytes() == BODY
        assert path == cached_path(url) and path.parent == cache and path.name.startswith("base-model-")
        assert left(cache) == {"", ".json"}
        assert json.loads(Path(f"{path}.json").read_text()) == {"url": url, "size": len(BODY), "sha256": SHA}
        assert fetch(url) == resolve(url) == path
        assert len(server.requests) == 1

    def test_same_name_in_two_places_and_in_two_queries(self, server):
        a = server.url("/a/model.pdparams", respond())
        b = server.url("/b/a/model.pdparams", respond(OTHER))
        c = server.url("/a/model.pdparams?v=2", respond(OTHER))
        assert [fetch(u).read_bytes() for u in (a, b, c)] == [BODY, OTHER, OTHER]

    def test_name_in_the_cache_stays_in_the_cache(self, cache):
        for path in ("/../../etc/passwd", "/%2e%2e/%2Fetc%2Fx.pdparams", "/" + "n" * 400 + ".pdparams", "/.x", "/", ""):
            path = cached_path(f"https://h{path}", cache)
            assert path.parent == cache and len(path.name) < 150 and path.name[0] != "."

    def test_checksum_in_url_and_argument(self, server):
        url = server.url("/m.pdparams", respond())
        path = fetch(f"{url}#sha256={SHA}")
        assert (
            path == fetch(url, sha256=SHA.upper()) == fetch(f"{url}#{SHA}", sha256=SHA) == cached_path(f"{url}#{SHA}")
        )
        assert len(server.requests) == 1

    def test_redirects(self, server):
        target = server.url("/there", respond())
        server.url("/hop", redirect(target))
        assert fetch(server.url("/m.pdparams", redirect("/hop"))).read_bytes() == BODY
        assert [path for path, *_ in server.requests] == ["/m.pdparams", "/hop", "/there"]

    def test_without_a_length(self, server):
        assert fetch(server.url("/m.pdparams", respond(length=""))).read_bytes() == BODY

    def test_server_that_compresses_unasked(self, server):
        import gzip

        url = server.url("/m.pdparams", respond(gzip.compress(BODY), headers={"Content-Encoding": "gzip"}))
        assert fetch(url).read_bytes() == BODY

    def test_bar_only_on_a_terminal(self, server, capsys, monkeypatch):
        fetch(server.url("/m.pdparams", respond()))
        assert capsys.readouterr() == ("", "")
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        fetch(server.url("/n.pdparams", respond(piece=CUT, pause=0.15)))
        assert "n-" in (bar := capsys.readouterr().err) and "100%" in bar.rpartition("\r")[0]
        fetch(server.url("/o.pdparams", respond()), progress=False)
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
        url = server.url("/m.pdparams", respond(drop=CUT, **known), respond(**known))
        assert fetch(url).read_bytes() == BODY
        assert server.requests[1:] == [("/m.pdparams", f"bytes={CUT}-", validator)]
        assert left(cache) == {"", ".json"}

    def test_after_a_drop_without_a_length(self, server):
        """Chunked and cut: only the missing last chunk tells."""

        def chunked(handler):
            handler.protocol_version = "HTTP/1.1"
            respond(b"", length="", headers={"Transfer-Encoding": "chunked"})(handler)
            handler.wfile.write(b"%x\r\n%s\r\n" % (CUT, BODY[:CUT]))
            handler.close_connection = True

        assert fetch(server.url("/m.pdparams", chunked, respond())).read_bytes() == BODY
        assert server.requests[1][1] == f"bytes={CUT}-"

    def test_rest_without_a_length_is_cut_again(self, server):
        """Only the total of the first answer tells."""
        url = server.url("/m.pdparams", respond(drop=CUT), respond(drop=CUT, length=""), respond())
        assert fetch(url).read_bytes() == BODY
        assert [asked for _, asked, _ in server.requests] == [None, f"bytes={CUT}-", f"bytes={2 * CUT}-"]

    def test_in_the_next_call(self, server, cache, monkeypatch):
        monkeypatch.setattr(download, "ATTEMPTS", 1)
        url = server.url("/m.pdparams", respond(drop=CUT), respond())
        with pytest.raises(UserError, match="broke.*the next call goes on"):
            fetch(url)
        assert left(cache) == {".part", ".part.json"}
        assert fetch(url).read_bytes() == BODY
        assert server.requests[1][1] == f"bytes={CUT}-"

    def test_anew_when_the_file_changed_between_two_parts(self, server):
        url = server.url("/m.pdparams", respond(drop=CUT), respond(OTHER, etag='"2"'))
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
        wrong = respond(OTHER, **lie)
        assert fetch(server.url("/m.pdparams", respond(drop=CUT), wrong, respond())).read_bytes() == BODY
        assert [asked for _, asked, _ in server.requests] == [None, f"bytes={CUT}-", None]

    def test_anew_when_range_is_ignored_or_refused(self, server):
        url = server.url("/m.pdparams", respond(drop=CUT), respond(ranges=False))
        assert fetch(url).read_bytes() == BODY
        url = server.url("/n.pdparams", respond(drop=CUT), respond(b"", status=416), respond())
        assert fetch(url).read_bytes() == BODY

    def test_anew_when_nothing_identifies_the_file(self, server):
        url = server.url("/m.pdparams", respond(drop=CUT, etag=None), respond(etag=None))
        assert fetch(url).read_bytes() == BODY
        assert [asked for _, asked, _ in server.requests] == [None, None]

    def test_anew_when_the_parts_do_not_fit(self, server):
        """The same ETag for another file: the checksum tells."""
        url = server.url("/m.pdparams", respond(OTHER, drop=CUT), respond())
        assert fetch(url, sha256=SHA).read_bytes() == BODY
        assert [asked for _, asked, _ in server.requests] == [None, f"bytes={CUT}-", None]

    def test_a_complete_part_needs_no_server(self, server, cache):
        url = server.url("/m.pdparams", respond(b"", status=500))
        part = Path(f"{cached_path(url)}.part")
        cache.mkdir(parents=True)
        part.write_bytes(BODY)
        Path(f"{part}.json").write_text(json.dumps({"total": len(BODY), "validator": '"1"'}))
        assert fetch(url).read_bytes() == BODY
        assert not server.requests and left(cache) == {"", ".json"}

    @pytest.mark.parametrize("state", ["", "[]", '{"total": 3, "validator": "\\"1\\""}'])
    def test_a_part_of_unknown_origin_is_dropped(self, server, cache, state):
        url = server.url("/m.pdparams", respond())
        part = Path(f"{cached_path(url)}.part")
        cache.mkdir(parents=True)
        part.write_bytes(OTHER[:CUT])
        Path(f"{part}.json").write_text(state)
        assert fetch(url).read_bytes() == BODY
        assert server.requests == [("/m.pdparams", None, None)]

    def test_many_drops_when_each_brings_enough(self, server, monkeypatch):
        monkeypatch.setattr(download, "PROGRESS", 10_000)
        url = server.url("/m.pdparams", *[respond(drop=20_000)] * 14, respond())
        assert fetch(url).read_bytes() == BODY
        assert len(server.requests) == 15 > download.ATTEMPTS


class TestGivesUp:
    @pytest.mark.parametrize(
        "status, words", [(404, "link is dead"), (410, "link is dead"), (403, "refused"), (418, "418")]
    )
    def test_dead_link(self, server, cache, status, words):
        url = server.url("/m.pdparams", respond(PAGE, status=status, kind="text/html"))
        with pytest.raises(UserError, match=f"{url}.*{words}.*by hand and give the path") as e:
            fetch(url)
        assert str(cached_path(url)) in str(e.value) and str(status) in str(e.value)
        assert len(server.requests) == 1 and left(cache) == set()

    @pytest.mark.parametrize("failure", [respond(status=500), respond(status=503), respond(status=429), hang_up])
    def test_failures_that_pass(self, server, failure):
        assert fetch(server.url("/m.pdparams", failure, failure, respond())).read_bytes() == BODY

    def test_failures_that_stay(self, server, cache):
        url = server.url("/m.pdparams", respond(b"", status=502))
        with pytest.raises(UserError, match=r"502.*\(5 attempts\)"):
            fetch(url)
        assert len(server.requests) == download.ATTEMPTS and left(cache) == set()
        url = server.url("/n.pdparams", hang_up)
        with pytest.raises(UserError, match=r"connection broke.*\(5 attempts\)"):
            fetch(url)

    def test_waits_as_long_as_asked_but_not_longer(self, server, monkeypatch):
        waits = []
        monkeypatch.setattr(download.time, "sleep", waits.append)
        soon, late = (respond(b"", status=503, headers={"Retry-After": str(s)}) for s in (7, 86400))
        fetch(server.url("/m.pdparams", soon, late, respond()))
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
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen()
            with pytest.raises(UserError, match=r"no answer within 0.2 s \(2 attempts\)"):
                fetch(f"http://127.0.0.1:{deaf.getsockname()[1]}/m.pdparams", timeout=0.2)

    def test_no_certificate(self, server):
        """An http server spoken to in https."""
        url = server.url("/m.pdparams", respond()).replace("http:", "https:")
        with pytest.raises(UserError, match="no secure connection to 127.0.0.1"):
            fetch(url)

    @pytest.mark.parametrize("piece, pause", [(10, 0.05), (CUT, 1.0)])
    def test_trickle_and_silence(self, server, monkeypatch, piece, pause):
        """Ten bytes every 0.05 s never trip a socket's timeout."""
        monkeypatch.setattr(download, "ATTEMPTS", 2)
        with pytest.raises(UserError, match=r"(only \d+ bytes came in|nothing came for 0.3 s).*\(2 attempts\)"):
            fetch(server.url("/m.pdparams", respond(piece=piece, pause=pause)), timeout=0.3)
        assert len(server.requests) == 2

    def test_length_that_is_never_reached(self, server, cache):
        url = server.url("/m.pdparams", respond(length=len(BODY) + 5))
        with pytest.raises(UserError, match=r"broke.*\(5 attempts\)"):
            fetch(url)
        assert not cached_path(url).exists()

    def test_length_too_short(self, server):
        """What lies beyond a Content-Length is not part of the answer; only a checksum tells that the file is cut."""
        url = server.url("/m.pdparams", respond(length=CUT))
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
        url = server.url("/m.pdparams", respond(status=404)).replace("//", "//me:secret@")
        with pytest.raises(UserError, match="http://127.0.0.1") as e:
            fetch(url)
        assert "secret" not in str(e.value)
        monkeypatch.setattr(download, "ATTEMPTS", 1)
        server.url("/m.pdparams", respond(drop=CUT), respond())
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
        url = server.url("/m.pdparams", respond(body, kind=kind))
        with pytest.raises(UserError, match=re.escape(words)) as e:
            fetch(url)
        assert url in str(e.value) and len(server.requests) == 1
        assert left(cache) == set()

    def test_page_behind_a_redirect_is_named(self, server):
        page = server.url("/login", respond(PAGE, kind="text/html"))
        with pytest.raises(UserError, match=rf"Sign in.*\(from {page}\)"):
            fetch(server.url("/m.pdparams", redirect(page)))

    def test_weights_of_a_careless_server_are_accepted(self, server):
        assert fetch(server.url("/m.pdparams", respond(kind="text/html"))).read_bytes() == BODY

    def test_page_saved_by_hand_in_the_cache(self, server, cache):
        url = server.url("/m.pdparams", respond())
        cache.mkdir(parents=True)
        cached_path(url).write_bytes(PAGE)
        assert fetch(url).read_bytes() == BODY


class TestChecksum:
    def test_wrong_one_leaves_nothing(self, server, cache):
        url = server.url("/m.pdparams", respond(OTHER))
        with pytest.raises(UserError, match=f"has sha256 {hashlib.sha256(OTHER).hexdigest()}, expected {SHA}"):
            fetch(f"{url}#{SHA}")
        assert left(cache) == set() and len(server.requests) == 1

    @pytest.mark.parametrize("sha256", [SHA, None])
    def test_altered_file_comes_anew(self, server, sha256):
        """Without a published checksum, the one it had when it came tells."""
        url = server.url("/m.pdparams", respond())
        path = fetch(url, sha256=sha256)
        flipped = bytearray(BODY)
        flipped[1000] ^= 1
        path.write_bytes(flipped)
        assert fetch(url, sha256=sha256).read_bytes() == BODY
        assert len(server.requests) == 2

    def test_altered_file_stays_altered(self, server):
        """It is fetched anew once per call, and never handed out."""
        url = server.url("/m.pdparams", respond(), respond(OTHER))
        path = fetch(url, sha256=SHA)
        path.write_bytes(OTHER)
        with pytest.raises(UserError, match="has sha256"):
            fetch(url, sha256=SHA)
        assert len(server.requests) == 2

    def test_file_put_there_by_hand(self, server, cache):
        url = server.url("/m.pdparams", respond(status=404))
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
        url = server.url("/m.pdparams", respond())
        with pytest.raises(UserError, match=f"PPVISION_OFFLINE is set and {cached_path(url)} is not there"):
            fetch(url)
        assert not server.requests and not cache.exists()

    def test_uses_the_cache_but_nothing_altered(self, server, monkeypatch):
        url = server.url("/m.pdparams", respond())
        path = fetch(url)
        monkeypatch.setenv("PPVISION_OFFLINE", "true")
        assert fetch(url) == path
        path.write_bytes(OTHER)
        with pytest.raises(UserError, match="is altered"):
            fetch(url)
        monkeypatch.setenv("PPVISION_OFFLINE", "0")
        assert fetch(url).read_bytes() == BODY
