"""Read a training image and make its views; it can be sent to other processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnnClassifier.entity.dicom_options import DicomOptions
from cnnClassifier.imaging.augment import View, augment
from cnnClassifier.imaging.decode import prepare
from cnnClassifier.utils.source_files import read_bytes, reading_threads


@dataclass(frozen=True)
class ViewLoader:
    """Return some of the views of an image, which is decoded once for all of them.

    Attributes:
        data_dir: the folder that the paths are relative to.
        image_size: (height, width, 3) of the model.
        max_pixels: refuse images with more.
        dicom_options: window and frame of DICOM files.
    """

    data_dir: Path
    image_size: tuple[int, int, int]
    max_pixels: int
    dicom_options: DicomOptions

    @property
    def threads(self) -> int | None:
        """In how many threads to call it; None: as many as the cores keep busy."""
        return reading_threads(self.data_dir)

    def __call__(
        self, file: tuple[str, Sequence[View]], numbers: Sequence[int]
    ) -> list[np.ndarray]:
        """Read a file.

        Args:
            file: its path, and all views of the image.
            numbers: of the requested views.

        Returns:
            uint8, `image_size`, for each number.
        """
        path, views = file
        data = read_bytes(self.data_dir, path)
        pixels = prepare(data, self.image_size, self.max_pixels, self.dicom_options)
        return [augment(pixels, views[number]) for number in numbers]
