// Draw a class activation map in the colors of inferno, which are perceptually uniform and safe for color-blind users.

const STOPS = [
  [0, 0, 4], [27, 12, 65], [74, 12, 107], [120, 28, 109], [165, 44, 96],
  [207, 68, 70], [237, 105, 37], [251, 155, 6], [247, 209, 61], [252, 255, 164],
];

function writeColor(value, data, offset) {
  const position = value * (STOPS.length - 1);
  const low = Math.min(Math.floor(position), STOPS.length - 2);
  for (let channel = 0; channel < 3; channel++) {
    data[offset + channel] = STOPS[low][channel] + (position - low) * (STOPS[low + 1][channel] - STOPS[low][channel]);
  }
}

/** Weights of the four neighbors of a position between two samples (Catmull-Rom). */
function weights(t) {
  return [
    ((-0.5 * t + 1) * t - 0.5) * t,
    (1.5 * t - 2.5) * t * t + 1,
    ((-1.5 * t + 2) * t + 0.5) * t,
    (0.5 * t - 0.5) * t * t,
  ];
}

/** For each of `count` output pixels, the indices and weights of its input samples. */
function kernels(samples, count) {
  return Array.from({ length: count }, (_, pixel) => {
    const position = ((pixel + 0.5) * samples) / count - 0.5;
    const base = Math.floor(position);
    const indices = [-1, 0, 1, 2].map((step) => Math.min(samples - 1, Math.max(0, base + step)));
    return [indices, weights(position - base)];
  });
}

function interpolate([indices, factors], valueAt) {
  return indices.reduce((total, index, k) => total + factors[k] * valueAt(index), 0);
}

/**
 * Draw a map: high values are bright and opaque.
 *
 * @param {HTMLCanvasElement} canvas gets the image's aspect ratio
 * @param {number[][]} of the map, 0 to 1
 * @param {number} aspect width of the image divided by its height
 */
export function drawHeatmap(canvas, rows, aspect) {
  const longest = 320;
  canvas.width = Math.max(1, Math.round(aspect >= 1 ? longest : longest * aspect));
  canvas.height = Math.max(1, Math.round(aspect >= 1 ? longest / aspect : longest));
  const columnKernels = kernels(rows[0].length, canvas.width);
  const rowKernels = kernels(rows.length, canvas.height);
  const stretched = rows.map((row) => columnKernels.map((kernel) => interpolate(kernel, (x) => row[x])));
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let y = 0; y < canvas.height; y++) {
    for (let x = 0; x < canvas.width; x++) {
      const value = Math.min(1, Math.max(0, interpolate(rowKernels[y], (row) => stretched[row][x])));
      const offset = 4 * (y * canvas.width + x);
      writeColor(value, image.data, offset);
      image.data[offset + 3] = 255 * value;
    }
  }
  context.putImageData(image, 0, 0);
}
