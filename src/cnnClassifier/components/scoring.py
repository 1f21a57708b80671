"""The command score: predict all images of a source, in bulk."""

import shutil
from collections.abc import Generator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from cnnClassifier.components.batch_scorer import BatchScorer, Row, path_text
from cnnClassifier.dataset.file_list import list_source
from cnnClassifier.entity.bundle import METADATA_FILE, ModelBundle
from cnnClassifier.entity.config_entity import (
    DataIngestionConfig,
    ParallelConfig,
    ServingConfig,
)
from cnnClassifier.evaluation.scored_parts import ScoredParts, part_schema
from cnnClassifier.network.engine import Engine
from cnnClassifier.utils.common import create_directories, sha256_of
from cnnClassifier.utils.errors import SourceError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.progress import progress
from cnnClassifier.utils.redaction import redact_url
from cnnClassifier.utils.storage import disk_errors, exclusive_lock


class Scoring:
    """Write the predictions for all images of a source to a folder of Parquet files.

    Args:
        config: of the server: model, int8 and limits.
        ingestion: folder of downloads, timeouts and limits of the source.
        part_size: files in one Parquet file; what a kill loses at most.
        parallel: where the files are scored.
    """

    def __init__(
        self,
        config: ServingConfig,
        ingestion: DataIngestionConfig,
        part_size: int,
        parallel: ParallelConfig,
    ) -> None:
        self.config = config
        self.ingestion = ingestion
        self.part_size = part_size
        self.parallel = parallel

    def run(self, source: str, out_dir: Path, resume: bool = False) -> None:
        """Score the files that the parts in `out_dir` don't have yet.

        Args:
            source: see `list_source`.
            out_dir: created if necessary.
            resume: whether `out_dir` may have parts, of the same source, model and settings.

        Raises:
            UserError: the source or the model can't be used, `out_dir` has other parts, or another
                process writes to it.
        """
        parts = ScoredParts(out_dir)
        temp_dir = out_dir / ".source"
        with disk_errors(out_dir), exclusive_lock(out_dir.resolve(), wait=False):
            bundle = ModelBundle.read(self.config.bundle_dir)
            settings = self._settings(bundle, source)
            done = parts.read_done(settings, resume)
            shutil.rmtree(temp_dir, ignore_errors=True)  # of a killed run
            create_directories(out_dir)
            try:
                folder, paths = self._list_source(source, temp_dir)
                pending = [path for path in paths if path_text(path) not in done]
                logger.info("score: %d of %d files to do", len(pending), len(paths))
                if pending:
                    schema = part_schema(bundle.classes, settings)
                    rows = self._score(bundle, folder.absolute(), pending)
                    self._write(parts, rows, schema, len(pending), len(paths))
            finally:
                shutil.rmtree(temp_dir, ignore_errors=True)
        logger.info("score: %d files done; parts in %s", len(paths), out_dir)

    def _settings(self, bundle: ModelBundle, source: str) -> dict[str, Any]:
        """Return what all parts of a folder must have in common."""
        config = self.config
        path = Path(source).expanduser()
        return {
            "source": str(path.resolve()) if path.exists() else redact_url(source),
            "model_sha256": bundle.model_sha256,
            # Of threshold, temperature and all else that belongs to the model.
            "bundle_sha256": sha256_of(bundle.bundle_dir / METADATA_FILE),
            "int8": bundle.accepts_int8(config.int8_evaluation_dir),
            "uncertain_margin": config.uncertain_margin,
            "max_pixels": config.max_pixels,
            "max_upload_bytes": config.max_upload_bytes,
            "synthetic": bundle.synthetic,
        }

    def _list_source(self, source: str, temp_dir: Path) -> tuple[Path, list[str]]:
        changes = {"source_URL": source, "source_sha256": None}
        try:
            return list_source(self.ingestion.model_copy(update=changes), temp_dir)
        except SourceError as error:  # its messages name the setting of data ingestion
            message = str(error).replace("data_ingestion.source_URL", "SOURCE")
            raise SourceError(message) from error

    def _score(self, bundle: ModelBundle, folder: Path, paths: list[str]) -> Generator[Row]:
        """Yield the row of each file, in order."""
        int8 = bundle.accepts_int8(self.config.int8_evaluation_dir)
        with self.parallel.connect() as workers:
            engine = Engine(bundle, int8, "THROUGHPUT", workers.shared_path("model.zip"))
            scorer = BatchScorer(engine, self.config, folder)
            yield from workers.map(scorer.score, paths)

    def _write(
        self, parts: ScoredParts, rows: Generator[Row], schema: pa.Schema, count: int, total: int
    ) -> None:
        """Write the rows as parts."""
        with (
            closing(rows),
            progress(rows, desc="score", unit="file", total=total, initial=total - count) as bar,
        ):
            shown = iter(bar)
            try:
                while part := list(islice(shown, self.part_size)):
                    parts.append(pa.Table.from_pylist(part, schema))
            except KeyboardInterrupt:
                logger.info("score: all parts are complete; --resume continues")
                raise
