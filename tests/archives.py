"""Archives in memory, folders of files, and the options of a data ingestion."""

import io
import tarfile
import zipfile
from pathlib import Path

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
    files: dict[str, bytes], compression: str = "", more: tuple[tarfile.TarInfo, ...] = ()
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in more:
            archive.addfile(info)
    return buffer.getvalue()


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def read_files(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def ingestion_options(folder: Path, source: object, **changes) -> dict:
    """Return the options of a `DataIngestionConfig` with all paths below a folder."""
    return {
        "source_URL": str(source),
        "source_sha256": None,
        "class_patterns": None,
        "class_count": 2,
        "download_dir": folder / "downloads",
        "data_dir": folder / "artifacts/data",
        "max_unpacked_bytes": 10**8,
        "connect_timeout_s": 600,
        "read_timeout_s": 600,
        "retries": 1,
        **changes,
    }
