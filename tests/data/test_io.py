from __future__ import annotations

import io as bytesio
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from ppvision.data import io
from ppvision.errors import UserError


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (17, 23, 3), np.uint8)


def encode(suffix: str, rgb: np.ndarray) -> bytes:
    array = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR) if rgb.ndim == 3 and rgb.shape[2] == 3 else rgb
    return cv2.imencode(suffix, array)[1].tobytes()


def by_pillow(image: Image.Image, form: str = "PNG", **kwargs) -> bytes:
    buffer = bytesio.BytesIO()
    image.save(buffer, form, **kwargs)
    return buffer.getvalue()


class TestImages:
    def test_colour_comes_back_as_rgb(self, picture):
        assert np.array_equal(io.decode_image(encode(".png", picture)), picture)

    def test_grey_is_repeated(self, picture):
        grey = picture[..., 0]
        assert np.array_equal(io.decode_image(encode(".png", grey)), np.repeat(grey[..., None], 3, 2))

    def test_sixteen_bits_are_reduced(self, picture):
        wide = picture.astype(np.uint16) * 257
        assert np.array_equal(io.decode_image(encode(".png", wide)), picture)

    def test_alpha_is_dropped(self, picture):
        alpha = np.concatenate([picture, np.zeros((17, 23, 1), np.uint8)], 2)
        assert np.array_equal(io.decode_image(by_pillow(Image.fromarray(alpha, "RGBA"))), picture)

    def test_palettes_are_resolved(self, picture):
        quantised = Image.fromarray(picture).quantize(16)
        assert np.array_equal(io.decode_image(by_pillow(quantised)), np.asarray(quantised.convert("RGB")))

    @pytest.mark.parametrize("value", range(1, 9))
    @pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
    def test_exif_orientation_is_applied(self, value, form):
        corner = np.zeros((16, 32, 3), np.uint8)
        corner[:8, :8], corner[8:, 16:] = (255, 0, 0), (0, 255, 0)
        exif = Image.Exif()
        exif[0x0112] = value
        data = by_pillow(Image.fromarray(corner), form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
        expected = np.asarray(ImageOps.exif_transpose(Image.open(bytesio.BytesIO(data))).convert("RGB"))
        got = io.decode_image(data)
        assert io.orientation(data) == value
        assert got.shape == expected.shape and np.abs(got.astype(int) - expected).max() < 8


class TestMasks:
    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    def test_a_palette_gives_its_indices(self, bits):
        labels = np.random.default_rng(1).integers(0, 2**bits, (9, 13), np.uint8)
        image = Image.fromarray(labels, "P")
        image.putpalette(list(range(255, -1, -1)) * 3)
        data = by_pillow(image, bits=bits)
        assert data[24:26] == bytes([bits, 3])
        assert np.array_equal(io.decode_mask(data), labels)

    def test_one_bit_grey_is_not_stretched(self):
        labels = np.random.default_rng(1).integers(0, 2, (9, 13), np.uint8)
        assert np.array_equal(io.decode_mask(by_pillow(Image.fromarray(labels.astype(bool)))), labels)

    def test_sixteen_bits_stay(self):
        labels = np.array([[0, 300], [65535, 7]], np.uint16)
        assert np.array_equal(io.decode_mask(encode(".png", labels)), labels)

    def test_equal_channels_are_one(self):
        labels = np.array([[0, 3], [255, 7]], np.uint8)
        assert np.array_equal(io.decode_mask(encode(".png", np.repeat(labels[..., None], 3, 2))), labels)

    def test_colours_are_refused(self, picture):
        with pytest.raises(io.Unreadable, match="is a colour picture"):
            io.decode_mask(encode(".png", picture))


class TestFaults:
    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
    @pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.995])
    def test_a_cut_file_is_refused(self, suffix, part):
        data = encode(suffix, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
        with pytest.raises(io.Unreadable, match="is truncated|cannot be decoded"):
            io.decode_image(data[: int(len(data) * part)])

    def test_a_thumbnail_does_not_hide_a_cut(self):
        thumbnail = encode(".jpg", np.zeros((8, 8, 3), np.uint8))
        data = encode(".jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
        segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
        whole = data[:2] + segment + data[2:]
        assert io.decode_image(whole).shape == (64, 64, 3)
        with pytest.raises(io.Unreadable, match="is truncated"):
            io.decode_image(whole[:-400])

    def test_bytes_after_the_end_are_harmless(self, picture):
        assert io.decode_image(encode(".jpg", picture) + b"camera trailer").shape == picture.shape

    def test_a_flipped_bit_in_a_png(self, picture):
        data = bytearray(encode(".png", picture))
        data[len(data) // 2] ^= 1
        with pytest.raises(io.Unreadable, match="checksum"):
            io.decode_image(bytes(data))

    @pytest.mark.parametrize(
        "content, reason", [(b"", "is empty"), (b"<html>404</html>", "is a text file"), (b"x" * 99, "decoded")]
    )
    def test_what_is_no_image(self, tmp_path, content, reason):
        path = tmp_path / "x.png"
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"^{path}: image .*{reason}"):
            io.read_image(str(path))

    def test_what_is_not_there(self, tmp_path):
        with pytest.raises(UserError, match="x.png: label does not exist$"):
            io.read_mask(str(tmp_path / "x.png"))
        with pytest.raises(UserError, match="cannot be opened .is a directory.$"):
            io.read_image(str(tmp_path))


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(io.Unreadable, match="is not a file"):
        io.read_bytes(str(tmp_path / "a.png"))


def test_libpng_does_not_speak_past_the_error(tmp_path, capfd):
    """A PNG with right checksums whose pixels stop half-way: libpng writes to stderr on its own."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype("uint8")
    data = cv2.imencode(".png", picture)[1].tobytes()
    at = data.index(b"IDAT") - 4
    (size,) = struct.unpack(">I", data[at : at + 4])
    body = b"IDAT" + data[at + 8 : at + 8 + size // 2]
    half = data[:at] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    end = data[data.index(b"IEND") - 4 :]
    with pytest.raises(io.Unreadable):
        io.decode_image(half + end)
    assert capfd.readouterr().err == ""
