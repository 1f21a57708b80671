// The upload page: images in, results out.

import { ApiError, fetchJson, predict } from "./api.js";
import { unpackArchives } from "./archive.js";
import { Card } from "./card.js";
import { showExamples } from "./examples.js";
import { flag } from "./feedback.js";
import { copyText, download, fileSize, percent, plural } from "./format.js";
import { drawOverlay, isDisplayable } from "./images.js";
import { showMessage } from "./messages.js";
import { watchModelLink } from "./model.js";
import { Queue } from "./queue.js";
import * as results from "./results.js";
import { chosenFiles, droppedFiles } from "./series.js";
import { showSnippets } from "./snippets.js";
import { ModelStatus } from "./status.js";
import { showEnlarged } from "./viewer.js";

const MAX_ITEMS = 100;
const MAX_ATTEMPTS = 6;
const MAX_CONNECTIONS = 6; // to one host, in every browser
const el = (id) => document.getElementById(id);
const settings = document.body.dataset;
const maxBytes = Number(settings.maxUploadBytes);

let examplesModel = null;
// One request more than the server processes: it arrives while others are processed.
const queue = new Queue(classify, Math.min(Number(settings.concurrency) + 1, MAX_CONNECTIONS));
const status = new ModelStatus(async () => {
  const { model } = status;
  if (model) queue.resume();
  else queue.pause();
  results.showModel(model);
  for (const item of results.items) {
    if (item.isWaiting) item.card.showProgress(waitingText(), null, true);
  }
  if (!model || model.model === examplesModel) return;
  const labels = Object.values(model.labels);
  if (labels.length <= 4) el("classes").textContent = ` (${labels.join(" or ")})`;
  examplesModel = model.model;
  // If it fails, the next check tries it again.
  await showExamples((file) => add([file], true)).catch(() => (examplesModel = null));
});

function waitingText() {
  return queue.isPaused ? "Waiting for the model; continues automatically." : "Waiting in the queue.";
}

// Adding and removing

async function add(chosen, isExample = false) {
  const files = await unpackArchives([...chosen], MAX_ITEMS);
  const count = results.items.length;
  const accepted = files.slice(0, Math.max(0, MAX_ITEMS - count));
  const skipped = files.length - accepted.length;
  if (skipped) {
    const limit = `the page holds at most ${MAX_ITEMS} images. Remove some results first.`;
    showMessage("skipped", `${plural(skipped, "file")} not added: ${limit}`);
  }
  for (const file of accepted) addOne(file, isExample);
  results.refresh();
  if (count && accepted.length) results.items[count].card.element.scrollIntoView({ block: "nearest" });
}

function addChosen() {
  add([...el("file").files, ...chosenFiles(el("folder").files)]);
  el("file").value = el("folder").value = "";
}

function addDropped(transfer) {
  const onError = () => showMessage("skipped", "The browser can’t read the folder.");
  droppedFiles(transfer).then((files) => add(files), onError);
}

function addOne(file, isExample) {
  const folder = file.folder ?? "";
  const name = folder ? `${folder}/${file.name}` : file.name || "Pasted image";
  const item = { name, folder, file, image: file, picture: null, isExample, result: null };
  item.card = createCard(item);
  results.append(item);
  enqueue(item);
}

function createCard(item) {
  return new Card(item, {
    remove: () => removeAll([item]),
    cancel: () => cancel(item),
    retry: () => restart(item),
    update: () => restart(item, true),
    enlarge: () => enlarge(item),
    save: () => saveOverlay(item),
    code: () => showSnippets(item.name, item.options),
    flag: () => flag(item, () => showFlag(item)),
  });
}

function enqueue(item, isFirst = false) {
  item.abortController?.abort();
  Object.assign(item, { error: null, isWaiting: true, failures: item.failures ?? 0 });
  item.card.showProgress(waitingText(), null, true);
  queue.add(item, isFirst);
}

function restart(item, isFirst = false) {
  enqueue(item, isFirst);
  results.place(item);
  results.refresh();
}

function stop(item) {
  queue.remove(item);
  item.abortController?.abort();
}

function cancel(item) {
  stop(item);
  finish(item, new ApiError("cancelled", "Cancelled."));
}

function removeAll(items) {
  items.forEach(stop);
  results.remove(items, enqueue);
}

// Classification

async function classify(item) {
  item.abortController = new AbortController();
  const { signal } = item.abortController;
  item.isWaiting = false;
  try {
    item.card.showProgress("Classifying…");
    item.needsPreview ??= !(await checkFile(item.file));
    item.options = { map: "true", ...(item.needsPreview && { preview: "true" }), ...item.card.options };
    // A file that the browser can't show may be DICOM, whose header names the series.
    const options = { ...item.options, ...(item.needsPreview && { series: "true" }) };
    const result = await predictWithRetries(item, options, signal);
    if (result.model !== status.model?.model) status.model = await fetchJson("model");
    if (result.preview) await results.showPreview(item, result.preview);
    delete result.preview;
    if (!signal.aborted) finish(item, null, result);
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof ApiError)) throw error;
    const isUnavailable = error.code === "offline" || error.code === "signed_out" || error.hasNoModel;
    if (isUnavailable && ++item.failures < MAX_ATTEMPTS) {
      enqueue(item, true);
      status.invalidate();
    } else {
      finish(item, error);
    }
  }
}

/** Return whether browsers show the file. */
async function checkFile(file) {
  if (file.size > maxBytes) {
    const message = `The file has ${fileSize(file.size)}; the limit is ${fileSize(maxBytes)}.`;
    throw new ApiError("too_large", message);
  }
  if (file.size === 0) throw new ApiError("empty", "The file is empty.");
  try {
    return await isDisplayable(file);
  } catch {
    const message = "The browser can’t read the file. Is it a folder, or was it moved?";
    throw new ApiError("unreadable", message);
  }
}

/** Send an image; if the server lacks capacity, wait as long as it requests and try again. */
async function predictWithRetries(item, options, signal) {
  for (let attempt = 1; ; attempt++) {
    const onProgress = (fraction) => {
      if (fraction < 1) item.card.showProgress(`Uploading, ${Math.round(100 * fraction)} %`, fraction);
      else item.card.showProgress("Classifying…");
    };
    try {
      return await predict(item.file, options, onProgress, signal);
    } catch (error) {
      if (!error.isTemporary || attempt === MAX_ATTEMPTS) throw error;
      const reason = error.status === 429 ? "Rate limit reached" : "The server is busy";
      for (let seconds = Math.ceil(error.retryAfter || attempt); seconds > 0; seconds--) {
        const count = `${attempt} of ${MAX_ATTEMPTS - 1}`;
        item.card.showProgress(`${reason}: next attempt in ${seconds} s (${count}).`);
        await delay(1000, signal);
      }
      item.card.showProgress("Classifying…");
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

function finish(item, error, result = null) {
  Object.assign(item, { error, result, model: status.model, flagged: null, isExported: false });
  Object.assign(item, { isWaiting: false, failures: 0, at: new Date() });
  results.showOutcome(item);
}

// One result

function describe({ result }) {
  const notes = ["unfamiliar", "uncertain"].filter((name) => result[name]);
  return [`Prediction: ${result.image}, ${percent(result.probability)}`, ...notes].join(" · ");
}

async function enlarge(item) {
  const picture = item.image && (await results.loadPicture(item));
  if (!picture) return results.reveal(item);
  const shown = results.items.filter((other) => other.image && !other.card.element.hidden);
  const step = (offset) => {
    const index = shown.indexOf(item) + offset;
    if (shown[index]) enlarge(shown[index]);
  };
  showEnlarged(item, item.result ? describe(item) : "", { step, save: () => saveOverlay(item) });
}

async function saveOverlay(item) {
  const isShown = !document.body.classList.contains("no-heatmaps");
  const { result } = item;
  const caption = result ? [describe(item), `Model ${result.model}. ${disclaimerOf(result)}`] : [];
  const opacity = Number(el("opacity").value) / 100;
  const blob = await drawOverlay(item.image, isShown ? result?.map : null, opacity, caption);
  download(blob, `${item.name.replace(/\.\w+$/, "")}-heatmap.png`);
}

function disclaimerOf(result) {
  return `${result.disclaimer} ${result.synthetic ? el("synthetic").textContent : ""}`.trim();
}

function showFlag(item) {
  item.card.showFlag();
  results.update();
}

// The page

function setHeatmaps({ target }) {
  if (target.matches("[data-heatmaps]")) {
    document.body.classList.toggle("no-heatmaps", !target.checked);
    for (const box of document.querySelectorAll("[data-heatmaps]")) box.checked = target.checked;
    el("opacity").disabled = !target.checked;
  } else if (target.id === "opacity") {
    document.documentElement.style.setProperty("--heatmap-opacity", target.value / 100);
    el("opacity-value").textContent = `${target.value} %`;
  }
}

el("limit").textContent = `, up to ${fileSize(maxBytes)} each`;
for (const id of ["file", "folder"]) el(id).addEventListener("change", addChosen);
el("clear").addEventListener("click", () => removeAll(results.items));
el("copy").addEventListener("click", () => copyText(el("command"), el("copy")));
document.addEventListener("input", setHeatmaps);
document.addEventListener("paste", ({ clipboardData }) => {
  if (clipboardData?.files.length) add(clipboardData.files);
});
el("drop").addEventListener("click", ({ target }) => target === el("drop") && el("file").click());
// The whole window accepts files: a drop beside the box would make the browser leave the page.
for (const type of ["dragover", "drop", "dragleave"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    el("drop").classList.toggle("over", type === "dragover");
    if (type === "drop" && event.dataTransfer) addDropped(event.dataTransfer);
  });
}
window.addEventListener("beforeunload", (event) => {
  if (results.items.some(results.isUnsaved)) event.preventDefault();
});
watchModelLink();
results.restore(createCard);
addChosen(); // files chosen before this script was loaded
status.check();
