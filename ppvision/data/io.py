"""Reading images and masks: OpenCV decodes, the container is checked first.

Policies, the same for training, evaluation and deployment:

- *Truncation*: decoders differ (and OpenCV's versions differ) in whether half a file is an error or half a grey
  picture. So a PNG must reach IEND with every checksum right, a JPEG must have an end marker after its scan, a BMP or
  WebP must be as long as it says. What fails is refused, never repaired.
- *EXIF orientation* is applied to images: what is learned is what a viewer shows, and what an annotation tool drew on.
  A mask has no orientation: it is taken as stored. A mask made from the unrotated pixels then differs in size and is
  reported.
- *Channels*: images come back as 8-bit RGB. Grey is repeated, 16 bits are reduced to 8, palettes are resolved, an
  alpha channel is dropped (the colour below it stays).
- *Masks* are class numbers: a palette PNG gives its indices, not its colours; bit depths 1, 2 and 4 give 0..15, not
  0..255; 16 bits stay 16 bits. A mask saved as RGB is accepted when its channels are equal.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import threading
import zlib
from collections.abc import Iterator

import cv2
import numpy as np

from ppvision.errors import UserError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))

_PNG = b"\x89PNG\r\n\x1a\n"
_PALETTE, _GREY = 3, 0
_STDERR = threading.Lock()


class Unreadable(ValueError):
    """Why a file cannot be used, as the end of a sentence whose subject is the file: "is truncated (...)"."""


def is_image(name: str) -> bool:
    """Whether the name ends as an image file does; hidden files do not count."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not os.path.basename(name).startswith(".")


def read_bytes(path: str) -> bytes:
    """The file's content. Raises `Unreadable` when it is missing, empty, a folder or not permitted."""
    try:
        kind = os.stat(path).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # opening a pipe would wait for a writer
            raise Unreadable("is not a file (a pipe, socket or device)")
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise Unreadable("does not exist") from None
    except OSError as error:
        raise Unreadable(f"cannot be opened ({(error.strerror or str(error)).lower()})") from None
    if not data:
        raise Unreadable("is empty (0 bytes)")
    return data


def decode_image(data: bytes) -> np.ndarray:
    """Encoded bytes -> uint8 [H,W,3] RGB, EXIF orientation applied. Raises `Unreadable`."""
    check_container(data)
    image = _decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return _orient(image, orientation(data))


def decode_mask(data: bytes) -> np.ndarray:
    """Encoded bytes -> integer [H,W] class numbers (uint8, or uint16 for 16-bit files). Raises `Unreadable`."""
    check_container(data)
    depth = 8
    if data.startswith(_PNG):
        depth, colour = data[24], data[25]
        if colour == _PALETTE:
            data = _palette_as_grey(data)
        elif colour != _GREY:
            depth = 8
    mask = _decode(data, cv2.IMREAD_UNCHANGED)
    if mask.ndim == 3:
        if not (np.array_equal(mask[..., 0], mask[..., 1]) and np.array_equal(mask[..., 0], mask[..., 2])):
            raise Unreadable("is a colour picture; a label holds one class number per pixel")
        mask = np.ascontiguousarray(mask[..., 0])
    if mask.dtype not in (np.uint8, np.uint16):
        raise Unreadable(f"holds {mask.dtype} values; a label holds class numbers of 8 or 16 bits")
    # Decoders stretch 1, 2 and 4 bits to 0..255.
    return mask // np.uint8(255 // ((1 << depth) - 1)) if depth < 8 else mask


def read_image(path: str) -> np.ndarray:
    """uint8 [H,W,3] RGB from a file.

    Raises:
        UserError: one line with the path and the reason.
    """
    try:
        return decode_image(read_bytes(path))
    except Unreadable as error:
        raise UserError(f"{path}: image {error}") from None


def read_mask(path: str) -> np.ndarray:
    """Integer [H,W] class numbers from a file.

    Raises:
        UserError: one line with the path and the reason.
    """
    try:
        return decode_mask(read_bytes(path))
    except Unreadable as error:
        raise UserError(f"{path}: label {error}") from None


def check_container(data: bytes) -> None:
    """Raise `Unreadable` when the file is cut off, damaged (PNG checksums) or not an image at all."""
    if data.startswith(_PNG):
        _check_png(data)
    elif data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data.startswith(b"BM") and len(data) >= 6 and struct.unpack_from("<I", data, 2)[0] > len(data):
        raise Unreadable("is truncated (BMP shorter than its header says)")
    elif data.startswith(b"RIFF") and len(data) >= 8 and struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise Unreadable("is truncated (WebP shorter than its header says)")
    elif data.lstrip()[:1] == b"<":
        raise Unreadable("is a text file (HTML or XML), not an image")


def orientation(data: bytes) -> int:
    """EXIF orientation 1..8 of a JPEG, PNG or WebP; 1 (upright) where there is none or it makes no sense."""
    exif = b""
    if data.startswith(b"\xff\xd8"):
        exif = next((s[6:] for m, s in _jpeg_segments(data) if m == 0xE1 and s.startswith(b"Exif\0\0")), b"")
    elif data.startswith(_PNG):
        exif = next((body for kind, body in _png_chunks(data) if kind == b"eXIf"), b"")
    elif data[8:12] == b"WEBP":
        at = data.find(b"EXIF", 12)
        exif = data[at + 8 :] if at >= 0 else b""
        exif = exif[6:] if exif.startswith(b"Exif\0\0") else exif
    if exif[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    order = "<" if exif.startswith(b"II") else ">"
    try:
        (at,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, at)
        for i in range(count):
            tag, _, _, value = struct.unpack_from(order + "HHIH", exif, at + 2 + 12 * i)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _decode(data: bytes, flags: int) -> np.ndarray:
    try:
        with _quiet() if data.startswith(_PNG) else contextlib.nullcontext():
            array = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # e.g. more than 2**30 pixels
        raise Unreadable(f"cannot be decoded ({error.err or error})") from None
    if array is None:
        raise Unreadable("cannot be decoded (damaged, or not an image)")
    return array


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep libpng from writing its own lines about a damaged file to stderr, past any Python handler."""
    with _STDERR:
        try:
            kept = os.dup(2)
        except OSError:  # a process without stderr
            yield
            return
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 2)
        os.close(sink)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _orient(image: np.ndarray, value: int) -> np.ndarray:
    """Undo an EXIF orientation: 2 mirrored, 3 half turn, 4 upside down, 5-8 height and width exchanged."""
    if value == 1:
        return image
    if value >= 5:
        image = image.transpose(1, 0, 2)
    if value in (2, 3, 6, 7):
        image = image[:, ::-1]
    if value in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _png_chunks(data: bytes):
    at = len(_PNG)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        if kind in (b"IDAT", b"IEND"):  # metadata after the pixels is legal for eXIf but nobody writes it there
            return
        yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def _check_png(data: bytes) -> None:
    view, at = memoryview(data), len(_PNG)
    while True:
        if at + 12 > len(data):
            raise Unreadable("is truncated (PNG without end)")
        (length,) = struct.unpack_from(">I", data, at)
        kind, stop = data[at + 4 : at + 8], at + 8 + length
        if stop + 4 > len(data):
            raise Unreadable("is truncated (PNG without end)")
        if zlib.crc32(view[at + 4 : stop]) != struct.unpack_from(">I", data, stop)[0]:
            raise Unreadable("is damaged (PNG checksum differs)")
        if at == len(_PNG) and (kind != b"IHDR" or length != 13):
            raise Unreadable("is damaged (PNG without header)")
        if kind == b"IEND":
            return
        at = stop + 4


def _jpeg_segments(data: bytes):
    """(marker, payload) of every header segment and of the first scan (0xDA, with all that follows it)."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            at += 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker == 0xDA:
            yield marker, data[at + 2 + length :]
            return
        yield marker, data[at + 4 : at + 2 + length]
        at += 2 + length


def _check_jpeg(data: bytes) -> None:
    scan = next((payload for marker, payload in _jpeg_segments(data) if marker == 0xDA), None)
    # Inside a scan 0xFF is always followed by 0 or a restart marker, so the first FFD9 is the end. One in an EXIF
    # thumbnail lies before the scan and does not count; bytes after the end (camera makers' trailers) are harmless.
    if scan is None or b"\xff\xd9" not in scan:
        raise Unreadable("is truncated (JPEG without end marker)")


def _palette_as_grey(data: bytes) -> bytes:
    """The same PNG with its header saying "grey" instead of "palette", so that a decoder gives indices."""
    out, at = [_PNG], len(_PNG)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, chunk = data[at + 4 : at + 8], data[at : at + 12 + length]
        if kind == b"IHDR":
            body = b"IHDR" + data[at + 8 : at + 17] + bytes([_GREY]) + data[at + 18 : at + 21]
            chunk = chunk[:4] + body + struct.pack(">I", zlib.crc32(body))
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            out.append(chunk)
        at += 12 + length
        if kind == b"IEND":
            break
    return b"".join(out)
