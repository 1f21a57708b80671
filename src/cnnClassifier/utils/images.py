"""Images inside HTML and JSON."""

import base64
import io

import numpy as np
from PIL import Image


def image_data_uri(pixels: np.ndarray, image_format: str = "JPEG", **options: int) -> str:
    """Encode pixels as a data URI.

    Args:
        pixels: uint8, (height, width) or (height, width, 3), RGB.
        image_format: `JPEG` or `PNG`.
        **options: for Pillow's encoder, such as `quality=80` or `compress_level=1`.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{image_format.lower()};base64,{encoded}"
