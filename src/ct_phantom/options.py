"""Options of a data set, and how they are written in a URL."""

from dataclasses import dataclass, fields

SCHEME = "phantom:"
EXAMPLE = "phantom:patients=40,slices=2,size=256,seed=7"

_RANGES: dict[str, tuple[float, float]] = {
    "patients": (2, 9999),
    "slices": (1, 20),
    "size": (64, 1024),
    "seed": (0, 2**31 - 1),
    "lesion_mm_min": (10, 100),
    "lesion_mm_max": (10, 100),
    "noise": (0, 10),
    "window_jitter": (0, 1),
    "classes": (2, 4),
}


@dataclass(frozen=True)
class PhantomOptions:
    """Options of a data set. The same options give the same bytes.

    Attributes:
        patients: number of patients, 2 to 9999.
        slices: neighbouring slices per patient, 1 to 20.
        size: side of the square images in pixels, 64 to 1024.
        seed: of the random numbers.
        lesion_mm_min: smallest diameter of a lesion, 10 to 100 mm.
        lesion_mm_max: largest diameter of a lesion, 10 to 100 mm; a large cell carcinoma is 1.3
            times as large.
        noise: noise of the scanner, 0 to 10; 1 is the usual amount.
        window_jitter: variation of the display windows, 0 (one lung window for all) to 1.
        classes: 2 to 4, of equally many patients: normal, adenocarcinoma, large.cell.carcinoma
            and squamous.cell.carcinoma.

    Raises:
        ValueError: a value is out of its range.
    """

    patients: int = 200
    slices: int = 2
    size: int = 256
    seed: int = 0
    lesion_mm_min: float = 38
    lesion_mm_max: float = 64
    noise: float = 1.0
    window_jitter: float = 0.4
    classes: int = 2

    def __post_init__(self) -> None:
        for key, (low, high) in _RANGES.items():
            value = getattr(self, key)
            if not low <= value <= high:
                raise _range_error(key, value)
        if self.lesion_mm_min > self.lesion_mm_max:
            raise ValueError(
                f"{SCHEME} lesion_mm_min: expected at most lesion_mm_max, "
                f"{self.lesion_mm_max:g}, found {self.lesion_mm_min:g}; "
                f"for example {SCHEME}lesion_mm_min=40,lesion_mm_max=60"
            )


def parse_phantom(url: str) -> PhantomOptions:
    """Read the options from a URL such as `phantom:` or `phantom:patients=40,slices=2`.

    Raises:
        ValueError: a key is unknown or repeated, or a value is out of its range.
    """
    if not url.startswith(SCHEME):
        raise ValueError(f"{url}: expected a URL that starts with {SCHEME}, for example {EXAMPLE}")
    types = _types()
    options: dict = {}
    for item in url.removeprefix(SCHEME).split(","):
        if not item.strip():
            continue
        key, _, text = item.partition("=")
        key = key.strip()
        if key not in types:
            raise ValueError(
                f"{SCHEME} {key}: unknown key; expected one of {', '.join(types)}; "
                f"for example {EXAMPLE}"
            )
        if key in options:
            raise ValueError(f"{SCHEME} {key}: expected once, found twice; for example {EXAMPLE}")
        try:
            options[key] = types[key](text)
        except ValueError:
            raise _range_error(key, repr(text.strip())) from None
    return PhantomOptions(**options)


def _types() -> dict[str, type]:
    return {field.name: type(field.default) for field in fields(PhantomOptions)}


def _range_error(key: str, value: object) -> ValueError:
    low, high = _RANGES[key]
    kind = "a whole number" if _types()[key] is int else "a number"
    return ValueError(
        f"{SCHEME} {key}: expected {kind} from {low:g} to {high:.10g}, found {value}; "
        f"for example {EXAMPLE}"
    )
