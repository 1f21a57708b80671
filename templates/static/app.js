// The upload page: images in, results out.

import { ApiError, fetchJson, predict } from "./api.js";
import { Card } from "./card.js";
import { download, toCsv } from "./csv.js";
import { fileSize, percent, plural } from "./format.js";
import { Queue } from "./queue.js";
import { ModelStatus } from "./status.js";

const CONCURRENCY = 2;
const MAX_ITEMS = 100;
const MAX_ATTEMPTS = 6;
const el = (id) => document.getElementById(id);
const maxBytes = Number(document.body.dataset.maxUploadBytes);

let items = []; // newest first
let examplesModel = null;
const queue = new Queue(classify, CONCURRENCY);
const status = new ModelStatus(() => {
  if (status.model) {
    queue.resume();
    const labels = Object.values(status.model.labels);
    el("synthetic").hidden = !status.model.synthetic;
    el("disclaimer").hidden = !status.model.synthetic && !el("disclaimer-text").textContent;
    if (labels.length <= 4) el("subtitle").textContent = `Upload ${document.body.dataset.imageTerm}s. The result shows the class (${labels.join(" or ")}), its probability and a heat map.`;
    if (status.model.model !== examplesModel) showExamples(status.model.model);
  } else {
    queue.pause();
  }
  for (const item of items) if (item.waiting) item.card.showProgress(waitingText(), null, true);
});

function waitingText() {
  return queue.paused ? "Waiting for the model; continues automatically." : "Waiting in the queue.";
}

// Adding files

function add(files) {
  const accepted = [...files].slice(0, MAX_ITEMS - items.length);
  const skipped = files.length - accepted.length;
  if (skipped) announce(`The page shows at most ${MAX_ITEMS} images: ${plural(skipped, "file")} skipped. Clear some results first.`, true);
  for (const file of accepted) addOne(file);
}

function addChosen() {
  add(el("file").files);
  el("file").value = "";
}

function addOne(file) {
  const item = { file, name: file.name || "Pasted image", url: URL.createObjectURL(file), at: new Date(), waiting: true, result: null, error: null, failures: 0 };
  item.card = new Card(item, {
    remove: () => remove(item),
    cancel: () => cancel(item),
    retry: () => enqueue(item),
    update: () => enqueue(item, true),
  });
  items.unshift(item);
  el("cards").prepend(item.card.element);
  refresh();
  enqueue(item);
}

function enqueue(item, first = false) {
  item.abortController?.abort();
  item.error = null;
  item.waiting = true;
  item.card.showProgress(waitingText(), null, true);
  queue.add(item, first);
  refresh();
}

function cancel(item) {
  queue.remove(item);
  item.abortController?.abort();
  finish(item, new ApiError("cancelled", "Cancelled."));
}

function remove(item) {
  const index = items.indexOf(item);
  queue.remove(item);
  item.abortController?.abort();
  items = items.filter((other) => other !== item);
  item.card.element.remove();
  URL.revokeObjectURL(item.url);
  refresh();
  const next = items[Math.min(index, items.length - 1)];
  (next?.card.element.querySelector(".remove") ?? el("file")).focus();
}

// Classification

async function classify(item) {
  item.abortController = new AbortController();
  const { signal } = item.abortController;
  item.waiting = false;
  try {
    await checkFile(item.file);
    item.hasPreview ??= await item.card.showFile();
    const options = { map: "true", ...(item.hasPreview ? {} : { preview: "true" }), ...item.card.options };
    const start = performance.now();
    const result = await predictWithRetries(item, options, signal);
    const milliseconds = performance.now() - start;
    if (result.model !== status.model?.model) status.model = await fetchJson("model");
    if (!signal.aborted) finish(item, null, result, milliseconds);
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof ApiError)) throw error;
    const isUnavailable = error.code === "offline" || error.code === "signed_out" || error.hasNoModel;
    if (isUnavailable && ++item.failures < MAX_ATTEMPTS) {
      status.invalidate();
      enqueue(item, true);
    } else {
      finish(item, error);
    }
  }
}

async function checkFile(file) {
  if (file.size > maxBytes) throw new ApiError("too_large", `The file has ${fileSize(file.size)}; the limit is ${fileSize(maxBytes)}.`);
  if (file.size === 0) throw new ApiError("empty", "The file is empty.");
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new ApiError("unreadable", "The browser can’t read the file. Is it a folder, or was it moved?");
  }
}

/** Send an image; if the server lacks capacity, wait as long as it requests and try again. */
async function predictWithRetries(item, options, signal) {
  for (let attempt = 1; ; attempt++) {
    item.card.showProgress("Uploading…", 0);
    const onProgress = (fraction) => item.card.showProgress(fraction < 1 ? `Uploading, ${Math.round(100 * fraction)} %` : "Classifying…", fraction < 1 ? fraction : null);
    try {
      return await predict(item.file, options, onProgress, signal);
    } catch (error) {
      if (!error.isTemporary || attempt === MAX_ATTEMPTS) throw error;
      const reason = error.status === 429 ? "Rate limit reached" : "The server is busy";
      for (let seconds = Math.ceil(error.retryAfter || attempt); seconds > 0; seconds--) {
        item.card.showProgress(`${reason}: next attempt in ${seconds} s (${attempt} of ${MAX_ATTEMPTS - 1}).`);
        await delay(1000, signal);
      }
    }
  }
}

function delay(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new ApiError("cancelled", "Cancelled."));
    });
  });
}

function finish(item, error, result = null, milliseconds = 0) {
  Object.assign(item, { error, result, waiting: false, failures: 0, at: new Date() });
  if (error) {
    const canRetry = ["cancelled", "unreadable", "invalid_response", "offline"].includes(error.code) || error.status === 429 || error.status >= 500;
    item.card.showError(error.message, canRetry);
  } else {
    item.card.showResult(result, status.model, milliseconds);
    announce(`${item.name}: ${result.image}, ${percent(result.probability)}.${result.unfamiliar ? " Unfamiliar image: don’t rely on this result." : ""}${result.uncertain ? " Uncertain." : ""} ${result.disclaimer}`);
  }
  refresh();
}

// The page around the cards

function refresh() {
  const finished = items.filter((item) => item.result || item.error).length;
  el("results").hidden = items.length === 0;
  el("hints").hidden = items.length > 0;
  document.body.classList.toggle("has-results", items.length > 0);
  el("export").disabled = finished === 0;
  const total = plural(items.length, "image");
  el("count").textContent = finished < items.length ? `${finished} of ${total}` : total;
}

function announce(text, visible = false) {
  el("announcement").textContent = text;
  el("announcement").classList.toggle("visually-hidden", !visible);
}

// Synthetic ones if the model was trained on synthetic images, or those of a configured folder.
async function showExamples(model) {
  examplesModel = model;
  let examples;
  try {
    examples = await fetchJson("examples");
  } catch {
    examplesModel = null; // tried again with the next status check
    return;
  }
  const captions = { mass: "With a mass", clear: "Without a mass" };
  const buttons = examples.map(({ name, url, synthetic }) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const image = document.createElement("img");
    const caption = document.createElement("span");
    Object.assign(image, { src: url, alt: "", width: 160, height: 160 });
    caption.textContent = (synthetic && captions[name.split("-")[0]]) || name;
    button.type = "button";
    button.setAttribute("aria-label", `${synthetic ? "Synthetic example" : "Example"} ${name}, ${caption.textContent.toLowerCase()}`);
    button.append(image, caption);
    button.addEventListener("click", () => addExample(synthetic ? `synthetic-${name}.png` : name, url));
    item.append(button);
    return item;
  });
  el("example-list").replaceChildren(...buttons);
  el("examples").hidden = buttons.length === 0;
  el("examples-note").hidden = !examples.some(({ synthetic }) => synthetic);
}

async function addExample(name, url) {
  try {
    const response = await fetch(url);
    if (!response.ok) throw new ApiError("invalid_response", `The server returned ${response.status}.`);
    const blob = await response.blob();
    add([new File([blob], name, { type: blob.type })]);
  } catch {
    status.check();
  }
}

function exportCsv() {
  const finished = items.filter((item) => item.result || item.error);
  const time = new Date().toISOString().slice(0, 19).replaceAll(":", "");
  download(toCsv(finished, document.body.dataset.disclaimer), `predictions-${time}.csv`);
}

async function copyCommand() {
  try {
    await navigator.clipboard.writeText(el("command").textContent);
    el("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(el("command"));
    el("copy").textContent = "Press Ctrl+C";
  }
  setTimeout(() => (el("copy").textContent = "Copy"), 2000);
}

el("limit").textContent = `, up to ${fileSize(maxBytes)} each`;
el("origin").textContent = location.origin;
el("file").addEventListener("change", addChosen);
el("export").addEventListener("click", exportCsv);
el("clear").addEventListener("click", () => [...items].forEach(remove));
el("copy").addEventListener("click", copyCommand);
document.addEventListener("paste", (event) => event.clipboardData?.files.length && add(event.clipboardData.files));
// The whole window accepts files: a drop beside the box would make the browser leave the page.
for (const type of ["dragover", "drop", "dragleave"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    el("drop").classList.toggle("over", type === "dragover");
    if (type === "drop") add(event.dataTransfer?.files ?? []);
  });
}
addChosen(); // files chosen before this script was loaded
status.check();
