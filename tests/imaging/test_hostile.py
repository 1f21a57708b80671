"""Whatever the bytes: a picture or an ImageError, and never much memory."""

import io
import resource
import struct
import sys
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from cnnClassifier.entity.dicom_options import DEFAULT_DICOM_OPTIONS, DicomOptions
from cnnClassifier.imaging.decode import decode, prepare
from cnnClassifier.utils.errors import ImageError
from tests.dicoms import dicom, lungs
from tests.pictures import encoded, picture

MAX_PIXELS = 1_000_000
CODES = {"empty", "not_an_image", "corrupt", "too_large", "unsupported", "no_such_frame"}
STORED = lungs(side=32)
FRAMES = np.stack([STORED, STORED])
PLAIN = picture(0, (40, 32))
JUNK = Image.Exif()
JUNK[0x0112] = 9
JUNK[0x010E] = "x" * 60_000
VALID = {
    **{kind: encoded(PLAIN, kind) for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")},
    "16-bit PNG": encoded(Image.fromarray(np.asarray(PLAIN, np.uint16) * 200)),
    "palette": encoded(PLAIN.convert("P"), transparency=3),
    "EXIF": encoded(PLAIN, "JPEG", exif=JUNK),
    "moving GIF": encoded(
        PLAIN, "GIF", save_all=True, append_images=[picture(1, (40, 32)), picture(2, (40, 32))]
    ),
    "moving WebP": encoded(
        PLAIN.convert("RGB"), "WEBP", save_all=True, append_images=[picture(1, (40, 32))]
    ),
    "progressive": encoded(PLAIN.convert("CMYK"), "JPEG", progressive=True),
    "TIFF with pages": encoded(
        PLAIN, "TIFF", save_all=True, append_images=[PLAIN], compression="tiff_lzw"
    ),
    "JPEG in TIFF": encoded(PLAIN, "TIFF", compression="jpeg"),
    "DICOM": dicom(STORED, PixelPaddingValue=0),
    "DICOM frames": dicom(FRAMES, NumberOfFrames=2, WindowCenter=[40, 50], WindowWidth=[400, 500]),
    "DICOM RLE": dicom(FRAMES, NumberOfFrames=2, compressed=RLELossless),
    "DICOM implicit": dicom(STORED, ImplicitVRLittleEndian),
    "DICOM big-endian": dicom(STORED.astype(">u2"), ExplicitVRBigEndian),
    "DICOM JPEG 2000": dicom(
        STORED.astype(np.uint8),
        "1.2.840.10008.1.2.4.91",
        frame=encoded(PLAIN.resize((32, 32)), "JPEG2000", no_jp2=True),
    ),
    "DICOM JPEG": dicom(
        STORED.astype(np.uint8),
        "1.2.840.10008.1.2.4.50",
        frame=encoded(PLAIN.resize((32, 32)), "JPEG"),
    ),
}


def decode_or_code(data, dicom_options=DEFAULT_DICOM_OPTIONS):
    """Return the image's shape, or the error's code."""
    try:
        image = decode(data, MAX_PIXELS, dicom_options)
    except ImageError as error:
        message = str(error)
        assert error.code in CODES
        assert message.isprintable(), message
        assert len(message) < 300
        return error.code
    height, width, channels = image.pixels.shape
    assert (channels, image.pixels.dtype) == (3, np.uint8)
    assert 0 < height * width <= MAX_PIXELS
    return image.pixels.shape


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("evil.sh", "rm -rf /")
    return buffer.getvalue()


def png(width, height, chunks=b"", depth=8):
    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    rows = zlib.compress(bytes(min(10**7, (width + 1) * height)))
    extra = chunk(chunks, b"a\0\0" + zlib.compress(bytes(5 * 10**7))) if chunks else b""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


def tiff(*entries):
    fields = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + fields + b"\0\0\0\0"


def gif(width, height):
    frame = b"," + struct.pack("<HHHH", 0, 0, width, height) + b"\0\x02\x02\x4c\x01\0"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + frame + b";"


FRAME = VALID["GIF"][VALID["GIF"].index(b",\0\0\0\0") : -1]
ANIMATION = VALID["GIF"][:-1] + FRAME * 5_000 + b";"


SIZE = [(256, 4, 1, 40), (257, 4, 1, 32), (258, 3, 1, 8), (262, 3, 1, 1), (259, 3, 1, 1)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(20_000, 1), (1, 20_000, 3)),
        (png(1, 20_000), (20_000, 1, 3)),
        (png(60_000, 60_000), "too_large"),
        (png(2**31 - 1, 2**31 - 1), "too_large"),
        (png(10_000, 9_000), "too_large"),
        (png(40, 32, b"zTXt"), "corrupt"),
        (png(40, 32, b"iCCP"), "corrupt"),
        (gif(60_000, 60_000), "too_large"),
        (ANIMATION, (32, 40, 3)),
        (b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"\xff\x3f\0" * 2 + bytes(8), "too_large"),
        (tiff(*SIZE, (273, 4, 2**31 - 1, 8), (279, 4, 2**31 - 1, 8)), "not_an_image"),
        (tiff(*SIZE, (273, 4, 1, 2**32 - 1), (279, 4, 1, 2**32 - 1)), "corrupt"),
        (
            tiff(
                (256, 4, 1, 60_000), (257, 4, 1, 60_000), *SIZE[2:], (273, 4, 1, 8), (279, 4, 1, 8)
            ),
            "too_large",
        ),
        (tiff(*SIZE, (277, 3, 1, 65_535)), "not_an_image"),
        (b"\xff\xd8" + b"\xff\xfe\0\2" * 40_000 + VALID["JPEG"][2:], (32, 40, 3)),
        (VALID["PNG"] + zipped(), (32, 40, 3)),
        (zipped() + VALID["PNG"], "not_an_image"),
        (VALID["GIF"][:6] + b"=1;alert(1)//" + VALID["GIF"][19:], None),
        (VALID["GIF"] + b"<script>alert(1)</script>", (32, 40, 3)),
        (b"%PDF-1.7\n" + VALID["JPEG"], "not_an_image"),
        (VALID["EXIF"], (32, 40, 3)),
        (VALID["16-bit PNG"], (32, 40, 3)),
        (dicom(lungs(side=32))[:128] + b"DICM" + VALID["PNG"], "corrupt"),
    ],
)
def test_what_is_made_to_hurt_does_not(data, expected):
    found = decode_or_code(data)
    assert found == expected or expected is None
    if isinstance(found, tuple):
        assert prepare(data, (32, 32, 3), MAX_PIXELS).shape == (32, 32, 3)


def test_the_frames_of_an_animation_are_not_counted():
    assert decode(ANIMATION, MAX_PIXELS).frames == 2


@pytest.mark.parametrize("name", VALID)
def test_a_file_cut_off_anywhere_is_an_error_or_a_picture(name):
    data = VALID[name]
    assert decode_or_code(data) in {(32, 40, 3), (32, 32, 3)}
    for length in np.linspace(0, len(data) - 1, 60).astype(int):
        decode_or_code(data[:length])


NUMBERS = [
    struct.pack("<I", n)
    for n in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xE000FFFE, 0xE00DFFFE, 0xE0DDFFFE)
]


@st.composite
def damaged(draw):
    """Draw a valid file with one to six bit flips, numbers, cuts, repeats and splices."""
    data = bytearray(draw(st.sampled_from(list(VALID.values()))))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(
            st.integers(0, max(0, min(len(data), draw(st.sampled_from([64, 400, 10**6]))) - 1))
        )
        length = draw(st.integers(1, 200))
        match draw(
            st.sampled_from(["flip", "number", "byte", "cut", "end", "repeat", "splice", "insert"])
        ):
            case "flip" if data:
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "number":
                data[place : place + 4] = draw(st.sampled_from(NUMBERS))
            case "byte" if data:
                data[place] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFE, 0xFF]))
            case "cut":
                del data[place : place + length]
            case "end":
                del data[place:]
            case "repeat":
                data[place:place] = data[place : place + length] * draw(st.sampled_from([1, 2, 50]))
            case "splice":
                other = draw(st.sampled_from(list(VALID.values())))
                start = draw(st.integers(0, len(other) - 1))
                data[place : place + length] = other[start : start + length]
            case "insert":
                data[place:place] = draw(st.binary(max_size=12))
    return bytes(data)


STARTS = [
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"BM",
    b"GIF89a",
    b"II*\0",
    b"RIFF",
    bytes(128) + b"DICM",
    b"\x08\0\5\0CS",
]
HOSTILE = st.one_of(
    damaged(), damaged(), damaged(), st.builds(bytes.__add__, st.sampled_from(STARTS), st.binary())
)


@pytest.mark.slow
def test_fuzzed_bytes_are_a_picture_or_an_image_error():
    @settings(
        max_examples=8000,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(HOSTILE, st.sampled_from(["auto", "bone", (40.0, 400.0)]), st.sampled_from([1, 1, 2, 3]))
    def fuzz(data, window, frame):
        codes.add(str(decode_or_code(data, DicomOptions(window, frame))))

    codes = set()
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fuzz()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    assert grown < 300_000_000
    assert codes >= CODES - {"empty"}  # or else the damage doesn't reach what it is meant to
