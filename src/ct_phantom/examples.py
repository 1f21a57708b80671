"""Write the example images of the web page: `python -m ct_phantom.examples FOLDER`."""

import sys
from pathlib import Path

from PIL import Image

from ct_phantom.dataset import make_patient, render_slice
from ct_phantom.options import PhantomOptions

# No data set has this seed by default, so that no model was trained on these images.
_OPTIONS = PhantomOptions(slices=1, size=320, seed=271828)
_MASS_PATIENTS = (1, 8, 11)
_CLEAR_PATIENTS = (3, 4, 7)


def write_examples(folder: Path) -> None:
    """Write `mass-1.png` to `mass-3.png` and `clear-1.png` to `clear-3.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, patients in (("mass", _MASS_PATIENTS), ("clear", _CLEAR_PATIENTS)):
        for index, number in enumerate(patients, start=1):
            patient = make_patient(_OPTIONS, number)
            pixels = render_slice(_OPTIONS, patient, 0, lesion=kind == "mass")
            Image.fromarray(pixels).save(folder / f"{kind}-{index}.png")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_examples(Path(sys.argv[1]))
