"""Decode uploads that are made to take much time or memory, each in a process of its own.

Each has at most 16 MB, and as many pixels as its format may have. The seconds are of the processor,
the memory is the peak's distance from the memory before; both of reading the request, decoding,
scaling to the model's size, and making the preview. Linux only.

    python -m benchmarks.hostile_uploads [PATTERN, such as "JPEG*"]
"""

import base64
import io
import json
import math
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageOps
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from benchmarks.measure import table
from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.imaging.decode import decode, resize, shrink
from cnnClassifier.imaging.limits import PIXEL_COSTS
from cnnClassifier.serving.errors import RequestError
from cnnClassifier.serving.predict import OPTION_NAMES, read_upload
from cnnClassifier.utils.errors import ImageError
from cnnClassifier.utils.images import image_data_uri

ROOT = Path(__file__).resolve().parents[1]
MAX_BYTES, MAX_SECONDS, MAX_MEGABYTES = 16_000_000, 2, 400
MAX_PIXELS = yaml.safe_load((ROOT / "config/config.yaml").read_text())["serving"]["max_pixels"]
RNG = np.random.default_rng(0)
JSON, FORM = "application/json", "multipart/form-data; boundary=b"
Makers = dict[str, Callable[[], bytes]]


def side_of(kind: str = "") -> int:
    """Return the side of the largest square image of a kind, a key of PIXEL_COSTS."""
    return math.isqrt(MAX_PIXELS // PIXEL_COSTS.get(kind, 1))


def plain(mode: str, kind: str = "") -> Image.Image:
    """Return the largest image, of one color."""
    return Image.new(mode, (side_of(kind), side_of(kind)))


def noise(mode: str, side: int) -> Image.Image:
    """Return an image that can't be compressed."""
    pixel_bytes = len(Image.new(mode, (1, 1)).tobytes())
    return Image.frombytes(mode, (side, side), RNG.bytes(side * side * pixel_bytes))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def fill(data: bytes, used: int = 1000) -> bytes:
    """Repeat `data` until MAX_BYTES are almost reached."""
    return data * ((MAX_BYTES - used) // len(data))


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    """Return a PNG chunk."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(
    width: int,
    height: int,
    depth: int = 8,
    color: int = 0,
    *,
    interlaced: bool = False,
    row_filter: int = 0,
    chunks: bytes = b"",
) -> bytes:
    """Return a black PNG."""
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    steps = [(0, 0, 1, 1)]
    if interlaced:
        steps = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4)]
        steps += [(1, 0, 2, 2), (0, 1, 1, 2)]
    compressor = zlib.compressobj(9)
    compressed = b""
    for x, y, dx, dy in steps:
        row = bytes([row_filter]) + bytes(-(-len(range(x, width, dx)) * bits // 8))
        for _ in range(y, height, dy):
            compressed += compressor.compress(row)
    compressed += compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    data = chunk(b"IDAT", compressed) + chunk(b"IEND")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + data


def pngs() -> Makers:
    """Return makers of PNGs: sizes, modes, filters, chunks."""
    side = side_of()
    black = partial(png, side, side)
    palette = chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", bytes(256))
    turned = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    return {
        "1×50,000,000": lambda: png(1, 50_000_000),
        "50,000,000×1": lambda: png(50_000_000, 1),
        "tall": lambda: png(MAX_PIXELS // 20_000, 20_000, 8, 6),
        "wide": lambda: png(20_000, MAX_PIXELS // 20_000, 8, 6),
        "1 bit": lambda: black(1),
        "16 bits": lambda: black(16),
        "RGB": lambda: black(8, 2),
        "RGB, interlaced": lambda: black(8, 2, interlaced=True),
        "RGB, transparent": lambda: black(8, 2, chunks=chunk(b"tRNS", bytes(6))),
        "palette, transparent": lambda: black(8, 3, chunks=palette),
        "gray, transparent": lambda: black(8, 4),
        "RGBA, rotated": lambda: black(8, 6, chunks=chunk(b"eXIf", turned)),
        "RGBA, 16 bits": lambda: black(16, 6, row_filter=4),
        "RGBA, 16 bits, interlaced": lambda: black(16, 6, interlaced=True),
        "noise": lambda: encode(noise("RGB", 2300), "PNG", compress_level=1),
        "chunks": lambda: png(8, 8, chunks=fill(chunk(b"teSt"))),
        "text": lambda: png(8, 8, chunks=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**9)))),
    }


def segment(marker: int, content: bytes) -> bytes:
    """Return a segment of a JPEG."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg(side: int, frame: int, scans: bytes, components: int = 1) -> bytes:
    """Return a JPEG.

    Its Huffman codes have one bit: "no difference" for DC, "32,767 blocks end here" for AC.
    """
    codes = b"\1" + bytes(15)
    parts = b"".join(bytes([number, 0x11, 0]) for number in range(1, components + 1))
    start = segment(0xDB, b"\0" + b"\1" * 64)
    start += segment(frame, struct.pack(">BHHB", 8, side, side, components) + parts)
    start += segment(0xC4, b"\x00" + codes + b"\x00" + b"\x10" + codes + b"\xe0")
    return b"\xff\xd8" + start + scans + b"\xff\xd9"


def dc_scan(side: int, components: int = 1, progression: int = 0) -> bytes:
    """Return a scan of the means of all blocks, which are 0."""
    parts = b"".join(bytes([number, 0]) for number in range(1, components + 1))
    head = segment(0xDA, bytes([components]) + parts + bytes([0, 0, progression]))
    return head + bytes(-(-((-(-side // 8)) ** 2) * components // 8))


def ac_scan(side: int, progression: int = 0) -> bytes:
    """Return a scan of all blocks, which have no coefficients, in a few bytes."""
    bits = "0" + "1" * 14
    bits *= -(-((-(-side // 8)) ** 2) // 32_767)
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    return segment(0xDA, b"\1\1\0\1\x3f" + bytes([progression])) + data


def progressive(refinements: int) -> bytes:
    """Return a progressive JPEG with two scans, and some that refine the second."""
    side = side_of()
    scans = dc_scan(side) + ac_scan(side, 1) + ac_scan(side, 0x10) * refinements
    return jpeg(side, 0xC2, scans)


def jpegs() -> Makers:
    """Return makers of JPEGs: modes, scans, segments."""
    side = side_of()
    exif = Image.Exif()
    exif[0x0112] = 6
    small = encode(Image.new("L", (8, 8)), "JPEG")[2:]
    refinements = dc_scan(side, 3, 1) + dc_scan(side, 3, 0x10) * 48
    random = RNG.bytes(MAX_BYTES - 1000).replace(b"\xff", b"\xfe")
    return {
        "RGB": lambda: encode(plain("RGB"), "JPEG", subsampling=0),
        "RGB, rotated": lambda: encode(plain("RGB"), "JPEG", exif=exif),
        "CMYK": lambda: encode(plain("CMYK"), "JPEG"),
        "noise": lambda: encode(noise("RGB", 2500), "JPEG", quality=95, subsampling=0),
        "CMYK, progressive": lambda: encode(plain("CMYK"), "JPEG", progressive=True),
        "noise, progressive": lambda: encode(
            noise("RGB", 2500), "JPEG", quality=95, progressive=True
        ),
        "without AC": lambda: jpeg(side, 0xC2, dc_scan(side, 3), 3),
        "48 DC refinements": lambda: jpeg(side, 0xC2, refinements, 3)[:MAX_BYTES],
        "48 AC refinements": lambda: progressive(48),
        "100,000 scans": lambda: progressive(100_000),
        "arithmetic coding": lambda: jpeg(side, 0xC9, segment(0xDA, b"\1\1\0\0\x3f\0") + random),
        "comments": lambda: b"\xff\xd8" + fill(b"\xff\xfe\0\2") + small,
        "padding": lambda: b"\xff\xd8" + fill(b"\xff") + small,
    }


def gif(blocks: bytes, before: bytes = b"", side: int = 8) -> bytes:
    """Return a GIF with the blocks of an image, and extensions before it."""
    size = struct.pack("<HH", side, side)
    screen = b"GIF89a" + size + b"\x80\0\0" + bytes(range(6))
    return screen + before + b"," + bytes(4) + size + b"\0\x08" + blocks + b"\0;"


def gifs() -> Makers:
    """Return makers of GIFs: blocks, extensions, frames."""
    small = encode(Image.new("L", (8, 8)), "GIF")
    frame = small[small.index(b",\0\0\0\0") : -1]
    return {
        "transparent": lambda: encode(plain("P"), "GIF", transparency=0),
        "noise": lambda: encode(noise("L", 3200), "GIF"),
        "13,000×13,000, disposed": lambda: gif(b"\1\0", b"!\xf9\4\x08\0\0\0\0", 13_000),
        "blocks": lambda: gif(fill(b"\1\0")),
        "comments": lambda: gif(b"", b"!\xfe" + fill(b"\1a") + b"\0"),
        "extensions": lambda: gif(b"", fill(b"!\xfe\0")),
        "frames": lambda: small[:-1] + fill(frame) + b";",
    }


def tiff(entries: list[tuple[int, int, int, int]], data: bytes) -> bytes:
    """Return a TIFF.

    Args:
        entries: tag, type, count and value; offsets, and values longer than 4 bytes, count from the
            start of `data`.
        data: what they refer to.
    """
    start = 8 + 2 + 12 * len(entries) + 4
    packed = b""
    for tag, kind, count, value in sorted(entries):
        is_offset = count * {3: 2, 4: 4, 7: 1}[kind] > 4 or tag in (273, 324)
        packed += struct.pack("<HHII", tag, kind, count, value + (start if is_offset else 0))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4) + data


def tiffs() -> Makers:
    """Return makers of TIFFs: compressions, modes, strips, tiles, tags, pages."""
    raw = [(256, 4, 1, 100), (257, 4, 1, 100), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    strips = [(278, 4, 1, 1), (273, 4, 3_900_000, 0), (279, 4, 3_900_000, 0)]
    zeros = zlib.compress(bytes(8 * side_of() ** 2))
    sides = [(256, 4, 1, side_of()), (257, 4, 1, side_of()), (278, 4, 1, side_of())]
    one_strip = [*sides, (258, 3, 4, 0), (259, 3, 1, 8), (262, 3, 1, 2), (277, 3, 1, 4)]
    one_strip += [(338, 3, 1, 2), (273, 4, 1, 8), (279, 4, 1, len(zeros))]
    tile = [(322, 4, 1, 20_000), (323, 4, 1, 20_000), (324, 4, 1, 0), (325, 4, 1, len(zeros))]
    tags = [(tag, 7, 690, 0) for tag in range(35_000, 48_000)]
    makers: Makers = {
        "RGBA, 16 bits, one strip": lambda: tiff(one_strip, b"\x10\0" * 4 + zeros),
        "100×100, tile of 20,000×20,000": lambda: tiff(
            [*raw[:3], (259, 3, 1, 8), *raw[4:], *tile], zeros
        ),
        "strips": lambda: tiff([*raw, *strips], bytes(15_600_000)),
        "tags": lambda: tiff([*raw, (273, 4, 1, 0), (279, 4, 1, 10_000), *tags], bytes(9_000_000)),
        "pages": lambda: pages(tiff([*raw, (273, 4, 1, 0), (279, 4, 1, 10_000)], b"")),
        "group 4": lambda: encode(plain("1"), "TIFF", compression="group4"),
        "YCbCr, JPEG": lambda: encode(plain("YCbCr", "TIFF jpeg"), "TIFF", compression="jpeg"),
    }
    for compression in ("tiff_lzw", "packbits", "zstd", "lzma"):
        makers[f"RGB, {compression}"] = partial(plain_tiff, "RGB", compression)
    for mode in ("RGBA", "CMYK", "F", "I;16", "LAB"):
        makers[f"{mode}, deflate"] = partial(plain_tiff, mode, "tiff_adobe_deflate")
    return makers


def plain_tiff(mode: str, compression: str) -> bytes:
    """Return the largest TIFF of one color."""
    return encode(plain(mode), "TIFF", compression=compression)


def pages(page: bytes) -> bytes:
    """Return a TIFF with a page again and again."""
    directory = page[8:-4]
    count = MAX_BYTES // (len(directory) + 4)
    ends = [struct.pack("<I", 8 + number * (len(directory) + 4)) for number in range(1, count)]
    return page[:8] + b"".join(directory + end for end in ends) + directory + bytes(4)


def bmp(bits: int, compression: int, data: bytes) -> bytes:
    """Return a BMP, run-length encoded with `compression` 1 (8 bits) or 2 (4 bits)."""
    side = side_of(f"BMP {compression}")
    palette = bytes(4 * 2**bits)
    header = struct.pack("<IiiHHII", 40, side, side, 1, bits, compression, len(data))
    start = 14 + 40 + len(palette)
    return (
        b"BM"
        + struct.pack("<III", start + len(data), 0, start)
        + header
        + bytes(16)
        + palette
        + data
    )


def bmps() -> Makers:
    """Return makers of BMPs."""
    rows = (b"\xff\0" * -(-side_of("BMP 1") // 255) + b"\0\0") * side_of("BMP 1")
    return {
        "1 bit": lambda: encode(plain("1"), "BMP"),
        "24 bits": lambda: encode(noise("RGB", 2300), "BMP"),
        "8 bits": lambda: encode(noise("L", 3990), "BMP"),
        "RLE, long runs": lambda: bmp(8, 1, rows),
        "RLE, short runs": lambda: bmp(8, 1, fill(b"\1\0", 2000)),
        "RLE, deltas": lambda: bmp(8, 1, fill(b"\0\2\0\0", 2000)),
        "RLE of 4 bits": lambda: bmp(4, 2, rows),
    }


def webps() -> Makers:
    """Return makers of WebPs."""
    save = partial(encode, kind="WEBP", method=0)
    black = partial(plain, "RGBA", "WEBP")
    small = [Image.new("RGBA", (8, 8), color) for color in ("red", "blue")]
    animated = save(small[0], save_all=True, append_images=small[1:])
    size = struct.pack("<I", 12_999)[:3]
    return {
        "RGBA, lossless": lambda: save(black(), lossless=True),
        "RGBA, lossy": lambda: save(black()),
        "noise, lossless": lambda: save(noise("RGB", 2250), lossless=True),
        "noise, lossy": lambda: save(noise("RGB", 3400), quality=98),
        "animated": lambda: save(
            black(), save_all=True, append_images=[ImageOps.invert(plain("RGB", "WEBP"))]
        ),
        "8×8 on 13,000×13,000": lambda: animated[:24] + size * 2 + animated[30:],
    }


def dicom(
    side: int,
    pixels: bytes,
    syntax: str = ExplicitVRLittleEndian,
    *,
    bits: int = 8,
    photometric: str = "MONOCHROME2",
) -> bytes:
    """Return a DICOM file."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = syntax
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = CTImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = "1.2.3.4"
    file.Rows = file.Columns = side
    file.SamplesPerPixel = 1 if photometric == "MONOCHROME2" else 3
    file.PhotometricInterpretation = photometric
    file.BitsAllocated = file.BitsStored = bits
    file.HighBit, file.PixelRepresentation, file.PlanarConfiguration = bits - 1, 0, 0
    compressed = syntax != ExplicitVRLittleEndian
    file.PixelData = encapsulate([pixels]) if compressed else pixels
    file["PixelData"].VR = "OW" if bits == 16 else "OB"
    file["PixelData"].is_undefined_length = compressed
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def rle(side: int, run: bytes, length: int, photometric: str = "MONOCHROME2") -> bytes:
    """Return a DICOM file of 16 bits, packed in runs that unpack to `length` bytes."""
    packed = run * -(-side * side // length)
    count = 2 if photometric == "MONOCHROME2" else 6
    starts = [64 + len(packed) * number for number in range(count)]
    head = struct.pack("<16I", count, *starts, *[0] * (15 - count))
    return dicom(side, head + packed * count, RLELossless, bits=16, photometric=photometric)


def jpeg2000(image: Image.Image, **options: Any) -> bytes:
    """Return a DICOM file."""
    frame = encode(image, "JPEG2000", no_jp2=True, **options)
    photometric = "YBR_RCT" if image.mode == "RGB" else "MONOCHROME2"
    bits = 16 if image.mode == "I;16" else 8
    return dicom(image.width, frame, JPEG2000, bits=bits, photometric=photometric)


def dicoms() -> Makers:
    """Return makers of DICOM files: transfer syntaxes, colors, header."""
    side, gray, color = side_of(), "JPEG2000", "JPEG2000 color"
    header = dicom(8, bytes(64))
    rows = header.index(b"\x28\0\x10\0US")
    item = b"\xfe\xff\0\xe0\0\0\0\0"
    items = b"\x08\0\x05\0SQ\0\0\xff\xff\xff\xff" + fill(item) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    fragments = dicom(8, b"last", RLELossless)
    blocks = {"codeblock_size": (4, 4)}
    ybr = {"photometric": "YBR_FULL"}
    return {
        "16 bits": lambda: dicom(2800, RNG.bytes(2800**2 * 2), bits=16),
        "8 bits": lambda: dicom(3980, RNG.bytes(3980**2)),
        "color": lambda: dicom(2300, bytes(2300**2 * 3), **ybr),
        "RLE, long runs": lambda: rle(side, b"\x81\0", 128),
        "RLE, color": lambda: rle(side_of("DICOM color"), b"\x81\0", 128, "RGB"),
        "RLE, short runs": lambda: rle(1990, b"\0\0", 1),
        "JPEG": lambda: dicom(side, encode(plain("L"), "JPEG"), JPEGBaseline8Bit),
        "JPEG, color": lambda: dicom(
            side_of("DICOM color"),
            encode(plain("RGB", "DICOM color"), "JPEG"),
            JPEGBaseline8Bit,
            **ybr,
        ),
        "JPEG, 48 AC refinements": lambda: dicom(side, progressive(48), JPEGBaseline8Bit),
        "JPEG, 100,000 scans": lambda: dicom(side, progressive(100_000), JPEGBaseline8Bit),
        "JPEG 2000": lambda: jpeg2000(plain("I;16", gray)),
        "JPEG 2000, blocks": lambda: jpeg2000(plain("L", gray), **blocks),
        "JPEG 2000, tiles": lambda: jpeg2000(plain("L", gray), tile_size=(64, 64)),
        "JPEG 2000, noise": lambda: jpeg2000(noise("I;16", side_of(gray))),
        "JPEG 2000, color": lambda: jpeg2000(plain("RGB", color)),
        "JPEG 2000, color, blocks": lambda: jpeg2000(plain("RGB", color), **blocks),
        "JPEG 2000, color, noise": lambda: jpeg2000(noise("RGB", side_of(color))),
        "items": lambda: header[:rows] + items + header[rows:],
        "fragments": lambda: fragments.replace(b"last", b"last" + item * 150_000),
    }


def form(*files: bytes) -> bytes:
    """Return a form with files."""
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    return b"".join(head + file + b"\r\n" for file in files) + b"--b--\r\n"


def jsons() -> Makers:
    """Return makers of JSON."""
    image = base64.b64encode(png(8, 8)).decode()
    large = base64.b64encode(encode(noise("RGB", 2300), "BMP")).decode()
    return {
        "lists": lambda: f'{{"image": "{image}", "x": [{fill(b"[],").decode()}0]}}'.encode(),
        "large image": lambda: json.dumps({"image": large}).encode(),
        "wide text": lambda: b'{"image": "\xf0\x9f\x98\x80' + fill(b"A") + b'"}',
        "spaces": lambda: b'{"image": "' + fill(b" A") + b'"}',
    }


def forms() -> Makers:
    """Return makers of forms."""
    return {
        "32 images": lambda: form(*[png(side_of(), side_of(), 16, 6)] * 32),
        "line breaks": lambda: form(fill(b"\r\n")),
        "boundaries": lambda: form(fill(b"\r\n--")),
        "files": lambda: form(*[b"x"] * 200_000),
        "header": lambda: b"--b\r\n" + fill(b"a") + b"\r\n\r\nx\r\n--b--\r\n",
    }


def uploads(pattern: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield name, content type and body of each upload whose name matches."""
    kinds = [("PNG", "image/x", pngs()), ("JPEG", "image/x", jpegs()), ("GIF", "image/x", gifs())]
    kinds += [("TIFF", "image/x", tiffs()), ("BMP", "image/x", bmps())]
    kinds += [("WebP", "image/x", webps()), ("DICOM", "image/x", dicoms())]
    kinds += [("JSON", JSON, jsons()), ("form", FORM, forms())]
    for kind, content_type, makers in kinds:
        for name, make in makers.items():
            if fnmatch(f"{kind}: {name}", pattern):
                yield f"{kind}: {name}", content_type, make()


def measure(path: Path, content_type: str) -> dict[str, Any]:
    """Handle an upload; return the seconds of its slowest image, megabytes, and what came of it."""
    limits = {"max_upload_bytes": MAX_BYTES, "max_pixels": MAX_PIXELS}
    config = ServingConfig(bundle_dir=Path(), host="localhost", port=0, **limits)
    body = path.read_bytes()
    request = Request(EnvironBuilder(data=body, content_type=content_type).get_environ())
    request.max_form_parts = config.max_images + len(OPTION_NAMES)
    handle(png(8, 8))
    handle(dicom(8, bytes(64)))
    before, start = memory("VmRSS"), time.process_time()
    outcomes, times = [], []
    try:
        images = list(read_upload(request, config).images)
    except Exception as error:  # of werkzeug, too
        images = []
        outcomes.append(str(error))
    times.append(time.process_time() - start)
    for image in images:
        start = time.process_time()
        try:
            outcomes.append(handle(image))
        except (ImageError, RequestError) as error:
            outcomes.append(f"{error.code}: {error}")
        times.append(time.process_time() - start)
    megabytes = (memory("VmHWM") - before) / 1000
    return {"seconds": max(times), "megabytes": megabytes, "outcome": outcomes[0]}


def handle(image: bytes | RequestError) -> str:
    """Do all that the server does with an image but inference."""
    if isinstance(image, RequestError):
        raise image
    decoded = decode(image, MAX_PIXELS)
    resize(decoded.pixels, (224, 224, 3))
    image_data_uri(shrink(decoded.pixels, 512), "PNG", compress_level=1)
    return f"{decoded.size} {decoded.mode}"


def memory(name: str) -> int:
    """Return the resident memory (VmRSS), or its peak (VmHWM), in kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise LookupError(name)


def main() -> None:
    """Measure each upload in a process; exit with 1 if one takes too much."""
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), sys.argv[3])))
        return
    rows, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "upload")
        for name, content_type, body in uploads(sys.argv[1] if len(sys.argv) > 1 else "*"):
            path.write_bytes(body)
            command = [sys.executable, "-m", __spec__.name, "--measure", str(path), content_type]
            found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            if found["seconds"] > MAX_SECONDS or found["megabytes"] > MAX_MEGABYTES:
                failed.append(name)
            cost = [f"{found['seconds']:.2f}", f"{found['megabytes']:.0f}"]
            rows.append([name, f"{len(body):,}", *cost, found["outcome"][:60]])
            print(".", end="", flush=True)
    print("\n" + table(["upload", "bytes", "s", "MB", "outcome"], rows))
    if failed:
        sys.exit(f"more than {MAX_SECONDS} s or {MAX_MEGABYTES} MB: {', '.join(failed)}")


if __name__ == "__main__":
    main()
