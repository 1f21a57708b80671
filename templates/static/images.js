// Decode, shrink and save images. Only thumbnails of those that were on the screen stay in memory.

import { drawHeatmap } from "./heatmap.js";

const THUMBNAIL_SIZE = 640; // pixels of the longest side
const SAVED_SIZE = [512, 2048]; // limits of the longest side of a saved image

// The first bytes of the formats that browsers show; dots are any bytes.
const SIGNATURES = /^(\x89PNG|\xff\xd8\xff|GIF8|BM|RIFF.{4}WEBP)/s;

/**
 * @param {Blob} blob
 * @returns {Promise<boolean>} whether browsers show its format
 * @throws {DOMException} it can't be read
 */
export async function isDisplayable(blob) {
  const bytes = new Uint8Array(await blob.slice(0, 12).arrayBuffer());
  return SIGNATURES.test(String.fromCharCode(...bytes));
}

/**
 * Make a small version of an image.
 *
 * @param {Blob} blob
 * @returns {Promise<?{url: string, width: number, height: number}>} an object URL, to be revoked,
 *   and the size of the image itself; null if the browser can't decode it
 */
export async function makeThumbnail(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    return null;
  }
  const { width, height } = bitmap;
  try {
    const isSmall = Math.max(width, height) <= THUMBNAIL_SIZE;
    const small = isSmall ? blob : await toBlob(shrink(bitmap, THUMBNAIL_SIZE), "image/webp");
    return { url: URL.createObjectURL(small), width, height };
  } finally {
    bitmap.close();
  }
}

/** @returns {Blob} the content of a base64 data URI; fetch isn't allowed to read one */
export function blobOf(dataUri) {
  const [header, content] = dataUri.split(",");
  const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: header.slice("data:".length).split(";")[0] });
}

/**
 * Draw an image with its heat map and a caption below.
 *
 * @param {Blob} blob
 * @param {?number[][]} map
 * @param {number} opacity of the heat map, 0 to 1
 * @param {string[]} caption lines
 * @returns {Promise<Blob>} a PNG file
 */
export async function drawOverlay(blob, map, opacity, caption) {
  const bitmap = await createImageBitmap(blob);
  const longest = Math.max(bitmap.width, bitmap.height);
  const image = shrink(bitmap, Math.min(Math.max(longest, SAVED_SIZE[0]), SAVED_SIZE[1]));
  bitmap.close();
  if (map) {
    const heatmap = document.createElement("canvas");
    drawHeatmap(heatmap, map, image.width / image.height);
    const context = image.getContext("2d");
    context.globalAlpha = opacity;
    context.drawImage(heatmap, 0, 0, image.width, image.height);
  }
  return toBlob(addCaption(image, caption), "image/png");
}

function shrink(bitmap, longest) {
  const scale = longest / Math.max(bitmap.width, bitmap.height);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(scale * bitmap.width));
  canvas.height = Math.max(1, Math.round(scale * bitmap.height));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function addCaption(image, caption) {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d");
  const size = Math.max(14, Math.round(image.width / 40));
  const font = `${size}px system-ui, sans-serif`;
  canvas.width = Math.max(image.width, 320);
  context.font = font;
  const lines = caption.flatMap((line) => wrap(context, line, canvas.width - 2 * size));
  canvas.height = image.height + (1.4 * lines.length + 1) * size;
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, (canvas.width - image.width) / 2, 0);
  context.font = font; // a new size resets it
  context.fillStyle = "#111";
  lines.forEach((line, index) => {
    context.fillText(line, size, image.height + (1.4 * index + 1.5) * size);
  });
  return canvas;
}

function wrap(context, text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (context.measureText(longer).width <= width || !lines.at(-1)) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}

function toBlob(canvas, type) {
  return new Promise((resolve) => canvas.toBlob(resolve, type, 0.9));
}
