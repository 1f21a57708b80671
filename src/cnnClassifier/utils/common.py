"""Small helpers for files: YAML, JSON, binaries, folders, hashes."""

import csv
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from box import ConfigBox
from box.exceptions import BoxError
from ensure import ensure_annotations

from cnnClassifier.utils.errors import ConfigError


@ensure_annotations
def read_yaml(path: Path) -> ConfigBox:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: the file is missing, isn't YAML, is empty, or holds something else than a mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name another with --config or --params") from None
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror or error}; name another with --config or --params"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise ConfigError(f"{path}: expected keys with values, found {found}")
    try:
        box = ConfigBox(content)
    except BoxError as error:
        raise ConfigError(f"{path}: {error}") from None
    if box.to_dict() != content:
        raise ConfigError(f"{path}: keys that differ by case alone; expected each key once")
    return box


def create_directories(*paths: Path) -> None:
    """Make each folder and its parents; those that exist stay as they are."""
    for path in paths:
        Path(path).mkdir(parents=True, exist_ok=True)


def project_dir() -> Path:
    """Return where caches and runs lie: the folder that we are in, or the clone whose experiment DVC runs in a copy.

    `dvc exp run --queue` and `--temp` make copies below `.dvc/tmp/exps`, and remove them at the end.
    """
    here = Path.cwd()
    return next(
        (folder for folder in here.parents if here.is_relative_to(folder / ".dvc/tmp/exps")), Path()
    )


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write to; on success it takes the target's place in one rename.

    A file or a folder may be written. On an error, or when the process is killed, the old target stays. The path lies
    alone in a scratch folder; what else is put there goes away at the end.
    """
    target = Path(target)
    create_directories(target.parent)
    scratch = Path(tempfile.mkdtemp(prefix=_scratch_prefix(target), dir=target.parent))
    try:
        staged = scratch / target.name
        yield staged
        old = scratch / "old"
        try:
            if target.exists() and (
                target.is_dir() or staged.is_dir()
            ):  # a rename replaces files by files alone
                os.replace(target, old)
            os.replace(staged, target)
        except BaseException:  # Ctrl-C between the two renames as well
            if old.exists() and not target.exists():
                os.replace(old, target)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def remove_stale_temp(target: Path) -> None:
    """Remove what killed runs of `atomic_write` left beside `target`; if one fell between its two renames, undo the first.

    Call it only where no other process can be atomic_write `target`, such as under a lock.
    """
    for scratch in Path(target).parent.glob(f"{glob.escape(_scratch_prefix(target))}*"):
        if (scratch / "old").exists() and not target.exists():
            os.replace(scratch / "old", target)
        shutil.rmtree(scratch, ignore_errors=True)


def save_json(path: Path, data: Any) -> None:
    """Write `data` as indented JSON with a closing newline; NaN and infinities are refused."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as staged:
        staged.write_text(text, encoding="utf-8")


def load_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows under a header, with line feeds on every system."""
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_numeric_csv(path: Path) -> dict[str, list[float]]:
    """Read a CSV file of numbers, column by column.

    Raises:
        OSError: the file can't be read.
        ValueError: a value isn't a number.
    """
    with Path(path).open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    columns: dict[str, list[float]] = {name: [] for name in header}
    for row in rows:
        for name, value in zip(header, row, strict=True):
            columns[name].append(float(value))
    return columns


def get_size(path: Path) -> str:
    """Return a file's size for people, such as `56.2 MB`."""
    return format_size(Path(path).stat().st_size)


def format_size(count: float) -> str:
    """Return a number of bytes for people, such as `56.2 MB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _scratch_prefix(target: Path) -> str:
    return f".{target.name}.unfinished-"
