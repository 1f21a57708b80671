"""Turn an image file's bytes into RGB pixels: the same way for validation, training, evaluation and serving."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cnnClassifier.entity.dicom_options import DicomInfo, DicomOptions
from cnnClassifier.imaging.dicom import read_dicom
from cnnClassifier.imaging.dicom_header import is_dicom
from cnnClassifier.utils.errors import ImageError

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".dcm", ".dicom"}
)
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
_AS_IT_IS = DicomOptions()
_MOST_PARTS = 50_000


@dataclass(frozen=True)
class DecodedImage:
    """An image as read.

    Attributes:
        pixels: uint8, (height, width, 3), RGB, upright.
        format: what the bytes are, such as `PNG`, whatever the file is called.
        mode: Pillow's word for the stored pixels, such as `RGBA` or `I;16`; of DICOM the photometric interpretation.
        frames: 1, or more where it is animated or has pages (2 then, they aren't counted); the first is taken. Of
            DICOM their number.
        rotated: whether the EXIF orientation turned or mirrored it.
        dicom: window and frame, where it is DICOM.
    """

    pixels: np.ndarray
    format: str
    mode: str
    frames: int
    rotated: bool
    dicom: DicomInfo | None = None

    @property
    def size(self) -> str:
        """Width and height, such as `512x382`."""
        return f"{self.pixels.shape[1]}x{self.pixels.shape[0]}"


def decode(data: bytes, max_pixels: int, reading: DicomOptions = _AS_IT_IS) -> DecodedImage:
    """Decode `data` into upright RGB.

    What the bytes are is told by their content. DICOM: see `read_dicom`. Of other images 16-bit grey is scaled from
    its own minimum and maximum; transparent parts become black; palettes and CMYK are converted; the EXIF orientation
    is applied; of an animation the first frame is taken.

    Args:
        data: a PNG, JPEG, BMP, GIF, TIFF, WebP or DICOM file.
        max_pixels: refuse more than these before any pixel is decoded.
        reading: window and frame of DICOM files.

    Raises:
        ImageError: `empty`, `not_an_image`, `corrupt`, `too_large`, `unsupported` or `no_such_frame`.
    """
    if not data:
        raise ImageError("empty", "the file is empty")
    if is_dicom(data):
        return _decode_dicom(data, max_pixels, reading)
    if _is_flooded(data):
        raise ImageError(
            "corrupt", f"the image has more than {_MOST_PARTS:,} chunks or markers; save it again"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow warns of large images and odd EXIF; max_pixels decides here
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise ImageError(
                        "too_large", f"{width}×{height} pixels; at most {max_pixels:,} are taken"
                    )
                frames = 1 + bool(
                    getattr(image, "is_animated", False)
                )  # n_frames walks through all of them
                image.seek(0)
                image.load()
                mode, kind = image.mode, str(image.format)
                rotated = 2 <= image.getexif().get(ExifTags.Base.Orientation, 1) <= 8
                pixels = np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            "not_an_image", "not a PNG, JPEG, BMP, GIF, TIFF, WebP or DICOM image"
        ) from None
    except Image.DecompressionBombError:
        raise ImageError(
            "too_large", f"too many pixels; at most {max_pixels:,} are taken"
        ) from None
    except MemoryError:
        raise ImageError("too_large", "the image needs more memory than there is") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError, …
        raise ImageError("corrupt", f"the image can't be decoded: {error}") from None
    return DecodedImage(pixels, kind, mode, frames, rotated)


def _is_flooded(data: bytes) -> bool:
    """Tell whether a PNG or JPEG has more parts than an honest one: Pillow reads millions of empty ones for seconds."""
    at, parts = (
        8
        if data.startswith(b"\x89PNG\r\n\x1a\n")
        else 2
        if data.startswith(b"\xff\xd8")
        else len(data),
        0,
    )
    while at + 4 <= len(data) and parts <= _MOST_PARTS:
        if data[0] == 0x89:
            at += 12 + int.from_bytes(data[at : at + 4])
        elif data[at] != 0xFF or data[at + 1] in (
            0x00,
            0xFF,
        ):  # padding or junk, which is passed over
            at += 1
        elif data[at + 1] == 0xDA:  # from the first scan on libjpeg reads
            break
        else:
            bare = 0xD0 <= data[at + 1] <= 0xD9
            at += 2 + (0 if bare else int.from_bytes(data[at + 2 : at + 4]))
        parts += 1
    return parts > _MOST_PARTS


def _decode_dicom(data: bytes, max_pixels: int, reading: DicomOptions) -> DecodedImage:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels, kind, facts = read_dicom(data, max_pixels, reading)
    except (ImageError, ImportError):
        raise
    except MemoryError:
        raise ImageError("too_large", "the image needs more memory than there is") from None
    except Exception:  # what pydicom and Pillow raise isn't told: it could quote the file
        raise ImageError(
            "corrupt", "the DICOM file's pixels can't be decoded; save it again"
        ) from None
    return DecodedImage(pixels, "DICOM", kind, facts.frames, False, facts)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.nan_to_num(np.asarray(image, dtype=np.float64))
        low, high = float(grey.min()), float(grey.max())
        scaled = (grey - low) * (255 / (high - low)) if high > low else np.zeros_like(grey)
        return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema()[0] == 255:
            return rgba.convert("RGB")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert(
            "RGB"
        )
    return image.convert("RGB")
