"""How often drift is reported: of phantoms that a trained model sees in other display windows."""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.drift import Images, serve, take
from benchmarks.measure import table
from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.evaluation.drift import compare
from cnnClassifier.imaging.gray import mean_intensity, to_gray
from cnnClassifier.serving.predictor import Predictor
from ct_phantom.dataset import make_patient, render_slice
from ct_phantom.options import PhantomOptions
from ct_phantom.scanner import scan_slice

_SEED = 314159  # of phantoms that no model was trained on
_PATIENTS = 300
_WINDOWS = {"as in training": None, "lung, -400/1500": (-400, 1500), "mediastinal": (40, 400)}


def main() -> None:
    """Print how many reports name a feature, for each window."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="of a model of `phantom:`")
    parser.add_argument("--reports", type=int, default=1000)
    options = parser.parse_args()
    _phantoms(ModelBundle.read(options.bundle), options.reports)


def _phantoms(bundle: ModelBundle, reports: int) -> None:
    """Print how often patients that the model hasn't seen are reported, by display window."""
    assert bundle.drift_reference is not None
    rng = np.random.default_rng(0)
    rows = []
    for name, window in _WINDOWS.items():
        images = _predict(bundle, window)
        row = [name]
        for patients in (5, 10, 20, 100):
            alarms = 0
            for _ in range(reports):
                chosen = rng.choice(_PATIENTS, patients, replace=False)
                part = take(images, np.flatnonzero(np.isin(images.groups, chosen)))
                served = serve(bundle.drift_reference, part)
                found = compare(bundle.drift_reference, served, bundle.classes)
                alarms += any(feature.has_changed for feature in found)
            row.append(f"{alarms / reports:.1%}")
        everything = compare(
            bundle.drift_reference, serve(bundle.drift_reference, images), bundle.classes
        )
        row.append(", ".join(f"{feature.name} {feature.psi:.2f}" for feature in everything))
        rows.append(row)
    print(table(["window", "5 patients", "10", "20", "100", "PSI of 300"], rows))


def _predict(bundle: ModelBundle, window: tuple[int, int] | None) -> Images:
    """Return two slices of each patient as the model sees them.

    Args:
        bundle: the model.
        window: centre and width in HU; None: as in the data sets.
    """
    predictor, options = Predictor(bundle, 10**6), PhantomOptions(seed=_SEED)
    rows = []
    for number in range(1, _PATIENTS + 1):
        patient, lesion = make_patient(options, number), number % 2 == 0
        for index in range(options.slices):
            if window is None:
                pixels = render_slice(options, patient, index, lesion)
            else:
                hu = scan_slice(patient, index, options.size, options.noise, lesion)
                pixels = np.clip((hu - window[0]) / window[1] + 0.5, 0, 1) * 255
            buffer = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
            found = predictor.predict(buffer.getvalue())
            height, width, _ = found.pixels.shape
            intensity = mean_intensity(to_gray(found.pixels))
            features = (
                *(found.probabilities[found.class_name], found.distance, width, height),
                intensity,
            )
            rows.append((number - 1, bundle.classes.index(found.class_name), *features))
    groups, predicted, *values = np.array(rows).T
    names = ("probability", "distance", "width", "height", "mean_intensity")
    return Images(groups.astype(int), predicted.astype(int), dict(zip(names, values, strict=True)))


if __name__ == "__main__":
    main()
