"""Two thousand bodies that mean no good, against a real server."""

import base64
import http.client
import io
import json
import random
import socket
import struct
import zlib
from urllib.request import urlopen

import pytest
from PIL import Image

from tests.waiting import PATIENCE_S

COUNT = 2000
JSON, PNG, DICOM, FORM = (
    "application/json",
    "image/png",
    "application/dicom",
    "multipart/form-data; boundary=b",
)


def picture(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (24, 20), (90, 90, 90)).save(buffer, kind)
    return buffer.getvalue()


GOOD = [picture(kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")]
OTHERS = [
    b"%PDF-1.7\n",
    b"<svg xmlns='http://www.w3.org/2000/svg' onload='x()'/>",
    b"PK\x03\x04",
    b"\x1f\x8b\x08",
    b"\x7fELF",
]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(rng):
    """A PNG that claims to be large, or unpacks to much."""
    width, height = rng.choice(
        [(60_000, 1), (1, 60_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (0, 0), (4000, 4000)]
    )
    head = chunk(
        b"IHDR",
        struct.pack(
            ">IIBBBBB", width, height, rng.choice([1, 8, 16, 77]), rng.choice([0, 2, 3, 9]), 0, 0, 0
        ),
    )
    text = chunk(b"zTXt", b"k\x00\x00" + zlib.compress(bytes(rng.choice([10, 5_000_000]))))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + text
        + chunk(b"IDAT", zlib.compress(bytes(rng.choice([1, 2_000_000]))))
    )


def broken(rng):
    data = bytearray(rng.choice(GOOD))
    for _ in range(rng.randint(1, 30)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.randint(1, len(data))])


def polyglot(rng):
    return rng.choice(
        [rng.choice(OTHERS) + rng.choice(GOOD), rng.choice(GOOD) + rng.choice(OTHERS) * 50]
    )


def dicom(rng):
    body = rng.randbytes(rng.randint(0, 300))
    item = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, rng.choice([0, 9, 2**32 - 1, 2**31]))
    return (
        bytes(128)
        + b"DICM"
        + rng.choice([body, item + body, b"\x08\x00\x05\x00SQ\x00\x00\xff\xff\xff\xff" * 2000])
    )


def value(rng, depth=0):
    if depth < 3 and rng.random() < 0.4:
        some = [value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
        return (
            some
            if rng.random() < 0.5
            else {rng.choice(["image", "images", "map", "\x00", "__proto__"]): s for s in some}
        )
    return rng.choice(
        [
            None,
            True,
            0,
            -1,
            10**30,
            1e308,
            "",
            "x" * 5000,
            "\ud800",
            "\x00",
            "../../etc/passwd",
            "{{7*7}}",
            "%s%n",
        ]
    )


def as_json(rng):
    kind = rng.randrange(7)
    image = base64.b64encode(rng.choice([broken, bomb, polyglot])(rng)).decode()
    if kind == 0:
        return b"[" * rng.choice([10, 100_000]) + b"1"
    if kind == 1:
        return b'{"image": ' + b"9" * rng.choice([400, 5000]) + b"}"
    if kind == 2:
        cut = json.dumps({"image": image}).encode()
        return cut[: rng.randint(0, len(cut))]
    if kind == 3:
        return json.dumps({"images": [value(rng) for _ in range(rng.choice([0, 1, 40]))]}).encode()
    if kind == 4:
        return json.dumps(
            {"image": image, rng.choice(["window", "frame", "map", "preview"]): value(rng)}
        ).encode()
    if kind == 5:
        return json.dumps(
            {"images": [image, rng.choice(["?", "=", "data:,", image[:-1]])]}
        ).encode()
    return json.dumps(value(rng)).encode()


def as_form(rng):
    field = rng.choice([b"file", b"image", b"map", b"frame", b"x" * 3000, b'a"b', b""])
    name = rng.choice(
        [b"a.png", b"../../../tmp/evil", b"\x00", b"a" * 5000, "ü".encode(), b"..\\c.png", b'"']
    )
    part = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n' % (
        field,
        name,
    )
    data = rng.choice([broken, bomb, polyglot, dicom])(rng)
    body = (part + data + b"\r\n") * rng.choice([1, 2, 33]) + b"--b--\r\n"
    return rng.choice(
        [body, body[: rng.randint(0, len(body))], body.replace(b"\r\n", b"\n"), rng.randbytes(200)]
    )


def hostile(rng):
    """A content type and a body."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice([JSON, JSON, "application/x+json", JSON + "; charset=utf-7"]), as_json(
            rng
        )
    if kind < 5:
        return rng.choice(
            [FORM, FORM, FORM, "multipart/form-data", "multipart/form-data; boundary=" + "b" * 300]
        ), as_form(rng)
    make = rng.choice(
        [broken, bomb, polyglot, dicom, lambda rng: rng.randbytes(rng.randint(0, 500))]
    )
    return rng.choice([PNG, DICOM, "image/*", "image/svg+xml", "text/html", "", "a" * 2000]), make(
        rng
    )


@pytest.mark.slow
def test_hostile_bodies_are_refused_and_leave_nothing_behind(start_app, tiny_bundle, tmp_path):
    rng = random.Random(4)
    statuses = {}
    with start_app(tiny_bundle, TMPDIR=str(tmp_path)) as (url, process):
        host, port = url.removeprefix("http://").split(":")
        before = {path for path in process.workdir.rglob("*") if path.is_file()}
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
        for number in range(COUNT):
            kind, body = hostile(rng)
            query = rng.choice(
                ["", "", "?window=" + "9" * 300, "?frame=-1", "?map=%00", "?frame=2&frame=3"]
            )
            if number % 20 == 0:  # promises more than it sends, and leaves
                with socket.create_connection((host, int(port))) as leaver:
                    leaver.sendall(
                        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n"
                        + body[:100]
                    )
                continue
            connection.request("POST", f"/predict{query}", body, {"Content-Type": kind})
            with connection.getresponse() as answer:
                content = json.load(answer)
            assert answer.status in (200, 400, 413, 415, 422), (number, kind, content)
            assert answer.status == 200 or content["error"]["code"]
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
        connection.close()
        urlopen(f"{url}/readyz").close()
        log = (process.workdir / "logs/running.log").read_text()
        left = {path for path in process.workdir.rglob("*") if path.is_file()} - before
    assert len(statuses) == 5, statuses
    assert "Traceback" not in log
    assert " ERROR " not in log
    assert left == set()
    assert list(tmp_path.iterdir()) == []
