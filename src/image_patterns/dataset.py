"""Draw groups of images; a class has its texture, the scale of that texture, and its motif."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from image_patterns.options import PatternOptions


def write_patterns(
    folder: Path, options: PatternOptions, on_group: Callable[[], object] = lambda: None
) -> int:
    """Write a data set as RGB files, `<class>/group0001_image01.png`; return their number."""
    for index, name in enumerate(options.classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for group in range(options.groups):
            # The classes take turns, so that a group's number says nothing about its class.
            number = group * len(options.classes) + index + 1
            for image, pixels in enumerate(_draw_group(options, index, number), start=1):
                path = folder / name / f"group{number:04d}_image{image:02d}.png"
                # Uncompressed, so that the file size says nothing about the class.
                Image.fromarray(pixels).save(path, compress_level=0)
            on_group()
    return len(options.classes) * options.groups * options.images


def _draw_group(options: PatternOptions, index: int, number: int) -> list[np.ndarray]:
    """Draw the images of a group, uint8 (size, size, 3): the same colours, texture and light.

    Only the kind and scale of the texture and the motif's shape depend on the class, `index`.
    """
    rng, size = np.random.default_rng([options.seed, number]), options.size
    texture = _draw_texture(rng, size, index) * rng.choice([-1, 1])
    light = _draw_noise(rng, size, 1.5)
    background = rng.uniform(70, 180, 3)
    contrast = options.contrast / 100 * rng.uniform(20, 40) * rng.uniform(0.5, 1.5, 3)
    edge = options.contrast / 100 * rng.choice([-1, 1]) * rng.uniform(50, 90, 3)
    center, angle = rng.uniform(0.25, 0.75, 2), rng.uniform(0, 2 * np.pi)
    images = []
    for _ in range(options.images):
        shift = rng.integers(-size // 12, size // 12, 2, endpoint=True)
        pixels = background + np.roll(texture, shift, (0, 1))[..., None] * contrast
        place = center + rng.uniform(-0.05, 0.05, 2)
        motif = _draw_motif(size, index, place, angle + rng.uniform(-0.3, 0.3))[..., None]
        pixels += motif * (background + edge - pixels)
        pixels += 15 * light[..., None] + rng.normal(0, 6, pixels.shape)
        images.append(pixels.clip(0, 255).round().astype(np.uint8))
    return images


def _draw_texture(rng: np.random.Generator, size: int, index: int) -> np.ndarray:
    """Draw one of 5 textures on one of 4 scales: (size, size), mean 0, standard deviation 1."""
    row, kind = divmod(index, 5)
    # In cycles per image. Coarser textures would be seen in thumbnails.
    frequency, angle = 9 * 1.45 ** ((row + kind) % 4), rng.uniform(0, np.pi)
    noise = _draw_noise(rng, size, frequency, angle, stretch=5 if kind in (1, 4) else 1)
    if kind == 2:  # veins; 0 are clouds, 1 streaks
        noise = np.abs(noise)
    elif kind == 3:  # patches
        noise = np.tanh(5 * noise)
    elif kind == 4:  # weave
        noise = np.maximum(noise, _draw_noise(rng, size, frequency, angle + np.pi / 2, stretch=5))
    return np.asarray((noise - noise.mean()) / noise.std())


def _draw_noise(
    rng: np.random.Generator, size: int, frequency: float, angle: float = 0, stretch: float = 1
) -> np.ndarray:
    """Draw periodic band-pass noise, (size, size); `stretch` is a grain's length by its width."""
    y, x = np.meshgrid(*[np.fft.fftfreq(size, 1 / size)] * 2, indexing="ij")
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    band = np.exp(-(((np.hypot(along * stretch, across) / frequency - 1) / 0.3) ** 2))
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) * band).real
    return np.asarray(noise / noise.std())


def _draw_motif(size: int, index: int, center: np.ndarray, angle: float) -> np.ndarray:
    """Draw a flower of 2 to 6 petals, whose area is always the same: (size, size), 0 to 1."""
    # 5 textures, 4 scales and 5 motifs are 100 combinations; neighbours differ in all three.
    petals = 2 + (index + index // 20) % 5
    y, x = (np.indices((size, size)) + 0.5) / size - center[:, None, None]
    radius = 0.13 * (1 + 0.4 * np.cos(petals * (np.arctan2(y, x) + angle)))
    return np.asarray(np.clip((radius - np.hypot(x, y)) * size + 0.5, 0, 1))
