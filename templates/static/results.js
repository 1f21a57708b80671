// The images with their results: the list, its two views, and the toolbar above them.

import { toCsv } from "./csv.js";
import { download, duration, percent, plural } from "./format.js";
import { blobOf, makeThumbnail } from "./images.js";
import { closeMessage, showMessage } from "./messages.js";
import { showSeries } from "./series.js";
import { loadResults, saveResults } from "./storage.js";
import { matches, showTable, updateFilters, watchTable } from "./table.js";

const MAX_CLASS_COUNTS = 4; // classes that the summary counts
const OUTCOME_INTERVAL_MS = 200; // between the results that are shown
const el = (id) => document.getElementById(id);
const itemOf = new WeakMap(); // by the card's element

export let items = []; // in the order in which they were added
let view = "cards";
let outcomes = []; // that aren't shown yet
let outcomeTimer = 0;
let unannounced = [];

const observer = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const item = itemOf.get(target);
      item.card.setVisible(isIntersecting);
      if (isIntersecting && item.image) loadPicture(item);
    }
  },
  { rootMargin: "50%" },
);

const isFinished = (item) => Boolean(item.result || item.error);
export const isUnsaved = (item) => !item.isExample && !item.error && !item.isExported;

/** Add an item, with its card, at the end. */
export function append(item) {
  items.push(item);
  attach(item);
}

function attach(item) {
  itemOf.set(item.card.element, item);
  place(item);
  observer.observe(item.card.element);
}

/** Put a card into the list of cards or, as a row, into that of failures, in the items' order. */
export function place(item) {
  const { element } = item.card;
  const list = item.error ? el("failures") : el("cards");
  if (element.parentElement === list) return;
  const hasFocus = element.contains(document.activeElement);
  const following = items.slice(items.indexOf(item) + 1).map((other) => other.card.element);
  list.insertBefore(element, following.find((other) => other.parentElement === list) ?? null);
  if (hasFocus) element.querySelector("button:not([hidden] *, [hidden])").focus();
}

/** Decode an image and show its thumbnail; returns null if the browser can't. */
export function loadPicture(item) {
  const { image } = item;
  item.loading ??= makeThumbnail(image).then((picture) => {
    if (item.image !== image) return null; // a preview has replaced it
    item.picture = picture;
    item.card.showPicture();
    if (item.isDiscarded) discard([item]);
    return picture;
  });
  return item.loading;
}

/** Show the server's preview of a file that the browser can't decode. */
export async function showPreview(item, dataUri) {
  const old = item.picture;
  item.image = blobOf(dataUri);
  item.loading = null;
  if (item.card.isVisible) await loadPicture(item);
  if (old) URL.revokeObjectURL(old.url);
}

/** Show an item's result or error; several at once, as every change costs the browser a frame. */
export function showOutcome(item) {
  outcomes.push(item);
  if (!outcomeTimer) showOutcomes();
}

function showOutcomes() {
  outcomeTimer = 0;
  if (!outcomes.length) return;
  for (const item of outcomes) {
    if (item.error) item.card.showError();
    else if (item.result) item.card.showResult();
    if (items.includes(item)) place(item);
  }
  unannounced.push(...outcomes);
  outcomes = [];
  update();
  if (items.every(isFinished)) {
    announce(unannounced.length === 1 ? describe(unannounced[0]) : summarize(unannounced));
    unannounced = [];
  }
  outcomeTimer = setTimeout(showOutcomes, OUTCOME_INTERVAL_MS);
}

/** Remove items; they can be put back until the message about it is closed. */
export function remove(removed, restart) {
  const before = items;
  const index = items.indexOf(removed[0]);
  const what = removed.length === 1 ? removed[0].name : `${removed.length} images`;
  items = items.filter((item) => !removed.includes(item));
  for (const { card } of removed) {
    observer.unobserve(card.element);
    card.setVisible(false);
    card.element.remove();
  }
  const undo = () => {
    items = [...before, ...items.filter((item) => !before.includes(item))];
    removed.forEach(attach);
    for (const item of removed) if (!isFinished(item)) restart(item);
    update();
    (items.length ? removed[0].card.element.querySelector(".remove") : el("file")).focus();
  };
  const options = { action: { label: "Undo", run: undo }, onClose: () => discard(removed) };
  const button = showMessage("removed", `${what} removed.`, options);
  update();
  const next = items[Math.min(index, items.length - 1)];
  (next?.card.element.querySelector(".remove") ?? button).focus();
}

function discard(removed) {
  for (const item of removed) {
    item.isDiscarded = true;
    if (item.picture) URL.revokeObjectURL(item.picture.url);
  }
}

/** Show the results of before a reload. */
export function restore(createCard) {
  for (const kept of loadResults()) {
    const item = { file: null, image: null, picture: null, error: null, isWaiting: false, ...kept };
    item.card = createCard(item);
    append(item);
    item.card.showResult();
  }
  if (!items.length) return;
  const text = `${plural(items.length, "result")} restored. A reload keeps results, not images.`;
  showMessage("restored", text);
  refresh();
}

// The toolbar

let model = null; // that the server uses now

export function showModel(current) {
  model = current;
  refresh();
}

/** Update everything that depends on several items. */
export function refresh() {
  const finished = items.filter(isFinished).length;
  const isBusy = finished < items.length;
  el("results").hidden = items.length === 0;
  el("hints").hidden = items.length > 0;
  document.body.classList.toggle("has-results", items.length > 0);
  el("export").disabled = finished === 0;
  el("progress").hidden = !isBusy;
  el("progress").max = items.length;
  el("progress").value = finished;
  const progress = `${finished} of ${plural(items.length, "image")}`;
  el("count").textContent = isBusy ? progress : summarize(items);
  el("facts").textContent = describeModel();
  el("filters").hidden = items.length < 2;
  const isSynthetic = Boolean(model?.synthetic || items.some((item) => item.result?.synthetic));
  el("synthetic").hidden = !isSynthetic;
  el("disclaimer").hidden = !isSynthetic && !el("disclaimer-text").textContent;
  for (const item of items) item.card.showModel(model);
  updateFilters(items);
  if (!isBusy) showSeries(items, model);
  showView();
}

export function update() {
  saveResults(items.filter((item) => item.result));
  refresh();
}

function showView() {
  for (const item of items) item.card.element.hidden = !matches(item);
  el("no-match").hidden = items.some(matches);
  for (const id of ["cards", "failures"]) el(id).hidden = view === "table";
  el("table").hidden = view !== "table";
  const hasHeatmap = items.some((item) => item.picture && item.result?.map?.length);
  el("heatmap-tools").hidden = view === "table" || !hasHeatmap;
  if (view === "table") showTable(items);
}

/** @param {string} name `cards` or `table` */
export function chooseView(name) {
  view = name;
  document.querySelector(`[name=view][value=${name}]`).checked = true;
  showView();
}

/** Show the card of an item, from the table. */
export function reveal(item) {
  chooseView("cards");
  item.card.element.scrollIntoView({ block: "center" });
  item.card.element.querySelector("button:not([hidden] *, [hidden])").focus();
}

function describeModel() {
  const times = items.map((item) => item.result?.ms).filter((ms) => ms !== undefined);
  const { backbone, labels, positive_class: positive, threshold } = model ?? {};
  const facts = model ? [`Model ${backbone} · ${model.model}`] : [];
  if (typeof threshold === "number") {
    facts.push(`Decision threshold for ${labels[positive]}: ${percent(threshold)}`);
  }
  const compared = items.filter((item) => typeof item.result?.compared?.agrees === "boolean");
  if (compared.length) {
    const agreeing = compared.filter((item) => item.result.compared.agrees).length;
    facts.push(`Candidate agrees on ${agreeing} of ${compared.length}`);
  }
  if (times.length) facts.push(`${duration(median(times))} per image (median)`);
  return facts.join(" · ");
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

/** Count the predicted classes, if there are few, and what to look at. */
function summarize(chosen) {
  if (chosen.length === 1) return "1 image";
  const count = (condition, name) => {
    const number = chosen.filter(condition).length;
    return number ? [`${number} ${name}`] : [];
  };
  const classes = [...new Set(chosen.flatMap(({ result }) => result?.image ?? []))];
  const predicted = classes.length > MAX_CLASS_COUNTS
    ? [`${classes.length} classes`]
    : classes.flatMap((name) => count(({ result }) => result?.image === name, name));
  const notes = [
    ...count(({ result }) => result?.uncertain, "uncertain"),
    ...count(({ result }) => result?.unfamiliar, "unfamiliar"),
    ...count(({ error }) => error, "failed"),
  ];
  const parts = [predicted, notes].filter((part) => part.length).map((part) => part.join(", "));
  return `${plural(chosen.length, "image")}: ${parts.join("; ")}`;
}

function describe({ name, result, error }) {
  if (error) return `${name}: ${error.message}`;
  const notes = [
    result.unfamiliar ? " Unfamiliar image: don’t rely on this result." : "",
    result.uncertain ? " Uncertain." : "",
  ];
  return `${name}: ${result.image}, ${percent(result.probability)}.${notes.join("")}`;
}

function announce(text) {
  el("announcement").textContent = text;
}

function exportCsv() {
  const finished = items.filter(isFinished);
  const time = new Date().toISOString().slice(0, 19).replaceAll(":", "");
  const csv = toCsv(finished, document.body.dataset.disclaimer);
  download(new Blob(["\ufeff", csv], { type: "text/csv;charset=utf-8" }), `predictions-${time}.csv`);
  for (const item of finished) item.isExported = true;
  update();
}

el("export").addEventListener("click", exportCsv);
window.addEventListener("beforeprint", () => items.forEach(({ card }) => card.setVisible(true)));
window.addEventListener("afterprint", () => items.forEach(({ card }) => {
  observer.unobserve(card.element);
  observer.observe(card.element); // reports again whether it is visible
}));
for (const radio of document.getElementsByName("view")) {
  radio.addEventListener("change", () => chooseView(radio.value));
}
for (const id of ["filter-text", "filter-class"]) el(id).addEventListener("input", showView);
watchTable(showView);
