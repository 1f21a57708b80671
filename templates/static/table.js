// The results as a table that can be sorted, and the filter of both views.

import { collator, describeCandidate, duration, percent, sentence } from "./format.js";

const el = (id) => document.getElementById(id);
const UNFINISHED = 2; // sorts behind every probability
const COLUMNS = {
  position: (item, index) => index,
  file: (item) => item.name,
  prediction: (item) => item.result?.image ?? "",
  probability: (item) => item.result?.probability ?? UNFINISHED,
  note: (item) => notesOf(item).join(", "),
  time: (item) => item.result?.ms ?? Infinity,
  candidate: (item) => describeCandidate(item) ?? "",
};
const FILTERS = {
  uncertain: ["Uncertain", (item) => item.result?.uncertain],
  unfamiliar: ["Unfamiliar", (item) => item.result?.unfamiliar],
  failed: ["Failed", (item) => item.error],
  flagged: ["Flagged as wrong", (item) => item.flagged],
  disagrees: ["Candidate disagrees", (item) => item.result?.compared?.agrees === false],
};
let order = { column: "position", isDescending: false };

function notesOf(item) {
  if (item.error) return [sentence(item.error.message)];
  if (!item.result) return [item.isWaiting ? "waiting" : "working"];
  const { uncertain, unfamiliar } = item.result;
  return [
    ...(unfamiliar ? ["unfamiliar"] : []),
    ...(uncertain ? ["uncertain"] : []),
    ...(item.flagged ? [`flagged: ${item.model.labels[item.flagged]}`] : []),
  ];
}

/** @returns {boolean} whether the filter shows an item */
export function matches(item) {
  const text = el("filter-text").value.trim().toLowerCase();
  const choice = el("filter-class").value;
  if (text && !item.name.toLowerCase().includes(text)) return false;
  if (choice.startsWith("class:")) return item.result && `class:${item.result.class}` === choice;
  return !choice || FILTERS[choice][1](item);
}

/** Offer each predicted class, and each kind of note that there is. */
export function updateFilters(items) {
  const select = el("filter-class");
  const chosen = select.value;
  const classes = new Map();
  for (const { result } of items) if (result) classes.set(`class:${result.class}`, result.image);
  const notes = Object.entries(FILTERS).filter(([, [, isShown]]) => items.some(isShown));
  const options = [["", "All results"], ...classes, ...notes.map(([key, [text]]) => [key, text])];
  const current = [...select.options].map((option) => option.value).join();
  if (options.map(([key]) => key).join() === current) return;
  select.replaceChildren(...options.map(([key, text]) => new Option(text, key)));
  if (options.some(([key]) => key === chosen)) select.value = chosen;
}

/** @param {object[]} items in the order of the files */
export function showTable(items) {
  el("table").classList.toggle("no-candidate", !items.some((item) => item.result?.compared));
  const value = COLUMNS[order.column];
  const sign = order.isDescending ? -1 : 1;
  const compare = (a, b) => (typeof a === "string" ? collator.compare(a, b) : Math.sign(a - b));
  const rows = items.map((item, index) => ({ item, index, key: value(item, index) }));
  rows.sort((a, b) => sign * compare(a.key, b.key) || a.index - b.index);
  el("table-body").replaceChildren(...rows.filter(({ item }) => matches(item)).map(createRow));
  for (const button of document.querySelectorAll("[data-sort]")) {
    const isChosen = button.dataset.sort === order.column;
    const direction = order.isDescending ? "descending" : "ascending";
    button.parentElement.setAttribute("aria-sort", isChosen ? direction : "none");
  }
}

function createRow({ item, index }) {
  const row = document.createElement("tr");
  const { result } = item;
  const texts = [
    index + 1,
    "",
    result?.image ?? "–",
    result ? percent(result.probability) : "–",
    notesOf(item).join(", "),
    result ? duration(result.ms) : "–",
    describeCandidate(item) ?? "–",
  ];
  row.append(...texts.map((text, column) => createCell(column === 1 ? "th" : "td", text)));
  const button = document.createElement("button");
  const name = document.createElement("bdi");
  name.textContent = item.name;
  button.title = item.name;
  button.append(name);
  button.type = "button";
  button.addEventListener("click", () => item.card.open());
  row.children[1].scope = "row";
  row.children[1].append(button);
  row.classList.toggle("failed", Boolean(item.error));
  row.classList.toggle("disagrees", result?.compared?.agrees === false);
  row.classList.toggle("unreliable", Boolean(result?.unfamiliar));
  return row;
}

function createCell(tag, text) {
  const cell = document.createElement(tag);
  cell.textContent = text;
  return cell;
}

/** @param {() => void} onChange called after another order was chosen */
export function watchTable(onChange) {
  el("table").addEventListener("click", (event) => {
    const column = event.target.closest("[data-sort]")?.dataset.sort;
    if (!column) return;
    order = { column, isDescending: order.column === column && !order.isDescending };
    onChange();
  });
}
