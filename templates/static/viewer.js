// The enlarged image in a dialog: zoom with buttons, wheel or keys; move by dragging or scrolling.

import { drawHeatmap } from "./heatmap.js";

const MAX_ZOOM = 8;
const dialog = document.getElementById("zoom");
const stage = dialog.querySelector(".stage");
const sheet = dialog.querySelector(".sheet");
const image = dialog.querySelector("img");
const canvas = dialog.querySelector("canvas");
let zoom = 1; // 1: the whole image fits
let actions = {};

/**
 * @param {{name: string, image: Blob, picture: {width: number, height: number}, result: ?object}} item
 * @param {string} caption
 * @param {{save: () => void, step: (offset: number) => void}} itsActions
 */
export function showEnlarged(item, caption, itsActions) {
  actions = itsActions;
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(item.image);
  image.alt = item.name;
  canvas.hidden = !item.result?.map;
  const { width, height } = item.picture;
  if (!canvas.hidden) drawHeatmap(canvas, item.result.map, width / height);
  sheet.style.aspectRatio = `${width} / ${height}`;
  dialog.querySelector("h2").textContent = item.name;
  dialog.querySelector(".caption").textContent = caption;
  if (!dialog.open) dialog.showModal();
  setZoom(1);
  stage.focus();
}

/** Zoom around a point of the stage, by default its center. */
function setZoom(value, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
  const before = sheet.getBoundingClientRect();
  const frame = stage.getBoundingClientRect();
  const left = (frame.left + x - before.left) / before.width;
  const top = (frame.top + y - before.top) / before.height;
  zoom = Math.min(MAX_ZOOM, Math.max(1, value));
  const [width, height] = sheet.style.aspectRatio.split("/").map(Number);
  const fit = Math.min(stage.clientWidth, (stage.clientHeight * width) / height);
  sheet.style.width = `${fit * zoom}px`;
  dialog.querySelector("output").textContent = `${Math.round(100 * zoom)} %`;
  const after = sheet.getBoundingClientRect();
  const moveX = after.left + left * after.width - frame.left - x;
  const moveY = after.top + top * after.height - frame.top - y;
  stage.scrollBy(moveX, moveY);
}

const keys = {
  "+": () => setZoom(zoom * 1.25),
  "-": () => setZoom(zoom / 1.25),
  0: () => setZoom(1),
  PageUp: () => actions.step(-1),
  PageDown: () => actions.step(1),
};

dialog.addEventListener("keydown", (event) => {
  if (!keys[event.key] || event.ctrlKey) return;
  event.preventDefault();
  keys[event.key]();
});
dialog.addEventListener("click", ({ target }) => {
  const { key } = target.closest("[data-key]")?.dataset ?? {};
  if (key === "save") actions.save();
  else keys[key]?.();
});
dialog.addEventListener("close", () => {
  URL.revokeObjectURL(image.src);
  image.removeAttribute("src");
  canvas.width = 0;
});
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  const frame = stage.getBoundingClientRect();
  setZoom(zoom * 1.002 ** -event.deltaY, event.clientX - frame.left, event.clientY - frame.top);
});
stage.addEventListener("pointermove", (event) => {
  if (event.buttons && event.pointerType === "mouse") stage.scrollBy(-event.movementX, -event.movementY);
});
stage.addEventListener("dblclick", (event) => {
  const frame = stage.getBoundingClientRect();
  setZoom(zoom > 1 ? 1 : 3, event.clientX - frame.left, event.clientY - frame.top);
});
