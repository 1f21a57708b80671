"""List the images of a source whose classes don't matter."""

from pathlib import Path

from cnnClassifier.dataset.image_table import read_paths
from cnnClassifier.dataset.layout import list_images
from cnnClassifier.dataset.sources import fetch_images
from cnnClassifier.entity.config_entity import DataIngestionConfig
from cnnClassifier.utils.errors import SourceError
from cnnClassifier.utils.redaction import redact_url
from cnnClassifier.utils.storage import disk_errors


def list_source(config: DataIngestionConfig, temp_dir: Path) -> tuple[Path, list[str]]:
    """Return a folder and the paths of its images; each path once, in a fixed order.

    Args:
        config: `source_URL` is a source of data ingestion, or a .txt file with one path per line;
            paths in tables and lists are absolute, or relative to the file's folder. A table needs
            the column `path` alone.
        temp_dir: for extracted or generated images, removed by the caller.

    Raises:
        SourceError: the source is unknown, missing, damaged or empty.
        UserError: likewise, see `fetch_images`.
    """
    path = Path(config.source_URL).expanduser()
    with disk_errors(path):
        if path.suffix.lower() == ".txt" and path.is_file():
            # A path is bytes: those that aren't UTF-8 are kept.
            lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
            paths = [line.rstrip("\r") for line in lines if line.rstrip("\r")]
        else:
            path = fetch_images(config, temp_dir)
            paths = list(map(str, list_images(path))) if path.is_dir() else read_paths(path)
    if not paths:
        raise SourceError(f"{redact_url(config.source_URL)}: contains no image; check the path")
    return path if path.is_dir() else path.parent, list(dict.fromkeys(paths))
