"""Two thousand hostile bodies against a real server."""

import base64
import http.client
import io
import json
import random
import socket
import struct
import zlib
from collections import Counter
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from tests.archives import zip_of
from tests.dicoms import dicom, lungs
from tests.waiting import PATIENCE_S

COUNT = 2000
FORM = "multipart/form-data; boundary=b"
TYPES = [
    *("application/json", "application/json; charset=utf-7", "application/x+json", FORM),
    *("multipart/form-data", "multipart/form-data; boundary=" + "b" * 300, "image/png"),
    *("application/dicom", "image/*", "image/svg+xml", "text/html", "", "a" * 2000),
    "application/zip",
]
QUERIES = ["", "", "?series=1", "?window=" + "9" * 300, "?frame=-1", "?map=%00", "?frame=2&frame=3"]


def encode(image_format):
    buffer = io.BytesIO()
    Image.new("RGB", (24, 20), (90, 90, 90)).save(buffer, image_format)
    return buffer.getvalue()


def png(width, height, depth, color, pixels=b"x", text=b""):
    chunks = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    compressed_text = b"k\x00\x00" + zlib.compress(text)
    for kind, data in (
        (b"IHDR", header),
        (b"zTXt", compressed_text),
        (b"IDAT", zlib.compress(pixels)),
    ):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        chunks += struct.pack(">I", len(data)) + kind + data + checksum
    return chunks


def form(data, name=b"file", filename=b"a.png"):
    head = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n'
    return head % (name, filename) + data + b"\r\n--b--\r\n"


IMAGES = [encode(name) for name in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")]
SEQUENCES = b"\x08\x00\x05\x00SQ\x00\x00\xff\xff\xff\xff" * 2000
FILES = [
    *IMAGES,
    dicom(lungs(side=32)),
    dicom(np.stack([lungs(side=32)] * 2), NumberOfFrames=2),
    bytes(128) + b"DICM" + SEQUENCES,
    b"%PDF-1.7\n" + IMAGES[0],
    IMAGES[1] + b"PK\x03\x04" * 50,
    b"<svg xmlns='http://www.w3.org/2000/svg' onload='x()'/>",
    # Decompression bombs.
    *(png(60_000, 60_000, 8, 2), png(1, 60_000, 1, 0), png(2**31 - 1, 2**31 - 1, 8, 2)),
    *(png(0, 0, 8, 2), png(24, 20, 77, 9), png(4000, 4000, 8, 0, bytes(2_000_000))),
    png(24, 20, 8, 0, bytes(500), text=bytes(5_000_000)),
    zip_of({"a/1.png": IMAGES[0], "a/2.gif": IMAGES[2], "b/3": b"x"}),
    zip_of({"1.png": bytes(5_000_000)}),
]
TEXTS = [base64.b64encode(data).decode() for data in FILES]
VALUES = [
    *(None, True, 0, -1, 10**30, 1e308, [], {}, ["?", "data:,"], [[["x"]]], {"__proto__": 1}),
    *("", "x" * 5000, "\ud800", "\x00", "../../etc/passwd", "{{7*7}}", "%s%n"),
]
KEYS = ["image", "images", "window", "frame", "map", "preview", "\x00"]
NAMES = [b"file", b"image", b"map", b"frame", b"x" * 3000, b'a"b', b""]
FILENAMES = [b"a.png", b"../../../tmp/evil", b"\x00", b"a" * 5000, "ü".encode(), b'"']


def make_json(rng):
    content = {"image": rng.choice(TEXTS), rng.choice(KEYS): rng.choice(VALUES + TEXTS)}
    if rng.random() < 0.3:
        content["images"] = rng.sample(TEXTS, rng.choice([1, 2])) + rng.choices(
            VALUES, k=rng.choice([0, 40])
        )
    return rng.choice(
        [json.dumps(content).encode()] * 4
        + [
            b"[" * 100_000,
            b'{"image": ' + b"9" * 5000 + b"}",
            json.dumps(rng.choice(VALUES)).encode(),
        ]
    )


def make_form(rng):
    parts = form(rng.choice(FILES), rng.choice(NAMES), rng.choice(FILENAMES))
    return rng.choice([parts, parts * rng.choice([2, 33]), parts.replace(b"\r\n", b"\n")])


def mutate(rng, body):
    """Damage some bytes or the end, or leave the body as it is."""
    if rng.random() < 0.5 or not body:
        return body
    damaged = bytearray(body)
    for _ in range(rng.randint(1, 30)):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged[: rng.randint(1, len(damaged))])


def make_request(rng):
    """Return a content type and a body; one in ten don't belong together."""
    content_type, body = rng.choice(
        [
            ("application/json", make_json(rng)),
            (FORM, make_form(rng)),
            ("image/png", rng.choice(FILES)),
            ("image/png", rng.randbytes(rng.randint(0, 500))),
        ]
    )
    if rng.random() < 0.1:
        content_type = rng.choice(TYPES)
    return content_type, mutate(rng, body)


@pytest.mark.slow
def test_hostile_bodies_are_refused_and_leave_nothing_behind(start_app, tiny_bundle, tmp_path):
    rng = random.Random(4)
    statuses = Counter()
    with start_app(tiny_bundle, TMPDIR=str(tmp_path)) as (url, process):
        host, port = url.removeprefix("http://").split(":")
        before = {path for path in process.workdir.rglob("*") if path.is_file()}
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
        for number in range(COUNT):
            content_type, body = make_request(rng)
            if number % 20 == 0:  # announces more than it sends, and disconnects
                head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n"
                with socket.create_connection((host, int(port))) as disconnecting:
                    disconnecting.sendall(head + body[:100])
                continue
            path = f"/predict{rng.choice(QUERIES)}"
            connection.request("POST", path, body, {"Content-Type": content_type})
            with connection.getresponse() as response:
                content = json.load(response)
            found = (number, content_type, content)
            assert response.status in (200, 400, 413, 415, 422), found
            assert response.status == 200 or content["error"]["code"]
            statuses[response.status] += 1
        connection.close()
        urlopen(f"{url}/readyz").close()
        log = (process.workdir / "logs/running.log").read_text()
        after = {path for path in process.workdir.rglob("*") if path.is_file()}
    assert len(statuses) == 5, statuses
    assert "Traceback" not in log
    assert " ERROR " not in log
    assert after == before
    assert list(tmp_path.iterdir()) == []
