"""Weight files from the web: downloaded once, checked, kept in a cache.

The cache is `$PPVISION_CACHE/weights`, by default `~/.cache/ppvision/weights`. With `PPVISION_OFFLINE=1` nothing is
fetched. Beside a file lies its record (`<file>.json`: URL, size, sha256), so that a bit that flips later is noticed
even where nobody has published a checksum. An interrupted download (`<file>.part`) is continued only if the server
confirms that it still has the same file; a lock lets one process download while the others wait for the result.

Checked:  against a loopback server that drops, stalls, lies and changes its mind (tests/weights/test_download.py).
Deviates: HTTP is left to `requests` (proxies, certificates, redirects), its retries and its `iter_content` are not
          used: the first cannot resume, the second waits for a full chunk and so never notices a trickle.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from ppvision import files
from ppvision.errors import RunError, UserError

if TYPE_CHECKING:
    from requests import Response, Session

__all__ = ["cached_path", "fetch", "resolve"]

ATTEMPTS = 5  # in a row without PROGRESS
BACKOFF = 1.0  # seconds before the second attempt, doubled before each further one
MAX_WAIT = 30.0  # seconds between two attempts, whatever the server asks for
PROGRESS = 1 << 20  # new bytes after which failures are counted from zero: a long download may be cut often
MIN_RATE = 1024  # bytes a second; a connection slower than this over `timeout` is given up
CHUNK = 1 << 20
HEAD = 512  # bytes that tell a web page from weights
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TRANSIENT = (408, 425, 429)  # and 5xx
MARKUP = re.compile(rb"\s*<(!doctype|html|head|body|\?xml|!--|script|title|error)", re.IGNORECASE)
SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)  # two letters or more: C: is a drive


class _Again(Exception):
    """A failure that may pass. `wait`: seconds the server asks for."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


def fetch(
    url: str | os.PathLike,
    *,
    sha256: str | None = None,
    cache: str | os.PathLike | None = None,
    progress: bool = True,
    timeout: float = 30.0,
) -> Path:
    """The file at `url` on this machine, downloaded if it is not in the cache.

    A cached file is read once at every call to compare its sha256 (with the one given, else with the one it had when it
    came); an altered one is downloaded again.

    Args:
        url: `http://` or `https://`, to which `#<sha256>` may be added; `file://` and plain paths are returned as they
            are, without asking whether they exist unless `sha256` is to be compared.
        sha256: 64 hexadecimal digits the file must have.
        cache: folder for downloaded files; default: `$PPVISION_CACHE/weights`, else `~/.cache/ppvision/weights`.
        progress: show a bar if stderr is a terminal.
        timeout: seconds to connect, to wait for an answer, and over which a connection must bring 1 KiB/s.

    Raises:
        UserError: the file cannot be had, is not a weight file, or is not the one expected.
        RunError: the disk is full.
    """
    source = os.fspath(url)
    scheme = SCHEME.match(source)
    kind = scheme[1].lower() if scheme else None
    if kind is None:
        return _local(Path(source), _digits(sha256, source))
    try:
        parts = urlsplit(source)
        _ = parts.port
    except ValueError as e:
        raise UserError(f"{source}: is no URL ({e})") from None
    address, _, fragment = source.partition("#")
    expected, given = _digits(fragment or None, _shown(source)), _digits(sha256, _shown(source))
    if expected and given and expected != given:
        raise UserError(f"{_shown(source)}: the URL says another sha256 than the argument ({given})")
    if kind == "file":
        if parts.netloc not in ("", "localhost"):
            raise UserError(f"{source}: names a file on another machine; file:///folder/file is one on this machine")
        return _local(Path(unquote(parts.path)), expected or given)
    if kind not in ("http", "https"):
        raise UserError(f"{_shown(source)}: weights come from http://, https://, file:// or a path, not {kind}://")
    return _cached(address, expected or given, cache, progress, timeout)


def resolve(source: str | os.PathLike) -> Path:
    """`fetch` with its defaults: what `load_weights`, `create_model` and `model.weights` make of a source."""
    return fetch(source)


def cached_path(url: str, cache: str | os.PathLike | None = None) -> Path:
    """Where `fetch` keeps the file of an http(s) URL. Published files are all called model.pdparams, so the name tells
    the folder too, and a hash of the whole URL keeps two apart.
    """
    address = url.partition("#")[0]
    folders = [unquote(part) for part in urlsplit(address).path.split("/") if part][-2:] or ["weights"]
    stem, suffix = os.path.splitext("-".join(folders))
    stem, suffix = (re.sub(r"[^A-Za-z0-9._-]+", "_", text) for text in (stem, suffix))
    name = f"{stem[:100].lstrip('.')}-{hashlib.sha256(address.encode()).hexdigest()[:12]}{suffix[:20]}"
    return (Path(cache).expanduser() if cache else files.cache_folder("weights")) / name


def _digits(sha256: str | None, source: str) -> str | None:
    """A checksum in lower case, without an optional `sha256=` or `sha256:`."""
    if sha256 is None:
        return None
    digits = re.sub(r"^sha256[=:]", "", sha256.strip().lower())
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise UserError(f"{source}: '{sha256}' is no sha256 (64 hexadecimal digits)")
    return digits


def _shown(url: str) -> str:
    """A URL for messages, without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else url


def _size(count: float) -> str:
    power = min(max(len(str(int(count))) - 1, 0) // 3, 3)
    return f"{count:.0f} bytes" if not power else f"{count / 1000**power:.1f} {('kB', 'MB', 'GB')[power - 1]}"


def _local(path: Path, expected: str | None) -> Path:
    if expected is None:
        return path
    try:
        actual = files.sha256(path)
    except OSError as e:
        raise UserError(f"{path}: {e.strerror}") from None
    if actual != expected:
        raise UserError(f"{path}: has sha256 {actual}, expected {expected}: it is another file, or damaged")
    return path


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _read_record(path: Path) -> dict[str, Any]:
    """A small JSON mapping; empty if there is none or it is damaged."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write_record(path: Path, record: dict[str, Any]) -> None:
    files.write(path, json.dumps(record, indent=1) + "\n")


def _foreign(head: bytes, content_type: str = "") -> str | None:
    """What a file is that begins with `head` and cannot hold weights; None if it may hold some."""
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself"
    kind = content_type.partition(";")[0].strip().lower()
    text = b"\0" not in head and not head.startswith(b"\x80")  # a pickle begins with 0x80, zip and safetensors have 0
    if MARKUP.match(head.removeprefix(b"\xef\xbb\xbf")) or (text and kind in ("text/html", "application/xhtml+xml")):
        title = re.search(rb"<title[^>]*>\s*([^<]{1,80})", head, re.IGNORECASE)
        name = f" titled '{title[1].decode('utf-8', 'replace').strip()}'" if title else ""
        return f"a web page{name}" + (f" ({kind})" if kind else "")
    if text and kind == "application/json":
        return f"a JSON answer: {head[:100].decode('utf-8', 'replace')}"
    return None


def _fault(path: Path, expected: str | None) -> str | None:
    """Why a cached file cannot be used, in words that follow its name; None if it can."""
    if not path.exists():
        return "is not there"
    if not path.is_file():
        return "is not a file"
    expected = expected or _read_record(_beside(path, ".json")).get("sha256")
    if expected:
        actual = files.sha256(path)
        return None if actual == expected else f"is altered (sha256 {actual}, expected {expected})"
    with open(path, "rb") as stream:
        head = stream.read(HEAD)
    kind = _foreign(head) if head else "empty"
    return f"is {kind}" if kind else None


def _cached(url: str, expected: str | None, cache: str | os.PathLike | None, progress: bool, timeout: float) -> Path:
    path = cached_path(url, cache)
    try:
        fault = _fault(path, expected)
        if fault is None:
            return path
        if os.environ.get("PPVISION_OFFLINE", "").strip().lower() not in ("", "0", "false", "no", "off"):
            raise UserError(
                f"{_shown(url)}: PPVISION_OFFLINE is set and {path} {fault}; download the file by hand to that path"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        lock, part = path.with_name(f".{path.name}.lock"), _beside(path, ".part")
        hint = "set PPVISION_CACHE to a local folder"
        with files.locked(lock, ATTEMPTS * (timeout + MAX_WAIT), watch=lambda: _state(part), hint=hint):
            # Whoever held the lock before may have brought the file.
            if _fault(path, expected) is not None:
                _Download(url, path, expected, progress, timeout).run()
        return path
    except OSError as e:
        raise _disk_error(path, e) from None


def _state(part: Path) -> tuple[int, int] | None:
    """What changes while a download comes in: size and time of what is there of it."""
    with contextlib.suppress(OSError):
        status = part.stat()
        return status.st_size, status.st_mtime_ns
    return None


def _disk_error(path: Path, e: OSError) -> UserError:
    reason = (e.strerror or str(e))[:200]
    if e.errno in FULL:
        return RunError(
            f"{path.parent}: no space left for {path.name} ({reason}); free some, or set PPVISION_CACHE to a folder on "
            "another disk; nothing of the download was kept"
        )
    return UserError(f"{e.filename or path}: {reason}; set PPVISION_CACHE to a folder that can be written")


class _Download:
    """One file on its way into the cache; the caller holds its lock."""

    def __init__(self, url: str, path: Path, expected: str | None, progress: bool, timeout: float):
        self.url, self.path, self.expected, self.timeout = url, path, expected, timeout
        self.part, self.state = _beside(path, ".part"), _beside(path, ".part.json")
        self.progress = progress and sys.stderr.isatty()
        self.responded = False  # whether the server has answered at all
        self.patched = False  # whether the part was put together from several answers

    def run(self) -> None:
        import requests
        from tqdm import tqdm

        failures, best = 0, self._part_size()
        with (
            requests.Session() as session,
            tqdm(
                desc=self.path.name,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                dynamic_ncols=True,
                leave=False,
                disable=not self.progress,
            ) as bar,
        ):
            session.max_redirects = 10
            while True:
                try:
                    self._attempt(session, bar)
                    actual = self._verify()
                    break
                except _Again as e:
                    size = self._part_size()
                    if size >= best + PROGRESS:
                        failures, best = 0, size
                    failures += 1
                    if failures >= ATTEMPTS:
                        kept = "; the next call goes on where this one stopped" if size and self._validator() else ""
                        raise self._error(f"{e} ({failures} attempts){kept}") from None
                    time.sleep(min(BACKOFF * 2 ** (failures - 1) if e.wait is None else e.wait, MAX_WAIT))
        record = {"url": _shown(self.url), "size": self._part_size(), "sha256": actual}
        files.move(self.part, self.path)
        # In this order: if the process dies in between, the file lacks its record or does not match an old one, and is
        # accepted or downloaded again; the other order could vouch for a file that never came.
        _write_record(_beside(self.path, ".json"), record)
        self.state.unlink(missing_ok=True)

    def _error(self, what: str) -> UserError:
        by_hand = f"download it by hand and give the path of the file, or save it as {self.path}"
        return UserError(f"{_shown(self.url)}: {what}; or {by_hand}")

    def _part_size(self) -> int:
        try:
            return self.part.stat().st_size
        except OSError:
            return 0

    def _validator(self) -> str | None:
        """What the server calls this state of the file; without it nothing can be continued."""
        return _read_record(self.state).get("validator")

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)
        self.patched = False

    def _attempt(self, session: Session, bar: Any) -> None:
        """Brings the part to its full length.

        Raises:
            _Again: another attempt makes sense.
            UserError: it does not.
        """
        size, state = self._part_size(), _read_record(self.state)
        total = state.get("total")
        if not state or (total is not None and size > total):
            size = 0
        if size and size == total:  # a process died between the last byte and the new name
            self.patched = True
            return
        # Identity: a length and a range count the bytes of the file, not of some compressed form.
        headers = {"Accept-Encoding": "identity", "User-Agent": "ppvision"}
        if size and state.get("validator"):
            headers |= {"Range": f"bytes={size}-", "If-Range": state["validator"]}
        else:
            size = 0
        with self._get(session, headers) as response:
            self.responded = True
            self._check_redirects(response)
            if response.status_code == 206 and size:
                total = self._check_range(response, size, state)
            elif response.status_code == 200:
                size, total = 0, _length(response)
            elif response.status_code == 416:
                self._forget()
                raise _Again("the server refuses the range that is missing", 0)
            else:
                raise self._status_error(response)
            self._receive(response, size, total, bar)

    def _get(self, session: Session, headers: dict[str, str]) -> Response:
        import requests
        from urllib3 import exceptions as below

        try:
            return session.get(self.url, headers=headers, stream=True, timeout=self.timeout)
        except requests.exceptions.TooManyRedirects:
            raise self._error(f"more than {session.max_redirects} redirects: the link is broken") from None
        except requests.exceptions.ReadTimeout:
            raise _Again(f"no answer within {self.timeout:g} s") from None
        except requests.exceptions.ConnectionError as e:
            cause = e.args[0] if e.args else e
            cause = getattr(cause, "reason", None) or cause
            host = urlsplit(self.url).hostname
            if isinstance(e, requests.exceptions.SSLError):
                reason = f"no secure connection to {host} ({_innermost(e)}); check the clock and REQUESTS_CA_BUNDLE"
            elif isinstance(e, requests.exceptions.ProxyError):
                reason = f"no connection through the proxy ({_innermost(e)}); check HTTPS_PROXY and NO_PROXY"
            elif isinstance(e, requests.exceptions.ConnectTimeout):
                reason = f"no connection to {host} within {self.timeout:g} s; check the network and HTTPS_PROXY"
            elif isinstance(cause, below.NameResolutionError):
                reason = f"the name {host} is not known; check the URL, the network and HTTPS_PROXY"
            elif isinstance(cause, below.NewConnectionError):
                refused = "refused" in str(cause)
                reason = f"{host} {'refuses the connection' if refused else 'is not reachable'}; check the URL"
            else:  # cut in the middle
                raise _Again(f"the connection broke ({_innermost(cause)})") from None
            # Where nothing ever answered a repetition only delays the message.
            raise (_Again(reason) if self.responded else self._error(reason)) from None
        except (requests.RequestException, below.HTTPError, ValueError) as e:
            raise self._error(f"cannot be fetched ({_innermost(e)})") from None

    def _check_redirects(self, response: Response) -> None:
        chain = [r.url for r in [*response.history, response]]
        if self.expected is None and self.url.lower().startswith("https:") and any(u[:5] == "http:" for u in chain):
            raise self._error(f"redirects to {_shown(chain[-1])}, unencrypted; give URL#sha256 to accept it")

    def _check_range(self, response: Response, size: int, state: dict[str, Any]) -> int | None:
        """The full length, if the answer is exactly what is missing of the same file."""
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        total = state.get("total")
        same = all(response.headers.get(key, state.get(key)) == state.get(key) for key in ("ETag", "Last-Modified"))
        fits = found and int(found[1]) == size and (total is None or found[3] in ("*", str(total)))
        if not (same and fits) or response.headers.get("Content-Encoding", "identity") != "identity":
            self._forget()
            raise _Again("the server sent another part of the file than the one asked for", 0)
        self.patched = True
        return total if found[3] == "*" else int(found[3])

    def _status_error(self, response: Response) -> Exception:
        status = f"{response.status_code} {response.reason or ''}".strip()
        if response.status_code in TRANSIENT or response.status_code >= 500:
            wait = response.headers.get("Retry-After", "")
            return _Again(f"the server answers {status}", float(wait) if wait.isdecimal() else None)
        if response.status_code in (404, 410):
            return self._error(f"the link is dead ({status}); look for the new place of the file")
        if response.status_code in (401, 403, 407):
            return self._error(f"access is refused ({status})")
        return self._error(f"the server answers {status}")

    def _receive(self, response: Response, size: int, total: int | None, bar: Any) -> None:
        """Writes the body of `response` behind the first `size` bytes of the part."""
        try:
            with open(self.part, "r+b" if size else "wb") as out:
                if not size:
                    self.patched = False
                    # After the old bytes are gone, before the first new one: bytes and their origin never disagree.
                    _write_record(self.state, self._origin(response, total))
                head = out.read(HEAD) if size else b""
                out.seek(size)
                self._check_space(total, size)
                bar.total, bar.n = total, size
                bar.refresh()
                for block in self._blocks(response):
                    if len(head) < HEAD:
                        head += block[: HEAD - len(head)]
                        if len(head) == HEAD:
                            self._check_head(head, response)
                    out.write(block)
                    size += len(block)
                    bar.update(len(block))
                self._check_head(head, response)
                out.flush()
                files.sync(self.part)
        except OSError as e:
            if e.errno in FULL:
                self._forget()
            raise
        if total is not None and size != total:
            raise _Again(f"the server broke off after {_size(size)} of {_size(total)}")

    def _origin(self, response: Response, total: int | None) -> dict[str, Any]:
        etag, modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
        strong = etag if etag and not etag.startswith("W/") else None  # a weak one does not mean equal bytes
        encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        return {
            "url": _shown(self.url),
            "total": total,
            "validator": None if encoded else strong or modified,
            "ETag": etag,
            "Last-Modified": modified,
        }

    def _blocks(self, response: Response) -> Iterator[bytes]:
        """The body as it comes in; raises `_Again` when it stops coming."""
        from urllib3 import exceptions as below

        since, count = time.monotonic(), 0
        while True:
            try:
                block = response.raw.read1(CHUNK, decode_content=True)
            except below.ReadTimeoutError:
                raise _Again(f"nothing came for {self.timeout:g} s") from None
            except (below.HTTPError, OSError) as e:
                raise _Again(f"the connection broke ({_innermost(e)})") from None
            if not block:
                return
            yield block
            count += len(block)
            elapsed = time.monotonic() - since
            if elapsed > self.timeout:
                if count < MIN_RATE * elapsed:
                    raise _Again(f"only {_size(count)} came in {elapsed:.0f} s")
                since, count = time.monotonic(), 0

    def _check_head(self, head: bytes, response: Response) -> None:
        kind = _foreign(head, response.headers.get("Content-Type", "")) if head else "an empty answer"
        if kind:
            self._forget()
            where = f" (from {_shown(response.url)})" if response.history else ""
            raise self._error(f"is not a weight file: what came is {kind}{where}; look for the direct link")

    def _check_space(self, total: int | None, size: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and total - size > free:
            self._forget()
            raise RunError(
                f"{self.path.parent}: {_shown(self.url)} needs {_size(total - size)} and {_size(free)} are free; free "
                "some, or set PPVISION_CACHE to a folder on another disk"
            )

    def _verify(self) -> str:
        """The sha256 of the complete part."""
        actual, size = files.sha256(self.part), self._part_size()
        if self.expected is None or actual == self.expected:
            return actual
        patched = self.patched
        self._forget()
        if patched:
            raise _Again("the continued file has another sha256 than expected", 0)
        raise self._error(
            f"what came ({_size(size)}) has sha256 {actual}, expected {self.expected}: it was replaced or damaged on "
            "its way; compare with the publisher's checksum"
        )


def _length(response: Response) -> int | None:
    """Bytes of the file, if the headers say so."""
    if response.headers.get("Content-Encoding", "identity") != "identity" or "Transfer-Encoding" in response.headers:
        return None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _innermost(e: BaseException) -> str:
    """What is at the bottom of an exception that libraries wrapped several times; without addresses of objects."""
    while True:
        inner = next((a for a in reversed(e.args) if isinstance(a, BaseException)), None)
        inner = getattr(e, "reason", None) if isinstance(getattr(e, "reason", None), BaseException) else inner
        if inner is None:
            text = getattr(e, "strerror", None) or str(e) or type(e).__name__
            return " ".join(text.split())[:200]
        e = inner
