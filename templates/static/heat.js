// The class activation map as a picture: inferno, which grows evenly brighter and is told apart by the colour-blind too.

const STOPS = [
  [0, 0, 4], [27, 12, 65], [74, 12, 107], [120, 28, 109], [165, 44, 96],
  [207, 68, 70], [237, 105, 37], [251, 155, 6], [247, 209, 61], [252, 255, 164],
];

function colour(strength, into, at) {
  const place = strength * (STOPS.length - 1);
  const low = Math.min(Math.floor(place), STOPS.length - 2);
  for (let channel = 0; channel < 3; channel++) {
    into[at + channel] = STOPS[low][channel] + (place - low) * (STOPS[low + 1][channel] - STOPS[low][channel]);
  }
}

/** Weights of the four neighbours of a place between two samples (Catmull-Rom). */
function weights(t) {
  return [
    ((-0.5 * t + 1) * t - 0.5) * t,
    (1.5 * t - 2.5) * t * t + 1,
    ((-1.5 * t + 2) * t + 0.5) * t,
    (0.5 * t - 0.5) * t * t,
  ];
}

/** Which samples, with which weights, make each of `count` places between `samples` samples. */
function taps(samples, count) {
  return Array.from({ length: count }, (_, place) => {
    const at = ((place + 0.5) * samples) / count - 0.5;
    const base = Math.floor(at);
    const indices = [-1, 0, 1, 2].map((step) => Math.min(samples - 1, Math.max(0, base + step)));
    return [indices, weights(at - base)];
  });
}

function sum([indices, shares], valueAt) {
  return indices.reduce((total, index, k) => total + shares[k] * valueAt(index), 0);
}

/**
 * Draw a map; the stronger, the brighter and the less transparent.
 *
 * @param {HTMLCanvasElement} canvas gets the picture's aspect
 * @param {number[][]} rows of the map, 0 to 1
 * @param {number} aspect width of the picture by its height
 */
export function drawHeat(canvas, rows, aspect) {
  const longest = 320;
  canvas.width = Math.max(1, Math.round(aspect >= 1 ? longest : longest * aspect));
  canvas.height = Math.max(1, Math.round(aspect >= 1 ? longest / aspect : longest));
  const across = taps(rows[0].length, canvas.width);
  const down = taps(rows.length, canvas.height);
  const wide = rows.map((row) => across.map((tap) => sum(tap, (x) => row[x])));
  const context = canvas.getContext("2d");
  const picture = context.createImageData(canvas.width, canvas.height);
  for (let y = 0; y < canvas.height; y++) {
    for (let x = 0; x < canvas.width; x++) {
      const strength = Math.min(1, Math.max(0, sum(down[y], (row) => wide[row][x])));
      const at = 4 * (y * canvas.width + x);
      colour(strength, picture.data, at);
      picture.data[at + 3] = 255 * strength;
    }
  }
  context.putImageData(picture, 0, 0);
}
