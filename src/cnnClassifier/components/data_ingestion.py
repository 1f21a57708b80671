"""Stage data_ingestion: from a source to class folders."""

from pathlib import Path

from cnnClassifier.dataset.feedback import find_feedback, write_feedback
from cnnClassifier.dataset.image_table import read_image_table
from cnnClassifier.dataset.layout import (
    arrange_images,
    find_class_folders,
    list_images,
    summarize,
    write_groups,
    write_images,
)
from cnnClassifier.dataset.sources import fetch_images
from cnnClassifier.entity.config_entity import DataIngestionConfig
from cnnClassifier.utils.common import atomic_write, remove_stale_temp
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.redaction import redact_url
from cnnClassifier.utils.storage import disk_errors, exclusive_lock


class DataIngestion:
    """Get the images of the source and write them to class folders in `config.data_dir`."""

    def __init__(self, config: DataIngestionConfig) -> None:
        self.config = config

    def run(self) -> Path:
        """Replace the data folder by the current images of the source.

        Returns:
            The data folder: `<class>/<file>`, or `<split>/<class>/<file>` if the source has splits;
            `groups.csv` if it gives groups, and `feedback.csv` if images of users were added.

        Raises:
            UserError: a one-line message; the last good data folder is kept.
        """
        config = self.config
        source = redact_url(config.source_URL.strip())
        with disk_errors(config.data_dir), exclusive_lock(config.data_dir):
            remove_stale_temp(config.data_dir)
            with atomic_write(config.data_dir) as temp_path:
                temp_dir = temp_path.with_name("source")
                path = fetch_images(config, temp_dir, config.data_dir)
                if path.is_dir():
                    folder, found = path, find_class_folders(list_images(path), source)
                else:
                    folder, found = path.parent, read_image_table(path)
                images = arrange_images(found, config.class_patterns, config.class_count, source)
                write_images(images, folder, temp_path, move=folder == temp_dir)
                write_groups(images, temp_path)
                feedback = find_feedback(config.feedback_dir, images, config.data_dir)
                if config.feedback_dir and feedback:
                    write_images(feedback, config.feedback_dir, temp_path, move=False)
                write_feedback(feedback, temp_path)
        logger.info("data_ingestion: %s from %s", summarize(images), source)
        if feedback:
            logger.info("feedback of users: %d images from %s", len(feedback), config.feedback_dir)
        return config.data_dir
