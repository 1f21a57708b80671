"""Two evaluations side by side: what differs, whether by more than chance, and on which images."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cnnClassifier.evaluation.metrics import (
    NAMES,
    Outcome,
    figures,
    intervals_of_shares,
    percentiles,
    quick,
    resamples,
)
from cnnClassifier.utils.common import load_json
from cnnClassifier.utils.errors import UserError

SMALLER_IS_BETTER = ("loss", "brier", "ece")
_FEW_GROUPS = 20  # equal models were told apart by ROC AUC in 11% of 300 simulations with 12 groups, in 7% with 40


@dataclass(frozen=True)
class Evaluated:
    """What evaluation left of one model.

    Attributes:
        name: what people call it.
        classes: in the order of the columns of `outcome.probabilities`.
        positive_class: whose sensitivity is reported.
        synthetic: whether the images are the phantom's.
        paths: of the images.
        contents: sha256 of each image.
        outcome: predictions beside the truth.
        params: what it was made with, where that is known.
    """

    name: str
    classes: tuple[str, ...]
    positive_class: str
    synthetic: bool
    paths: tuple[str, ...]
    contents: tuple[str, ...]
    outcome: Outcome
    params: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, name: str, params: Mapping[str, str] | None = None) -> "Evaluated":
        """Read `scores.json` and `predictions.csv` from a folder.

        Raises:
            UserError: one of them is missing, damaged, or without the images' sha256.
        """
        mend = "run evaluation again"
        try:
            found = load_json(folder / "scores.json")
            classes, positive = tuple(found["classes"]), found["positive_class"]
            with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
                header, *rows = csv.reader(file)
            columns = dict(zip(header, zip(*rows, strict=True), strict=True))
            if "sha256" not in columns:
                raise UserError(f"{name}: its predictions.csv tells no image by its sha256; {mend}")
            first = (
                header.index("called") + 1
            )  # by place: a class may be called like another column
            probabilities = np.array(
                [row[first : first + len(classes)] for row in rows], np.float64
            )
            outcome = Outcome(
                np.array([classes.index(label) for label in columns["actual"]]),
                probabilities / probabilities.sum(axis=1, keepdims=True),
                np.array([classes.index(label) for label in columns["called"]]),
                np.unique(columns["group"], return_inverse=True)[1],
                classes.index(positive),
            )
            return cls(
                name,
                classes,
                positive,
                found["synthetic"],
                columns["path"],
                columns["sha256"],
                outcome,
                params or {},
            )
        except FileNotFoundError as error:
            raise UserError(
                f"{name}: no evaluation there: {Path(error.filename).name} is missing; {mend}"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise UserError(f"{name}: its evaluation is damaged ({error}); {mend}") from None

    def take(self, places: Sequence[int]) -> "Evaluated":
        """Return the images at `places` alone."""
        return replace(
            self,
            paths=tuple(self.paths[place] for place in places),
            contents=tuple(self.contents[place] for place in places),
            outcome=self.outcome.take(np.array(places, int)),
        )


@dataclass(frozen=True)
class Difference:
    """One figure of both, B minus A, with 95% intervals."""

    name: str
    a: float
    b: float
    a_interval: Sequence[float] | None
    b_interval: Sequence[float] | None
    low: float
    high: float

    @property
    def value(self) -> float:
        """B minus A."""
        return self.b - self.a

    @property
    def better(self) -> str:
        """`A` or `B` where the interval leaves out 0, else nothing."""
        if self.low <= 0 <= self.high:
            return ""
        return "B" if (self.low > 0) != (self.name in SMALLER_IS_BETTER) else "A"


@dataclass(frozen=True)
class Disagreement:
    """An image that the two call differently.

    Attributes:
        path: as A has it.
        actual: its class.
        a_called: by A.
        a_probability: of what A calls.
        b_called: by B.
        b_probability: of what B calls.
    """

    path: str
    actual: str
    a_called: str
    a_probability: float
    b_called: str
    b_probability: float

    @property
    def right(self) -> str:
        """`A`, `B` or `neither`."""
        return (
            "A"
            if self.a_called == self.actual
            else "B"
            if self.b_called == self.actual
            else "neither"
        )


@dataclass(frozen=True)
class Comparison:
    """What is known of two models.

    Attributes:
        a: the first, on the images that are compared.
        b: the second.
        paired: whether those are the same images.
        images: sentences on which images are compared, and what to beware of.
        differences: a row for each of `NAMES`.
        disagreements: the largest first; none where the images aren't the same.
        params: name and both values of each that differs.
    """

    a: Evaluated
    b: Evaluated
    paired: bool
    images: tuple[str, ...]
    differences: tuple[Difference, ...]
    disagreements: tuple[Disagreement, ...]
    params: tuple[tuple[str, str, str], ...]

    @property
    def synthetic(self) -> bool:
        """Whether the figures of either are of synthetic pictures."""
        return self.a.synthetic or self.b.synthetic


def compare(a: Evaluated, b: Evaluated, draws: int, seed: int) -> Comparison:
    """Compare two models on the images that both evaluated; where there are none, each on its own.

    The interval of a difference is from a bootstrap over groups that draws the same images for both (paired), or for
    each on its own.

    Args:
        a: the first.
        b: the second.
        draws: resamples of the bootstrap.
        seed: equal seeds give equal intervals.

    Raises:
        UserError: the classes aren't the same, or another one is the positive.
    """
    for what, of_a, of_b in (
        ("classes", sorted(a.classes), sorted(b.classes)),
        ("the positive class", [a.positive_class], [b.positive_class]),
    ):
        if of_a != of_b:
            raise UserError(
                f"{what} of {a.name}: {', '.join(of_a)}; of {b.name}: {', '.join(of_b)}: nothing can be compared"
            )
    places = _common(a, b)
    paired = _enough(a, [place for place, _ in places])
    counts = [_counted(a), _counted(b)]
    if paired:
        a, b = a.take([place for place, _ in places]), b.take([place for _, place in places])
        groups = _joined(a.outcome.groups, b.outcome.groups)
        a, b = (replace(side, outcome=replace(side.outcome, groups=groups)) for side in (a, b))
    if counts == [_counted(a)] * 2 and paired:
        images = f"Both evaluated the same {counts[0]}."
    elif paired:
        images = (
            f"The test sets differ: A has {counts[0]}, B {counts[1]}. Compared are the images that both have, by "
            f"content: {_counted(a)}."
        )
    else:
        images = (
            f"The test sets differ: A has {counts[0]}, B {counts[1]}; {len(places) or 'no'} images are in both. Each "
            "is judged on its own (unpaired): a part of the difference may be that of the images."
        )
    return Comparison(
        a,
        b,
        paired,
        (images, *_cautions(a, b)),
        tuple(_differences(a, b, paired, draws, seed)),
        tuple(_disagreements(a, b)) if paired else (),
        tuple(
            (key, a.params[key], b.params[key])
            for key in a.params
            if a.params[key] != b.params.get(key, a.params[key])
        ),
    )


def _common(a: Evaluated, b: Evaluated) -> list[tuple[int, int]]:
    """Return the places of the images that both evaluated, with one class for both."""
    places = {
        (digest, b.classes[label]): n
        for n, (digest, label) in enumerate(zip(b.contents, b.outcome.labels, strict=True))
    }
    known = (
        (digest, a.classes[label])
        for digest, label in zip(a.contents, a.outcome.labels, strict=True)
    )
    return [(place, places[key]) for place, key in enumerate(known) if key in places]


def _enough(a: Evaluated, places: Sequence[int]) -> bool:
    """Tell whether each class has two groups among the images at `places`."""
    taken = a.outcome.take(np.array(places, int))
    return all(
        len(np.unique(taken.groups[taken.labels == label])) > 1 for label in range(len(a.classes))
    )


def _joined(a_groups: np.ndarray, b_groups: np.ndarray) -> np.ndarray:
    """Return for each image a group that holds together what either evaluation holds together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    columns = b_groups + a_groups.max() + 1
    graph = coo_array((np.ones(len(columns)), (a_groups, columns)), shape=(columns.max() + 1,) * 2)
    return np.unique(connected_components(graph, directed=False)[1][a_groups], return_inverse=True)[
        1
    ]


def _counted(side: Evaluated) -> str:
    return f"{len(side.paths)} images in {len(np.unique(side.outcome.groups))} groups"


def _cautions(a: Evaluated, b: Evaluated) -> list[str]:
    said = []
    groups = min(len(np.unique(side.outcome.groups)) for side in (a, b))
    if groups < _FEW_GROUPS:
        said.append(
            f"With {groups} groups the intervals are narrower than they should be: trust no close call."
        )
    if a.synthetic != b.synthetic:
        said.append("One of the two was tested on synthetic pictures, the other on real ones.")
    return said


def _differences(
    a: Evaluated, b: Evaluated, paired: bool, draws: int, seed: int
) -> Iterator[Difference]:
    values = [figures(side.outcome) for side in (a, b)]
    shares = [intervals_of_shares(side.outcome) for side in (a, b)]
    drawn = _draw(a.outcome, b.outcome, paired, draws, seed)
    limits = [percentiles(found).tolist() for found in (drawn[0], drawn[1], drawn[1] - drawn[0])]
    for place, name in enumerate(NAMES):
        of_a, of_b = (shares[side].get(name, limits[side][place]) for side in (0, 1))
        yield Difference(name, values[0][name], values[1][name], of_a, of_b, *limits[2][place])


def _draw(a: Outcome, b: Outcome, paired: bool, draws: int, seed: int) -> np.ndarray:
    """Return the figures of both in each resample: (2, draws, figures); draws that lose a class are left out."""
    of_a = resamples(a.groups, draws, seed)
    # One seed draws the same groups for both; of two test sets it would make independent figures look alike.
    of_b = resamples(b.groups, draws, seed if paired else seed + 1)
    found = []
    with quick():
        for a_places, b_places in zip(of_a, of_b, strict=True):
            drawn = a.take(a_places), b.take(b_places)
            if all(len(np.unique(x.labels)) == x.probabilities.shape[1] for x in drawn):
                found.append([list(figures(x).values()) for x in drawn])
    return np.array(found).swapaxes(0, 1)


def _disagreements(a: Evaluated, b: Evaluated) -> list[Disagreement]:
    found = []
    for place, path in enumerate(a.paths):
        calls = [x.classes[x.outcome.called[place]] for x in (a, b)]
        if calls[0] != calls[1]:
            chances = [
                float(x.outcome.probabilities[place, x.outcome.called[place]]) for x in (a, b)
            ]
            actual = a.classes[a.outcome.labels[place]]
            found.append(Disagreement(path, actual, calls[0], chances[0], calls[1], chances[1]))
    return sorted(found, key=lambda item: -(item.a_probability + item.b_probability))
