"""Archives made in memory."""

import io
import tarfile
import zipfile

IMAGES = {
    "scans/normal/a.png": b"a" * 900,
    "scans/normal/patient7/slice1.png": b"b" * 700,
    "scans/adenocarcinoma/c.jpg": b"c" * 800,
}


def zip_of(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_of(
    files: dict[str, bytes], compression: str = "", more: list[tarfile.TarInfo] | None = None
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in more or []:
            archive.addfile(info)
    return buffer.getvalue()
