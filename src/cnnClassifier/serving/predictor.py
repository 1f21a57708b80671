"""From an image file's bytes to a prediction."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.dicom_options import DEFAULT_DICOM_OPTIONS, DicomOptions
from cnnClassifier.entity.prediction import Prediction
from cnnClassifier.imaging.decode import DecodedImage, decode, resize
from cnnClassifier.imaging.limits import PixelBudget
from cnnClassifier.network.engine import Engine


@dataclass(frozen=True)
class PreparedImage:
    """An image that is ready for a model.

    Attributes:
        decoded: the image.
        dicom_options: with which it was decoded; `auto` has become the model's window.
        pixels: the model's input, uint8 (height, width, 3).
    """

    decoded: DecodedImage
    dicom_options: DicomOptions
    pixels: np.ndarray


class Predictor:
    """A trained model, ready for image files.

    Args:
        bundle: from `ModelBundle.read`.
        max_pixels: limit for each image; twice as many may be decoded at the same time.
        evaluation_dir: with the evaluation's decision on int8; None never uses int8.

    Raises:
        BundleError: the model can't be run.
    """

    def __init__(
        self, bundle: ModelBundle, max_pixels: int, evaluation_dir: Path | None = None
    ) -> None:
        self.bundle = bundle
        self._engine = Engine(bundle, int8=bundle.accepts_int8(evaluation_dir))
        self._max_pixels = max_pixels
        # Two of the largest images at the same time, whatever the number of threads.
        self._budget = PixelBudget(2 * max_pixels)

    @property
    def engine(self) -> str:
        """Return the engine's name: `keras-openvino` or `int8`."""
        return self._engine.name

    def predict(
        self, data: bytes, dicom_options: DicomOptions = DEFAULT_DICOM_OPTIONS
    ) -> Prediction:
        """Classify one image file.

        Args:
            data: a PNG, JPEG, BMP, GIF, TIFF, WebP or DICOM file.
            dicom_options: window and frame of a DICOM file; `auto` is the window of the training
                data.

        Raises:
            ImageError: the bytes can't be used as an image.
        """
        return self.predict_prepared(self.prepare(data, dicom_options))

    def prepare(
        self, data: bytes, dicom_options: DicomOptions, other: PreparedImage | None = None
    ) -> PreparedImage:
        """Decode one image file and resize it.

        Args:
            data: see `predict`.
            dicom_options: see `predict`.
            other: the same file, prepared for another model with the same `dicom_options`; what is
                the same for this model isn't computed again.

        Raises:
            ImageError: the bytes can't be used as an image.
        """
        dicom_options = dicom_options.with_default_window(self.bundle.dicom_window)
        if other and (other.decoded.dicom is None or other.dicom_options == dicom_options):
            decoded = other.decoded
            if other.pixels.shape == self.bundle.image_size:
                return other
        else:
            decoded = decode(data, self._max_pixels, dicom_options, self._budget)
        pixels = resize(decoded.pixels, self.bundle.image_size)
        return PreparedImage(decoded, dicom_options, pixels)

    def predict_prepared(self, image: PreparedImage) -> Prediction:
        """Classify an image that `prepare` has returned."""
        bundle, decoded = self.bundle, image.decoded
        result = self._engine.predict([image.pixels])
        class_name = bundle.classes[result.predicted[0]]
        return Prediction(
            label=bundle.label(class_name),
            class_name=class_name,
            probabilities=dict(zip(bundle.classes, result.probabilities[0].tolist(), strict=True)),
            model_id=bundle.model_id,
            disagreement=float(result.disagreement[0]),
            out_of_distribution=bool(result.out_of_distribution[0]),
            distance=float(result.distances[0]),
            ood_threshold=bundle.ood_threshold,
            activation_map=result.activation_maps[0],
            format=decoded.format,
            dicom=decoded.dicom,
            pixels=decoded.pixels,
        )
