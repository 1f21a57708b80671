"""Decode an image file into RGB pixels, and scale them: the same in all stages and in serving."""

import warnings
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH

from cnnClassifier.entity.dicom_options import DEFAULT_DICOM_OPTIONS, DicomInfo, DicomOptions
from cnnClassifier.imaging.dicom import read_dicom
from cnnClassifier.imaging.dicom_header import is_dicom
from cnnClassifier.imaging.limits import (
    UNLIMITED,
    BoundedFile,
    PixelBudget,
    check_blocks,
    check_size,
)
from cnnClassifier.utils.errors import ImageError

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".dcm", ".dicom"}
)
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
_STRIP_PIXELS = 1_000_000


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
    data: bytes,
    max_pixels: int,
    dicom_options: DicomOptions = DEFAULT_DICOM_OPTIONS,
    budget: PixelBudget = UNLIMITED,
) -> DecodedImage:
    """Decode `data` into upright RGB; the content decides the format.

    DICOM: see `read_dicom`. Of other images 16-bit gray is scaled from its own minimum and maximum,
    transparent pixels become black, palettes and CMYK are converted, the EXIF orientation is
    applied, and the first frame of an animation is used.

    Args:
        data: a PNG, JPEG, BMP, GIF, TIFF, WebP or DICOM file.
        max_pixels: refuse images with more, before any pixel is decoded; see `check_size`.
        dicom_options: window and frame of DICOM files.
        budget: shared by threads, to limit the memory of all.

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
                pixels, photometric, info = read_dicom(data, max_pixels, dicom_options, budget)
                return DecodedImage(pixels, "DICOM", photometric, info.frames, False, info)
            return _decode_pillow(data, max_pixels, budget)
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


def _decode_pillow(data: bytes, max_pixels: int, budget: PixelBudget) -> DecodedImage:
    check_blocks(data)
    with (
        Image.open(BoundedFile(data), formats=_FORMATS) as image,
        budget.use(check_size(*_decoded_size(image), max_pixels, _kind(image))),
    ):
        # Not n_frames, which reads all frames.
        frames = 2 if getattr(image, "is_animated", False) else 1
        image.seek(0)
        image.load()
        rotated = 2 <= image.getexif().get(ExifTags.Base.Orientation, 1) <= 8
        ImageOps.exif_transpose(image, in_place=True)
        pixels = _to_rgb(image)
        return DecodedImage(pixels, str(image.format), image.mode, frames, rotated)


def _decoded_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height, or those of a tile of a TIFF, which is decoded as a whole."""
    tags = getattr(image, "tag_v2", {})
    width, height = image.size
    return max(width, tags.get(TILEWIDTH, 0)), max(height, tags.get(TILELENGTH, 0))


def _kind(image: Image.Image) -> str:
    return f"{image.format} {image.info.get('compression', '')}".rstrip()


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Convert in strips of rows: copies of the whole image would take several times its memory."""
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    boxes = [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
    pixels = np.empty((height, width, 3), np.uint8)
    if image.mode.startswith("I") or image.mode == "F":
        ranges = [_gray_range(image.crop(box)) for box in boxes]
        low, high = min(ranges)[0], max(high for _, high in ranges)
        scale = 255 / (high - low) if high > low else 0.0
        for box in boxes:
            levels = ((_gray(image.crop(box)) - low) * scale).round().astype(np.uint8)
            pixels[box[1] : box[3]] = levels[..., np.newaxis]
        return pixels
    for box in boxes:
        pixels[box[1] : box[3]] = np.asarray(_strip_to_rgb(image.crop(box)))
    return pixels


def _gray_range(strip: Image.Image) -> tuple[float, float]:
    gray = _gray(strip)
    return float(gray.min()), float(gray.max())


def _gray(strip: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(strip, dtype=np.float64))


def _strip_to_rgb(strip: Image.Image) -> Image.Image:
    if strip.mode in ("RGBA", "LA", "PA") or "transparency" in strip.info:
        rgba = strip.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, rgba).convert("RGB")
    return strip.convert("RGB")
