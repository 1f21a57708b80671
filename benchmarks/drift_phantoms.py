"""How often drift is reported: of phantoms that a trained model sees in other display windows."""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.drift import Images, serve, take
from benchmarks.measure import table
from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.drift import FEATURES
from cnnClassifier.evaluation.drift import compare
from cnnClassifier.imaging.gray import mean_intensity, to_gray
from cnnClassifier.serving.predictor import Predictor
from ct_phantom.dataset import make_patient, render_slice
from ct_phantom.options import PhantomOptions
from ct_phantom.scanner import scan_slice

_SEED = 314159  # of phantoms that no model was trained on
_PATIENTS = 200
_WINDOWS = {"as in training": None, "lung, -400/1500": (-400, 1500), "mediastinal": (40, 400)}


def main() -> None:
    """Print how many reports name a feature, for each window."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "bundle",
        type=Path,
        nargs="?",
        default="artifacts/training",
        help="of a model of `phantom:`",
    )
    parser.add_argument("--reports", type=int, default=1000)
    options = parser.parse_args()
    _phantoms(ModelBundle.read(options.bundle), options.reports)


def _phantoms(bundle: ModelBundle, reports: int) -> None:
    """Print how often patients that the model hasn't seen are reported, by display window."""
    reference = bundle.drift_reference
    assert reference is not None
    rng = np.random.default_rng(0)
    rows = []
    for name, images in _predict_phantoms(bundle).items():
        row = [name]
        for patients in (5, 10, 20, 100):
            alarms = 0
            for _ in range(reports):
                chosen = rng.choice(_PATIENTS, patients, replace=False)
                part = take(images, np.flatnonzero(np.isin(images.groups, chosen)))
                found = compare(reference, serve(reference, part), bundle.classes)
                alarms += any(feature.has_changed for feature in found)
            row.append(f"{alarms / reports:.1%}")
        found = compare(reference, serve(reference, images), bundle.classes)
        row.append(", ".join(f"{feature.name} {feature.psi:.2f}" for feature in found))
        rows.append(row)
    print(table(["window", "5 patients", "10", "20", "100", f"PSI of all {_PATIENTS}"], rows))


def _predict_phantoms(bundle: ModelBundle) -> dict[str, Images]:
    """Return two slices of each patient in each window, as the model sees them."""
    predictor, options = Predictor(bundle, 10**6), PhantomOptions(seed=_SEED)
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in _WINDOWS}
    for number, index in np.ndindex(_PATIENTS, options.slices):
        patient, lesion = make_patient(options, number + 1), number % 2 == 0
        hu = scan_slice(patient, index, options.size, options.noise, lesion)
        for name, window in _WINDOWS.items():
            if window is None:
                pixels = render_slice(options, patient, index, lesion)
            else:
                center, width = window
                pixels = (np.clip((hu - center) / width + 0.5, 0, 1) * 255).astype(np.uint8)
            rows[name].append((number, *_features(predictor, pixels)))
    images = {}
    for name, values in rows.items():
        groups, predicted, *features = np.array(values).T
        by_name = dict(zip(FEATURES, features, strict=True))
        images[name] = Images(groups.astype(int), predicted.astype(int), by_name)
    return images


def _features(predictor: Predictor, pixels: np.ndarray) -> tuple[float, ...]:
    """Return the index of the predicted class and the features in the order of `FEATURES`."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    found = predictor.predict(buffer.getvalue())
    height, width, _ = found.pixels.shape
    index = predictor.bundle.classes.index(found.class_name)
    probability = found.probabilities[found.class_name]
    intensity = mean_intensity(to_gray(found.pixels))
    return index, probability, found.distance, width, height, intensity


if __name__ == "__main__":
    main()
