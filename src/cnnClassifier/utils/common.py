"""Small helpers for files: YAML, JSON, CSV, folders, hashes, atomic writes."""

import csv
import glob
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from box import ConfigBox
from ensure import ensure_annotations

from cnnClassifier.utils.errors import ConfigError


@ensure_annotations
def read_yaml(path: Path) -> ConfigBox:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: the file is missing, isn't YAML, is empty, or isn't a mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; use --config or --params") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys with values, found {content!r:.60}")
    box = ConfigBox(content)
    if box.to_dict() != content:
        raise ConfigError(f"{path}: keys that differ only in case; expected each key once")
    return box


def create_directories(*paths: Path) -> None:
    """Create folders and their parents; existing ones stay as they are."""
    for path in paths:
        Path(path).mkdir(parents=True, exist_ok=True)


def project_dir() -> Path:
    """Return the folder of caches and runs: the current one, or the clone of a DVC experiment.

    `dvc exp run --queue` and `--temp` run in copies in `.dvc/tmp/exps`, which DVC removes at the
    end.
    """
    clone, in_copy, _ = Path.cwd().as_posix().partition("/.dvc/tmp/exps/")
    return Path(clone if in_copy else "")


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and move it to `target` if no error occurs.

    The target may be a file or a folder. After an error, or if the process is killed, the old
    target remains. The path is in a temporary folder of its own beside the target; other files
    there are deleted at the end.
    """
    target = Path(target)
    create_directories(target.parent)
    temp_dir = Path(tempfile.mkdtemp(prefix=_temp_prefix(target), dir=target.parent))
    temp_path = temp_dir / target.name
    old = temp_dir / "old"
    try:
        yield temp_path
        try:
            # A rename replaces a file by a file, but neither a folder nor by one.
            if target.exists() and (target.is_dir() or temp_path.is_dir()):
                os.replace(target, old)
            os.replace(temp_path, target)
        except BaseException:  # Ctrl-C between the two renames, too
            if old.exists() and not target.exists():
                os.replace(old, target)
            raise
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)


def remove_stale_temp(target: Path) -> None:
    """Remove what killed runs of `atomic_write` left; restore a target that they had moved away.

    No other process may be writing the same target: call it only under a lock.
    """
    for temp_dir in Path(target).parent.glob(f"{glob.escape(_temp_prefix(target))}*"):
        if (temp_dir / "old").exists() and not target.exists():
            os.replace(temp_dir / "old", target)
        shutil.rmtree(temp_dir, ignore_errors=True)


def save_json(path: Path, data: Any) -> None:
    """Write `data` as indented JSON with a final newline.

    Raises:
        ValueError: `data` contains NaN or an infinity.
    """
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as temp_path:
        temp_path.write_text(text, encoding="utf-8")


def load_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_numeric_csv(path: Path) -> dict[str, list[float]]:
    """Read a CSV file of numbers.

    Returns:
        The values of each column, by its header; none where the file has a header alone.

    Raises:
        OSError: the file can't be read.
        ValueError: a value isn't a number.
    """
    with Path(path).open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    return {name: list(map(float, column)) for name, column in zip(header, columns, strict=True)}


def format_size(count: float) -> str:
    """Format a number of bytes, such as `56.2 MB`."""
    if count < 1000:
        return f"{count:.0f} B"
    exponent = min(int(math.log10(count)) // 3, 3)
    return f"{count / 1000**exponent:.1f} {('kB', 'MB', 'GB')[exponent - 1]}"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _temp_prefix(target: Path) -> str:
    return f".{target.name}.unfinished-"
