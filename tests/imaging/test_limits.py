"""What is refused before its pixels are decoded: see benchmarks/hostile_uploads.py for the cost."""

import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from cnnClassifier.imaging import decode as decode_module
from cnnClassifier.imaging.decode import decode
from cnnClassifier.imaging.limits import PixelBudget
from cnnClassifier.utils.errors import ImageError
from tests.dicoms import dicom
from tests.pictures import encoded
from tests.waiting import PATIENCE_S, until

MAX_PIXELS = 1_000_000
GRAY = Image.new("L", (30, 20), 9)
PNG, JPEG, GIF = (encoded(GRAY, kind) for kind in ("PNG", "JPEG", "GIF"))


def chunk(kind, content=b""):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def jpeg_with(size):
    """Return a JPEG whose header has another width and height."""
    start = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:start] + struct.pack(">HH", size[1], size[0]) + JPEG[start + 4 :]


def with_many_scans(count):
    """Return a progressive JPEG, with its last scan again and again."""
    data = encoded(GRAY, "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def tiff(width, height, *entries, data=b""):
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (262, 3, 1, 1), *entries]
    start = 10 + 12 * len(entries) + 4
    packed = b""
    for tag, kind, count, value in entries:
        packed += struct.pack("<HHII", tag, kind, count, start if count > 1 else value)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4) + data


STRIPS = 50_001
RLE = encoded(GRAY, "BMP").replace(struct.pack("<II", 0, 640), struct.pack("<II", 1, 640))
TALL, WIDE = (20, 20_001), (20_001, 20)
J2K = encoded(GRAY, "JPEG2000", no_jp2=True, tile_size=(10, 10))
PIXELS = np.zeros((20, 30), np.uint8)


def in_dicom(syntax, frame):
    return dicom(PIXELS, f"1.2.840.10008.1.2.4.{syntax}", frame=frame)


@pytest.mark.parametrize("size", [TALL, WIDE])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "DICOM"])
def test_a_side_is_limited_in_every_format(kind, size):
    if kind == "DICOM":
        data = dicom(PIXELS, Rows=size[1], Columns=size[0])
    else:
        data = jpeg_with(size) if kind == "JPEG" else encoded(Image.new("L", size), kind)
    with pytest.raises(ImageError, match="pixels; a side may have at most 20,000") as caught:
        decode(data, MAX_PIXELS)
    assert caught.value.code == "too_large"


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (encoded(Image.new("L", (800, 800)), "WEBP"), "too_large", "at most 500,000 are accepted"),
        (
            encoded(Image.new("L", (800, 800)), "TIFF", compression="jpeg"),
            "too_large",
            "at most 500,000 are accepted for this kind of file",
        ),
        (
            RLE.replace(struct.pack("<ii", 30, 20), struct.pack("<ii", 600, 600)),
            "too_large",
            "at most 250,000 are accepted for this kind of file",
        ),
        (
            tiff(9, 9, (259, 3, 1, 8), (322, 4, 1, 2000), (323, 4, 1, 2000)),
            "too_large",
            "2000×2000",
        ),
        (
            tiff(9, 9, (273, 4, STRIPS, 0), (279, 4, STRIPS, 0), data=bytes(4 * STRIPS)),
            "corrupt",
            "too many strips",
        ),
        (PNG[:33] + chunk(b"teSt") * 130_000 + PNG[33:], "corrupt", "too many blocks"),
        (b"\xff\xd8" + b"\xff\xfe\0\2" * 90_000 + JPEG[2:], "corrupt", "too many blocks"),
        (b"\xff\xd8" + b"\xff" * 300_000 + JPEG[2:], "corrupt", "too many blocks"),
        (GIF[:13] + b"!\xfe" + b"\1a" * 130_000 + b"\0" + GIF[13:], "corrupt", "too many blocks"),
        (GIF[:13] + b"!\xfe\0" * 130_000 + GIF[13:], "corrupt", "too many blocks"),
        (RLE[:1078] + b"\0\2\0\0" * 130_000, "corrupt", "too many blocks"),
        (with_many_scans(50), "corrupt", "too many scans"),
        (
            JPEG[:2] + b"\xff\xfe\0\4\xff\xd9" + with_many_scans(50)[2:],  # not the end
            "corrupt",
            "too many scans",
        ),
        (JPEG.replace(b"\xff\xc0", b"\xff\xc9"), "unsupported", "arithmetic coding"),
        (in_dicom(50, with_many_scans(50)), "corrupt", "too many scans"),
        (in_dicom(50, JPEG[:2] + b"\xff" * 300_000 + JPEG[2:]), "corrupt", "too many blocks"),
        (
            in_dicom(90, J2K.replace(struct.pack(">II", 10, 10), struct.pack(">II", 1, 0))),
            "corrupt",
            "can't be decoded",
        ),
        (
            in_dicom(90, J2K[:8] + struct.pack(">II", 30_000, 20_000) + J2K[16:]),
            "corrupt",
            "too many tiles",
        ),
    ],
)
def test_what_takes_too_much_time_or_memory_is_refused(data, code, message):
    with pytest.raises(ImageError, match=message) as caught:
        decode(data, MAX_PIXELS)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "data",
    [
        with_many_scans(30),
        JPEG + b"\xff\xda" * 100,  # after the end
        JPEG[:2] + b"\xff\xfe\0\x66" + b"\xff\xda" * 50 + JPEG[2:],  # in a comment
        in_dicom(90, J2K),
    ],
)
def test_what_only_looks_like_it_is_accepted(data):
    assert decode(data, MAX_PIXELS).size == "30x20"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "F"])
def test_strips_make_no_difference(mode, monkeypatch):
    levels = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    image = Image.fromarray(levels if mode == "I;16" else (levels >> 8).astype(np.uint8))
    if mode != "I;16":
        image = image.convert(mode)
    data = encoded(image, "TIFF") if mode in ("CMYK", "F") else encoded(image)
    whole = decode(data, MAX_PIXELS).pixels
    monkeypatch.setattr(decode_module, "_STRIP_PIXELS", 100)
    assert np.array_equal(decode(data, MAX_PIXELS).pixels, whole)
    assert len(np.unique(whole)) > 100


def test_threads_share_a_budget_in_turn():
    budget, order, finish = PixelBudget(1000), [], threading.Event()

    def hold(pixels):
        with budget.use(pixels):
            order.append(pixels)
            finish.wait(PATIENCE_S)

    threads = []
    for pixels in (600, 900, 100):
        thread = threading.Thread(target=hold, args=(pixels,), daemon=True)
        thread.start()
        threads.append(thread)
        until(lambda: order)
    assert order == [600]  # 100 would fit, but 900 is first
    finish.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(order) == [100, 600, 900]
