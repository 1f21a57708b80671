"""Stage data_ingestion: from a source to class folders."""

from pathlib import Path

from cnnClassifier.dataset.layout import arrange, list_images, place, summary
from cnnClassifier.dataset.sources import obtain, source_name
from cnnClassifier.dataset.storage import disk_errors, exclusive
from cnnClassifier.entity.config_entity import DataIngestionConfig
from cnnClassifier.utils.common import atomic_write, remove_stale_temp
from cnnClassifier.utils.log import logger


class DataIngestion:
    """Fetch the source and leave its class folders in `config.data_dir`."""

    def __init__(self, config: DataIngestionConfig) -> None:
        self.config = config

    def run(self) -> Path:
        """Replace the data folder by what the source holds now.

        Returns:
            The data folder: `<class>/<file>`, or `<split>/<class>/<file>` where the source is split.

        Raises:
            SourceError: in one line, what is wrong and how to mend it; the last good data folder stays.
        """
        config = self.config
        origin = source_name(config.source_URL)
        with disk_errors(config.data_dir), exclusive(config.data_dir):
            remove_stale_temp(config.data_dir)
            with atomic_write(config.data_dir) as staged:
                scratch = staged.with_name("received")
                received = obtain(config, scratch)
                placed = arrange(
                    list_images(received), config.class_patterns, config.class_count, origin
                )
                place(placed, received, staged, move=received == scratch)
        logger.info("data_ingestion: %s from %s", summary(placed), origin)
        return config.data_dir
