"""The output of the command score: a folder of Parquet files with one row per image.

The parts are the only record of what is done. Each holds the run's settings in its metadata.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cnnClassifier.entity.disclaimers import SYNTHETIC
from cnnClassifier.utils.common import atomic_write, remove_stale_temp
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.storage import disk_errors

_SETTINGS_KEY = b"score"
_PATTERN = "part-" + 6 * "[0-9]" + ".parquet"


def part_schema(classes: Sequence[str], settings: dict[str, Any]) -> pa.Schema:
    """Return the columns of a part; docs/scoring.md describes them.

    Args:
        classes: of the model, in its order.
        settings: what all parts of a folder have in common, kept in the metadata.
    """
    probabilities = [(f"probability_{name}", pa.float32()) for name in classes]
    columns = [
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("predicted", pa.string()),
        *probabilities,
        ("uncertain", pa.bool_()),
        ("out_of_distribution", pa.bool_()),
        ("disagreement", pa.float32()),
        ("error", pa.string()),
        ("model_sha256", pa.string()),
        ("engine", pa.string()),
    ]
    return pa.schema(columns, {_SETTINGS_KEY: json.dumps(settings)})


class ScoredParts:
    """The parts in a folder; only whole ones have a name that counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        """Return the parts in the order in which they were written."""
        return sorted(self.folder.glob(_PATTERN))

    def append(self, table: pa.Table) -> None:
        """Write the next part; a process that is killed leaves all of it or nothing."""
        with atomic_write(self._next_path()) as temp_path:
            pq.write_table(table, temp_path, compression="zstd")

    def read_done(self, settings: dict[str, Any], resume: bool) -> set[str]:
        """Return the column `path` of all parts, and remove what killed runs left.

        Args:
            settings: of this run; the parts must have the same.
            resume: whether there may be parts.

        Raises:
            UserError: there are parts but `resume` is false, their settings differ, or one can't be
                read.
        """
        done: set[str] = set()
        for path, table in self._read(["path"]):
            found = _settings_of(table)
            different = [name for name in settings if found.get(name) != settings[name]]
            if different:
                name = different[0]
                raise UserError(
                    f"{path}: was made with {name} {found.get(name)}, this run has "
                    f"{settings[name]}; choose another folder for --out"
                )
            if not resume:
                raise UserError(
                    f"{self.folder}: has parts of this source and model; add --resume to continue, "
                    "or choose another folder for --out"
                )
            done.update(table["path"].to_pylist())
        remove_stale_temp(self._next_path())
        return done

    def summarize(self, disclaimer: str) -> str:
        """Return the counts of classes, uncertain and out-of-distribution images, and errors.

        Args:
            disclaimer: of the project, or an empty text.

        Raises:
            UserError: there are no parts, or one can't be read.
        """
        classes: Counter[str] = Counter()
        flags: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        settings: dict[str, Any] = {}
        for _, table in self._read(["predicted", "uncertain", "out_of_distribution", "error"]):
            settings = settings or _settings_of(table)
            errors = table["error"].drop_null().to_pylist()
            reasons.update(error.partition(":")[0] for error in errors)
            classes.update(table["predicted"].drop_null().to_pylist())
            for name in ("uncertain", "out_of_distribution"):
                flags[name] += sum(table[name].drop_null().to_pylist())
        if not settings:
            raise UserError(f"{self.folder}: has no parts; name a SOURCE to score")
        scored, failed = classes.total(), reasons.total()
        model = f"{settings['model_sha256'][:12]}{', int8' if settings['int8'] else ''}"
        lines = [f"{scored + failed:,} files in {self.folder}, model {model}", "", "predicted"]
        lines += [_line(name, count, scored) for name, count in sorted(classes.items())]
        lines += ["", _line("uncertain", flags["uncertain"], scored, indent="")]
        name = "out-of-distribution"
        lines.append(_line(name, flags["out_of_distribution"], scored, indent=""))
        lines.append(_line("errors", failed, scored + failed, indent=""))
        lines += [_line(name, count, scored + failed) for name, count in reasons.most_common()]
        notices = [SYNTHETIC if settings["synthetic"] else "", disclaimer]
        return "\n".join([*lines, "", *filter(None, notices)]).rstrip()

    def _read(self, columns: list[str]) -> Iterator[tuple[Path, pa.Table]]:
        for path in self.paths():
            try:
                with disk_errors(path), pq.ParquetFile(path) as file:
                    table = file.read(columns)
                _settings_of(table)
            except (pa.ArrowException, OSError, KeyError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(
                    f"{path}: isn't a part that score wrote ({reason}); remove it, and --resume "
                    "scores its files again"
                ) from error
            yield path, table

    def _next_path(self) -> Path:
        paths = self.paths()
        number = int(paths[-1].stem.removeprefix("part-")) + 1 if paths else 0
        return self.folder / f"part-{number:06}.parquet"


def _settings_of(table: pa.Table) -> dict[str, Any]:
    return json.loads((table.schema.metadata or {})[_SETTINGS_KEY])


def _line(name: str, count: int, total: int, indent: str = "  ") -> str:
    share = count / total if total else 0
    return f"{indent + name:<32}{count:>12,}{share:>8.1%}"
