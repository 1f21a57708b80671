"""Report the drift of served images: as text for a terminal, or as an HTML page."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.disclaimers import SYNTHETIC
from cnnClassifier.entity.drift import DriftReference, ServedImages, find_served_files
from cnnClassifier.evaluation.drift import (
    LARGE_PSI,
    MAX_FALSE_ALARMS,
    MIN_SIZE,
    MODERATE_PSI,
    TITLES,
    FeatureDrift,
    compare,
)
from cnnClassifier.evaluation.scores import render_text
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.page import render_template_file

MEANINGS = {
    "class": "The images differ from those in training, or the classes have other shares. Training "
    "data are often balanced on purpose, so other shares alone are no error, but probabilities and "
    "threshold were chosen for those in training.",
    "probability": "The model is more or less certain than on held-out training images: expect "
    "other error rates.",
    "distance": "The images are more or less similar to the training images than held-out ones "
    "were; much closer ones may be training images themselves.",
    "width": "Another source, crop or export. The model sees resized images.",
    "height": "Another source, crop or export. The model sees resized images.",
    "mean_intensity": "The images are brighter or darker: another display window, exposure or "
    "file conversion.",
}


@dataclass(frozen=True)
class DriftReport:
    """Served images compared with the training images.

    Attributes:
        bundle: the model that classified them.
        since: the first hour, in UTC.
        images: number of served images.
        features: of the images; empty if there are none.
        other_models: number of hourly files that are of other models, and left out.
        problem: why there is no comparison, or empty; without a full stop.
    """

    bundle: ModelBundle
    since: datetime
    images: int
    features: list[FeatureDrift]
    other_models: int = 0
    problem: str = ""

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        changed = [TITLES[feature.name].lower() for feature in self.features if feature.has_changed]
        if self.problem:
            return f"{self.problem[0].upper()}{self.problem[1:]}."
        if not self.images:
            return "No images were served in these hours."
        if changed:
            return f"The served images differ from the training images: {', '.join(changed)}."
        if all(feature.level == "too few" for feature in self.features):
            return f"{self.images} images are too few: a test needs {MIN_SIZE} independent ones."
        return "No drift was found."


def make_report(
    bundle: ModelBundle, served: ServedImages, since: datetime, group_size: int
) -> DriftReport:
    """Compare served images with the training images of their model.

    Args:
        bundle: with a reference.
        served: images that it classified.
        since: the first hour, for the report.
        group_size: `serving.drift_group_size`.

    Raises:
        UserError: the bundle has no reference.
    """
    reference = get_reference(bundle)
    images = int(served.class_counts.sum())
    labels = list(map(bundle.label, bundle.classes))
    features = compare(reference, served, labels, group_size) if images else []
    return DriftReport(bundle, since, images, features)


def get_reference(bundle: ModelBundle) -> DriftReference:
    """Return the bundle's reference.

    Raises:
        UserError: it has none, because an older version trained it.
    """
    if bundle.drift_reference is None:
        raise UserError(
            f"model {bundle.model_id} has no distribution of its training images, because an older "
            "version trained it; run dvc repro or python main.py to train it again"
        )
    return bundle.drift_reference


def report_of_stored(
    bundle_dir: Path, folder: Path, since: datetime, group_size: int
) -> DriftReport:
    """Compare what all servers stored in a folder.

    Args:
        bundle_dir: the model; images that others classified are left out.
        folder: `serving.drift_dir`.
        since: the first hour.
        group_size: `serving.drift_group_size`.

    Raises:
        BundleError: there is no model.
        UserError: it has no reference, or there is no such folder.
    """
    bundle = ModelBundle.read(bundle_dir)
    if not folder.is_dir():
        raise UserError(f"{folder} is missing; app.py makes it when it has served an image")
    served = read_served(folder, bundle, since)
    total = len(find_served_files(folder, "*", since))
    of_model = len(find_served_files(folder, bundle.model_id, since))
    return replace(make_report(bundle, served, since, group_size), other_models=total - of_model)


def read_served(
    folder: Path, bundle: ModelBundle, since: datetime, except_names: Collection[str] = ()
) -> ServedImages:
    """Add up the files of a model; damaged ones are left out with a warning.

    Args:
        folder: `serving.drift_dir`.
        bundle: the model, with a reference.
        since: the first hour.
        except_names: names of files to leave out.
    """
    reference = get_reference(bundle)
    served = ServedImages.empty(reference)
    for path in find_served_files(folder, bundle.model_id, since):
        if path.name in except_names:
            continue
        try:
            served.add(ServedImages.read(path, reference))
        except (OSError, ValueError) as error:
            logger.warning("%s: left out: %s", path, error)
    return served


def first_hour_of(hours: int) -> datetime:
    """Return the first of the last hours, the current one included, in UTC."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return now - timedelta(hours=hours - 1)


def parse_time(text: str) -> datetime:
    """Parse a date or time of ISO 8601; without a zone it is in UTC.

    Raises:
        UserError: the text isn't one.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"{text!r}: expected a time such as 2030-01-31 or 2030-01-31T09") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def format_report(report: DriftReport, disclaimer: str) -> str:
    """Format the report for a terminal, 79 columns wide."""
    return render_text("drift.txt", **_content(report, disclaimer))


def format_page(
    report: DriftReport, disclaimer: str, periods: Mapping[str, str | None] | None = None
) -> str:
    """Format the report as an HTML page.

    Args:
        report: from `make_report`.
        disclaimer: of the project.
        periods: text and address of the periods to choose from, None for the one that is shown;
            None: there is no choice, as in a file.
    """
    content = _content(report, disclaimer)
    return render_template_file(
        "cnnClassifier.evaluation", "drift.html", **content, periods=periods
    )


def _notes(report: DriftReport) -> list[str]:
    """Say what the numbers mean, and what they assume."""
    reference = get_reference(report.bundle)
    return [
        f"A change is significant if p, corrected by Holm's method, is below {MAX_FALSE_ALARMS}: "
        f"if nothing has changed, at most {MAX_FALSE_ALARMS:.0%} of such reports name a feature. "
        f"A significant change is small if the population stability index (PSI) is below "
        f"{MODERATE_PSI}, and large from {LARGE_PSI}. PSI by chance is its expected value if "
        "nothing has changed.",
        "Images of one group are alike and count as fewer independent ones; the last two columns "
        f"have their numbers. The training groups have {reference.group_size:.1f} images each. "
        "Served images are assumed to come in groups of this size, or in those of the requests if "
        "they are larger. If more related images are sent one by one, set serving.drift_group_size "
        "to their number; otherwise there are more false alarms.",
        "All features but the predicted class are compared with training images of the same "
        "predicted classes, so other shares of the classes change no other feature.",
    ]


def _content(report: DriftReport, disclaimer: str) -> dict[str, Any]:
    return {
        "report": report,
        "since": f"{report.since:%Y-%m-%d %H:%M} UTC",
        "titles": TITLES,
        "meanings": MEANINGS,
        "notes": _notes(report) if report.features else [],
        "synthetic_notice": SYNTHETIC,
        "disclaimer": disclaimer,
    }
