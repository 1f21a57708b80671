"""The texts on every page, card and table with a result; and which data is synthetic."""

MEDICAL_DISCLAIMER = "Not a medical device: for research and teaching only, never for a diagnosis."
SYNTHETIC = "Trained and tested on synthetic images: these metrics say nothing about real images."
PHANTOM_SCHEME = "phantom:"
SYNTHETIC_SCHEMES = (PHANTOM_SCHEME, "patterns:")


def is_synthetic(source_url: str) -> bool:
    """Tell by its scheme whether a data source is one of the generators."""
    return source_url.strip().startswith(SYNTHETIC_SCHEMES)
