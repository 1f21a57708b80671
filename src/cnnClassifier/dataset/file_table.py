"""Read every file once, into one table with one row per file."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from cnnClassifier.dataset.near_duplicates import Keypoints, extract_keypoints
from cnnClassifier.entity.dicom_options import DEFAULT_DICOM_OPTIONS, DicomOptions
from cnnClassifier.imaging.decode import DecodedImage, decode
from cnnClassifier.imaging.dicom_header import read_patient_pseudonym
from cnnClassifier.imaging.gray import mean_intensity, to_gray
from cnnClassifier.utils.errors import ImageError
from cnnClassifier.utils.parallel import LOCAL, Workers
from cnnClassifier.utils.progress import progress
from cnnClassifier.utils.source_files import read_bytes, reading_threads

# Properties of files that are used although they are unusual, and how each is handled.
UNUSUAL_PROPERTIES = {
    "animated": "the first frame is used",
    "16-bit": "gray levels are scaled from the image's own minimum and maximum",
    "CMYK": "converted to RGB",
    "palette": "colors are looked up in the palette",
    "alpha": "transparent parts become black",
    "rotated": "turned upright, as the EXIF orientation says",
    "misnamed": "read by content; the suffix names another format",
    "blank": "used, but all pixels have one gray level: check the file",
}
THUMBNAIL_SIZE = 32
_BORDER = 0.05  # fraction of each side
_FORMAT_OF_SUFFIX = {"jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF", "tiff": "TIFF", "dcm": "DICOM"}

Row = tuple[dict[str, Any], np.ndarray, Keypoints | None]  # of a file, see `FileTable`


class FileTable(NamedTuple):
    """All files of a data set.

    Attributes:
        table: one row per file, of the columns `path`, `label`, `sha256`, `bytes`, `width`,
            `height`, `format`, `mode`, `error` (why the file can't be used, `<code>: <text>`, or
            empty), `properties` (keys of `UNUSUAL_PROPERTIES`, separated by spaces), `patient` (of
            DICOM a pseudonym, else empty), `mean_intensity` (0 where there is an error), `gray_std`
            and `border_<side>_<statistic>` (NaN where there is an error).
        thumbnails: uint8, (files, 32, 32), gray; black where there is an error.
        keypoints: objects, (files,), `Keypoints`; None where there is an error.
    """

    table: pd.DataFrame
    thumbnails: np.ndarray
    keypoints: np.ndarray


def read_file_table(
    data_dir: Path,
    files: Sequence[tuple[str, str]],
    *,
    max_pixels: int,
    min_side: int = 1,
    dicom_options: DicomOptions = DEFAULT_DICOM_OPTIONS,
    workers: Workers = LOCAL,
) -> FileTable:
    """Read and decode each file once, on all cores or machines.

    Args:
        data_dir: the folder that the paths are relative to.
        files: path and class of each file.
        max_pixels: larger images get an error.
        min_side: images with a shorter side get an error; pixels.
        dicom_options: window and frame of DICOM files.
        workers: where the files are read; Pillow and OpenCV release the GIL.
    """
    read = partial(_read_files, data_dir.absolute(), max_pixels, min_side, dicom_options)
    results = workers.map(read, files, threads=reading_threads(data_dir))
    bar = progress(results, total=len(files), desc="reading files", unit="file")
    records, thumbnails, keypoints = zip(*bar, strict=True)
    table = pd.DataFrame(records)
    return FileTable(table, np.stack(thumbnails), pd.Series(keypoints, dtype=object).to_numpy())


def _read_files(
    data_dir: Path,
    max_pixels: int,
    min_side: int,
    dicom_options: DicomOptions,
    files: Sequence[tuple[str, str]],
) -> list[Row]:
    rows = []
    for path, label in files:
        rows.append(_read_file(data_dir, path, label, max_pixels, min_side, dicom_options))
    return rows


def _read_file(
    data_dir: Path,
    path: str,
    label: str,
    max_pixels: int,
    min_side: int,
    dicom_options: DicomOptions,
) -> Row:
    """Return a file's row of the table, its thumbnail and its keypoints."""
    texts = dict.fromkeys(("sha256", "format", "mode", "error", "properties", "patient"), "")
    numbers = {"bytes": 0, "width": 0, "height": 0, "mean_intensity": 0.0}
    record = {"path": path, "label": label, **texts, **numbers}
    black = np.zeros((THUMBNAIL_SIZE, THUMBNAIL_SIZE), np.uint8)
    try:
        data = read_bytes(data_dir, path)
        record |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        image = decode(data, max_pixels, dicom_options)
        height, width = image.pixels.shape[:2]
        if min(height, width) < min_side:
            raise ImageError(
                "too_small", f"{width}×{height} pixels; each side needs at least {min_side}"
            )
        if image.format == "DICOM":
            record["patient"] = read_patient_pseudonym(data)
    except OSError as error:
        return record | {"error": f"unreadable: {error.strerror}"}, black, None
    except ImageError as error:
        return record | {"error": f"{error.code}: {error}"}, black, None
    gray = to_gray(image.pixels)
    record |= {
        "width": width,
        "height": height,
        "format": image.format,
        "mode": image.mode,
        "properties": " ".join(_unusual_properties(image, path, gray)),
        "mean_intensity": mean_intensity(gray),
        "gray_std": float(gray.std()),
        **_border_statistics(gray),
    }
    thumbnail = Image.fromarray(gray).resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BOX)
    return record, np.asarray(thumbnail), extract_keypoints(gray)


def _unusual_properties(image: DecodedImage, path: str, gray: np.ndarray) -> list[str]:
    suffix = PurePosixPath(path).suffix[1:].lower()
    checks = {
        "animated": image.frames > 1,
        "16-bit": image.mode.startswith("I") or image.mode == "F",
        "CMYK": image.mode == "CMYK",
        "palette": image.mode in ("P", "PA"),
        "alpha": image.mode in ("RGBA", "LA", "PA"),
        "rotated": image.rotated,
        "misnamed": _FORMAT_OF_SUFFIX.get(suffix, suffix.upper()) != image.format,
        "blank": gray.min() == gray.max(),
    }
    return [name for name, is_true in checks.items() if is_true]


def _border_statistics(gray: np.ndarray) -> dict[str, float]:
    """Describe the outer 5 % at each side."""
    rows, columns = (max(1, round(_BORDER * side)) for side in gray.shape)
    borders = {
        "top": gray[:rows],
        "bottom": gray[-rows:],
        "left": gray[:, :columns],
        "right": gray[:, -columns:],
    }
    statistics: dict[str, float] = {}
    for side, pixels in borders.items():
        low, high = np.percentile(pixels, (5, 95))
        statistics |= {
            f"border_{side}_mean": float(pixels.mean()),
            f"border_{side}_std": float(pixels.std()),
            f"border_{side}_p5": float(low),
            f"border_{side}_p95": float(high),
        }
    return statistics
