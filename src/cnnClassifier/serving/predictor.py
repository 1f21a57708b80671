"""From an image file's bytes to the class that the model calls."""

from pathlib import Path

import numpy as np

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.dicom_options import DicomOptions
from cnnClassifier.entity.prediction import Prediction
from cnnClassifier.imaging.decode import decode
from cnnClassifier.imaging.prepare import resize, shrink
from cnnClassifier.network.engine import Engine

_AS_IT_IS = DicomOptions()
_PREVIEW = 512  # pixels of the longest side: what a page shows of a picture


class Predictor:
    """A trained model, ready for image files.

    Args:
        bundle_dir: a folder with `model.keras` and `model.json`.
        max_pixels: refuse images with more.
        evaluation_dir: where evaluation says whether the model may calculate in int8; None: it may not.

    Raises:
        BundleError: there is no model that can be used.
    """

    def __init__(
        self, bundle_dir: Path, max_pixels: int, evaluation_dir: Path | None = None
    ) -> None:
        self._engine = Engine(
            bundle_dir, int8=ModelBundle.read(bundle_dir).accepts_int8(evaluation_dir)
        )
        self._max_pixels = max_pixels

    @property
    def bundle(self) -> ModelBundle:
        """What is known of the model."""
        return self._engine.bundle

    @property
    def engine(self) -> str:
        """What calculates: `keras-openvino` or `int8`."""
        return self._engine.name

    def predict(self, data: bytes, reading: DicomOptions = _AS_IT_IS) -> Prediction:
        """Classify one image file.

        Args:
            data: a PNG, JPEG, BMP, GIF, TIFF, WebP or DICOM file.
            reading: window and frame of a DICOM file; `auto` is the window that the model was trained with.

        Raises:
            ImageError: the bytes can't be used as an image.
        """
        bundle = self.bundle
        decoded = decode(data, self._max_pixels, reading.or_window(bundle.dicom_window))
        image = resize(decoded.pixels, bundle.image_size)
        seen = self._engine.inspect(image[np.newaxis])
        scores = [float(score) for score in seen.probabilities[0]]
        name = bundle.called(scores)
        return Prediction(
            label=bundle.label(name),
            class_name=name,
            probabilities=dict(zip(bundle.classes, scores, strict=True)),
            model_id=bundle.model_id,
            unfamiliar=bool(seen.distances[0] > bundle.unfamiliar_limit),
            distance=float(seen.distances[0]),
            unfamiliar_limit=bundle.unfamiliar_limit,
            map=seen.maps[0],
            dicom=decoded.dicom,
            pixels=shrink(decoded.pixels, _PREVIEW),
        )
