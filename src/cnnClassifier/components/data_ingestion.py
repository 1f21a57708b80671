"""Stage data_ingestion: from a source to class folders."""

from pathlib import Path

from cnnClassifier.dataset.feedback import find_feedback, write_feedback
from cnnClassifier.dataset.image_table import read_image_table
from cnnClassifier.dataset.layout import (
    SourceImage,
    arrange_images,
    find_class_folders,
    list_images,
    summarize,
    write_groups,
    write_images,
)
from cnnClassifier.dataset.remote_sources import list_remote_images
from cnnClassifier.dataset.sources import fetch_images, locate_images
from cnnClassifier.entity.config_entity import DataIngestionConfig
from cnnClassifier.entity.disclaimers import is_synthetic
from cnnClassifier.utils.common import atomic_write, create_directories, remove_stale_temp
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.object_store import RemoteFolder
from cnnClassifier.utils.redaction import redact_url
from cnnClassifier.utils.source_files import describe_file, write_list
from cnnClassifier.utils.storage import disk_errors, exclusive_lock


class DataIngestion:
    """Get the images of the source and write them to class folders in `config.data_dir`."""

    def __init__(self, config: DataIngestionConfig) -> None:
        self.config = config

    def run(self) -> Path:
        """Replace the data folder by the current images of the source.

        Returns:
            The data folder: `<class>/<file>`, or `<split>/<class>/<file>` if the source has splits,
            or a list of these if they stay in the source; `groups.csv` if it gives groups, and
            `feedback.csv` if images of users were added.

        Raises:
            UserError: a one-line message; the last good data folder is kept.
        """
        config = self.config
        source = redact_url(config.source_URL.strip())
        with disk_errors(config.data_dir), exclusive_lock(config.data_dir):
            remove_stale_temp(config.data_dir)
            with atomic_write(config.data_dir) as temp_path:
                is_copied = config.copy_images or is_synthetic(source)
                images = (self._copy if is_copied else self._list)(temp_path, source)
                write_groups(images, temp_path)
                feedback = find_feedback(config.feedback_dir, images, config.data_dir)
                if config.feedback_dir and feedback:
                    write_images(feedback, config.feedback_dir, temp_path, move=False)
                write_feedback(feedback, temp_path)
        logger.info("data_ingestion: %s from %s", summarize(images), source)
        if feedback:
            logger.info("feedback of users: %d images from %s", len(feedback), config.feedback_dir)
        return config.data_dir

    def _copy(self, target: Path, source: str) -> list[SourceImage]:
        """Write the images to class folders."""
        config = self.config
        temp_dir = target.with_name("source")
        path = fetch_images(config, temp_dir, config.data_dir)
        folder, found = self._find(path, source)
        images = self._arrange(found, source)
        write_images(images, folder, target, move=folder == temp_dir)
        return images

    def _list(self, target: Path, source: str) -> list[SourceImage]:
        """Write the list of the images, which stay where they are."""
        location = locate_images(self.config, self.config.data_dir)
        if isinstance(location, RemoteFolder):
            folder = location.url
            files = list_remote_images(location)
            images = self._arrange(find_class_folders(list(files), source), source)
        else:
            local_folder, found = self._find(location, source)
            folder = str(local_folder.absolute())  # another process may run elsewhere
            images = self._arrange(found, source)
            files = {image.source: describe_file(local_folder, image.source) for image in images}
        create_directories(target)
        listed = (files[image.source]._replace(path=str(image.target)) for image in images)
        write_list(listed, folder, target)
        return images

    def _find(self, path: Path, source: str) -> tuple[Path, list[SourceImage]]:
        """Return the images of a folder or a table, and the folder that their paths begin at."""
        if path.is_dir():
            return path, find_class_folders(list_images(path), source)
        return Path(), read_image_table(path)

    def _arrange(self, images: list[SourceImage], source: str) -> list[SourceImage]:
        config = self.config
        return arrange_images(images, config.class_patterns, config.class_count, source)
