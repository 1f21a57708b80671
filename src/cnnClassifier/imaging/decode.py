"""Decode an image file into RGB pixels, and scale them: the same in all stages and in serving."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cnnClassifier.entity.dicom_options import DEFAULT_DICOM_OPTIONS, DicomInfo, DicomOptions
from cnnClassifier.imaging.dicom import read_dicom
from cnnClassifier.imaging.dicom_header import is_dicom
from cnnClassifier.utils.errors import ImageError

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".dcm", ".dicom"}
)
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
_MAX_CHUNKS = 50_000


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image.

    Attributes:
        pixels: uint8, (height, width, 3), RGB, upright.
        format: from the content, such as `PNG`, whatever the file's suffix.
        mode: Pillow's mode of the stored pixels, such as `RGBA` or `I;16`; of DICOM files the
            photometric interpretation.
        frames: of DICOM files the number of frames; of others 2 where there are several.
        rotated: whether the EXIF orientation was applied.
        dicom: window and frame of a DICOM file.
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


def decode(
    data: bytes, max_pixels: int, dicom_options: DicomOptions = DEFAULT_DICOM_OPTIONS
) -> DecodedImage:
    """Decode `data` into upright RGB; the content decides the format.

    DICOM: see `read_dicom`. Of other images 16-bit gray is scaled from its own minimum and maximum,
    transparent pixels become black, palettes and CMYK are converted, the EXIF orientation is
    applied, and the first frame of an animation is used.

    Args:
        data: a PNG, JPEG, BMP, GIF, TIFF, WebP or DICOM file.
        max_pixels: refuse images with more, before any pixel is decoded.
        dicom_options: window and frame of DICOM files.

    Raises:
        ImageError: `empty`, `not_an_image`, `corrupt`, `too_large`, `unsupported` or
            `no_such_frame`.
    """
    if not data:
        raise ImageError("empty", "the file is empty")
    dicom = is_dicom(data)
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images, which max_pixels decides on; pydicom quotes values.
            warnings.simplefilter("ignore")
            if dicom:
                pixels, photometric, info = read_dicom(data, max_pixels, dicom_options)
                return DecodedImage(pixels, "DICOM", photometric, info.frames, False, info)
            return _decode_pillow(data, max_pixels)
    except (ImageError, ImportError):
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, EOFError, …
        raise _image_error(error, max_pixels, dicom) from None


def prepare(
    data: bytes,
    image_size: tuple[int, int, int],
    max_pixels: int,
    dicom_options: DicomOptions = DEFAULT_DICOM_OPTIONS,
) -> np.ndarray:
    """Turn a file's bytes into the model's input array.

    Args:
        data: an image file.
        image_size: (height, width, 3) of the model.
        max_pixels: refuse images with more.
        dicom_options: window and frame of DICOM files.

    Returns:
        uint8, `image_size`, RGB 0-255.

    Raises:
        ImageError: the bytes can't be used as an image.
    """
    return resize(decode(data, max_pixels, dicom_options).pixels, image_size)


def resize(pixels: np.ndarray, image_size: tuple[int, int, int]) -> np.ndarray:
    """Scale to the model's height and width, bilinear with antialiasing, whatever the aspect ratio.

    Args:
        pixels: uint8, (height, width, 3).
        image_size: (height, width, 3) of the model.

    Returns:
        uint8, `image_size`, RGB 0-255: the normalization is part of the model.
    """
    height, width, _ = image_size
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def shrink(pixels: np.ndarray, max_side: int) -> np.ndarray:
    """Scale down by a whole factor until no side is longer than `max_side`.

    Args:
        pixels: uint8, (height, width, 3); returned as it is where it is small enough.
        max_side: in pixels.
    """
    factor = -(-max(pixels.shape) // max_side)
    return pixels if factor == 1 else np.asarray(Image.fromarray(pixels).reduce(factor))


def _image_error(error: Exception, max_pixels: int, dicom: bool) -> ImageError:
    if isinstance(error, MemoryError):
        return ImageError("too_large", "the image needs more memory than there is")
    if dicom:  # the decoder's message could quote the patient
        return ImageError("corrupt", "the DICOM file's pixels can't be decoded; save it again")
    if isinstance(error, UnidentifiedImageError):
        return ImageError("not_an_image", "not a PNG, JPEG, BMP, GIF, TIFF, WebP or DICOM image")
    if isinstance(error, Image.DecompressionBombError):
        return ImageError("too_large", f"too many pixels; at most {max_pixels:,} are accepted")
    return ImageError("corrupt", f"the image can't be decoded: {error}")


def _decode_pillow(data: bytes, max_pixels: int) -> DecodedImage:
    if _has_too_many_chunks(data):
        raise ImageError(
            "corrupt", f"the image has more than {_MAX_CHUNKS:,} chunks or markers; save it again"
        )
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                "too_large", f"{width}×{height} pixels; at most {max_pixels:,} are accepted"
            )
        # Not n_frames, which reads all frames.
        frames = 2 if getattr(image, "is_animated", False) else 1
        image.seek(0)
        image.load()
        rotated = 2 <= image.getexif().get(ExifTags.Base.Orientation, 1) <= 8
        pixels = np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
        return DecodedImage(pixels, str(image.format), image.mode, frames, rotated)


def _has_too_many_chunks(data: bytes) -> bool:
    """Count the chunks of a PNG or JPEG: Pillow takes seconds to read millions of empty ones."""
    png, jpeg = data.startswith(b"\x89PNG\r\n\x1a\n"), data.startswith(b"\xff\xd8")
    if not png and not jpeg:
        return False
    position, chunks = 8 if png else 2, 0
    while position + 4 <= len(data) and chunks <= _MAX_CHUNKS:
        chunks += 1
        marker = data[position + 1]
        if png:
            position += 12 + int.from_bytes(data[position : position + 4])
        elif data[position] != 0xFF or marker in (0x00, 0xFF):  # padding, which is skipped
            position += 1
        elif marker == 0xDA:  # the first scan: from here on libjpeg reads
            break
        elif 0xD0 <= marker <= 0xD9:  # markers without a length
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return chunks > _MAX_CHUNKS


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        gray = np.nan_to_num(np.asarray(image, dtype=np.float64))
        low, high = float(gray.min()), float(gray.max())
        scaled = (gray - low) * (255 / (high - low)) if high > low else np.zeros_like(gray)
        return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, rgba).convert("RGB")
    return image.convert("RGB")
