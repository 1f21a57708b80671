// One prediction for each series: the images of a folder or of a DICOM series.

import { fetchJson } from "./api.js";
import { collator, percent, plural } from "./format.js";

const el = (id) => document.getElementById(id);
let shown = ""; // the request whose response is shown

/**
 * Return the files of a drop, with those in folders.
 *
 * @param {DataTransfer} transfer
 * @returns {Promise<File[]>} in the order of their paths; those of a folder have `folder`, its path
 */
export async function droppedFiles(transfer) {
  const files = [...transfer.files]; // it is empty after the event
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return files;
  const found = await Promise.all(entries.map((entry) => filesBelow(entry, "")));
  return found.flat();
}

async function filesBelow(entry, folder) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [Object.assign(file, { folder })];
  }
  const path = folder ? `${folder}/${entry.name}` : entry.name;
  const children = [];
  const reader = entry.createReader();
  let read;
  do {
    read = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // some at a time
    children.push(...read);
  } while (read.length);
  const visible = children.filter(({ name }) => !name.startsWith("."));
  visible.sort((a, b) => collator.compare(a.name, b.name));
  const found = await Promise.all(visible.map((child) => filesBelow(child, path)));
  return found.flat();
}

/**
 * @param {FileList} files of a chosen folder
 * @returns {File[]} the same as of a dropped one
 */
export function chosenFiles(files) {
  const visible = [...files].filter(({ webkitRelativePath: path }) => !/(^|\/)\./.test(path));
  visible.sort((a, b) => collator.compare(a.webkitRelativePath, b.webkitRelativePath));
  return visible.map((file) => {
    const folder = file.webkitRelativePath.split("/").slice(0, -1).join("/");
    return Object.assign(file, { folder });
  });
}

/** Show the series that have several images; the server computes their predictions. */
export async function showSeries(items, model) {
  const series = groupBySeries(items, model);
  const labels = series.map(([{ folder, result }]) => [folder, result.series].filter(Boolean).join(" · "));
  const images = series.flatMap((members, index) => members.map(({ result }) => {
    const { probabilities, unfamiliar } = result;
    return { series: String(index), probabilities, unfamiliar }; // without names
  }));
  const key = JSON.stringify([labels, images]);
  if (key === shown) return;
  shown = key;
  el("series").hidden = true;
  if (!series.length) return;
  try {
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify({ images });
    const response = await fetchJson("series", { method: "POST", body, headers });
    if (shown !== key) return;
    const predictions = response.series.sort((a, b) => a.series - b.series);
    const rows = predictions.map((found) => createRow(labels[found.series], found));
    el("series-body").replaceChildren(...rows);
    el("series").hidden = false;
  } catch {
    if (shown === key) shown = ""; // the next refresh tries it again
  }
}

/** @returns {object[][]} the items of each series that has several */
function groupBySeries(items, model) {
  const series = new Map();
  for (const item of items) {
    const name = item.result?.series ?? item.folder;
    if (!name || !item.result || item.result.model !== model?.model) continue;
    series.set(name, [...(series.get(name) ?? []), item]);
  }
  return [...series.values()].filter((members) => members.length > 1);
}

function createRow(name, found) {
  const notes = [
    ...(found.unfamiliar_images ? [`${plural(found.unfamiliar_images, "image")} unfamiliar`] : []),
    ...(found.uncertain ? ["uncertain"] : []),
  ];
  const texts = [name, found.image, percent(found.probability), found.images, notes.join(", ")];
  const row = document.createElement("tr");
  row.append(...texts.map((text, column) => {
    const cell = document.createElement(column ? "td" : "th");
    cell.textContent = text;
    return cell;
  }));
  row.firstElementChild.scope = "row";
  return row;
}
