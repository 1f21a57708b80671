"use strict";

const SHOWN = 8;
const el = (id) => document.getElementById(id);
const maxBytes = Number(document.body.dataset.maxUploadBytes);
let chosen = null;
let model = null;
let busy = false;
let poll = 0;

const NOTICES = {
  no_model: ["No model yet", "Train one first. With the project's folder as the working folder, run:"],
  broken_model: ["The model can't be used", ""],
  offline: ["The server can't be reached", "Is python app.py still running? This page tries again by itself."],
};

class Problem extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

async function ask(url, options) {
  let response, content;
  try {
    response = await fetch(url, options);
  } catch {
    throw new Problem("offline", "The server can't be reached. Is python app.py still running?");
  }
  try {
    content = await response.json();
  } catch {
    throw new Problem("odd_answer", `The server gave no answer that this page understands (${response.status}).`);
  }
  if (!response.ok) throw new Problem(content.error?.code, content.error?.message ?? `The server says ${response.status}.`);
  return content;
}

function show(state, text) {
  el("status").dataset.state = state;
  if (el("status-text").textContent !== text) el("status-text").textContent = text;
}

function notify(state, message) {
  const notice = NOTICES[state];
  el("notice").hidden = !notice;
  if (!notice) return;
  el("notice").dataset.state = state;
  const text = notice[1] || message;
  if (el("notice-title").textContent !== notice[0]) el("notice-title").textContent = notice[0];
  if (el("notice-text").textContent !== text) el("notice-text").textContent = text;
  el("notice-command").hidden = state !== "no_model";
  el("notice-more").hidden = state !== "no_model";
}

function refresh() {
  el("predict").disabled = !chosen || !model || busy;
  el("form").setAttribute("aria-busy", String(busy));
  el("predict-text").textContent = busy ? "Predicting…" : "Predict";
}

async function checkModel() {
  clearTimeout(poll);
  try {
    await ask("readyz");
    model = await ask("model");
    const labels = Object.values(model.labels);
    show("ready", `Ready · ${model.backbone} · ${model.model}`);
    if (labels.length <= SHOWN) el("subtitle").textContent = `Drop one slice in, see what the model calls it: ${labels.join(" or ")}.`;
    notify("ready");
  } catch (problem) {
    model = null;
    const words = { loading: "Loading the model…", no_model: "No model yet", broken_model: "Model can't be used" };
    const state = problem.code in words ? problem.code : "offline";
    show(state, words[state] ?? "Server out of reach");
    notify(state, problem.message);
    poll = setTimeout(checkModel, state === "loading" ? 500 : 3000);
  }
  refresh();
}

function sizeOf(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function clearResult() {
  el("answer").hidden = true;
  el("empty").hidden = false;
}

function choose(files) {
  const file = files?.[0];
  if (!file || busy) return;
  clearResult();
  el("error").textContent = files.length > 1 ? "One picture at a time: the first was taken." : "";
  if (file.size > maxBytes || file.size === 0) {
    el("error").textContent = file.size
      ? `${file.name} has ${sizeOf(file.size)}; at most ${sizeOf(maxBytes)} can be sent.`
      : `${file.name} is empty.`;
    return;
  }
  chosen = file;
  URL.revokeObjectURL(el("picture").src);
  el("picture").hidden = false;
  el("no-preview").hidden = true;
  el("picture").src = URL.createObjectURL(file);
  el("picture").alt = `Chosen image: ${file.name}`;
  el("invite").hidden = true;
  el("preview").hidden = false;
  el("chosen").hidden = false;
  el("name").textContent = `${file.name} · ${sizeOf(file.size)}`;
  refresh();
  el("predict").focus();
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function barOf(name, share, called) {
  const item = document.createElement("li");
  const label = document.createElement("span");
  const value = document.createElement("b");
  const track = document.createElement("span");
  const fill = document.createElement("span");
  label.textContent = model.labels[name] ?? name;
  value.textContent = percent(share);
  track.className = "track";
  fill.className = "fill";
  fill.style.width = `${100 * share}%`;
  track.append(fill);
  if (name === model.positive_class && model.threshold !== null && model.threshold !== 0.5) {
    const line = document.createElement("span");
    line.className = "mark-line";
    line.style.left = `${100 * model.threshold}%`;
    track.append(line);
  }
  item.classList.toggle("top1", called);
  item.append(label, value, track);
  return item;
}

function showAnswer(answer, milliseconds) {
  const sorted = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]);
  el("label").textContent = answer.image;
  el("synthetic").hidden = !answer.synthetic;
  el("unfamiliar").hidden = !answer.unfamiliar;
  el("bars").replaceChildren(...sorted.slice(0, SHOWN).map(([name, share]) => barOf(name, share, name === answer.class)));
  const rules = [];
  if (model.threshold !== null && model.threshold !== 0.5) {
    rules.push(`${model.labels[model.positive_class]} is called from ${percent(model.threshold)} on, where the line stands.`);
  }
  if (sorted.length > SHOWN) rules.push(`${sorted.length - SHOWN} less probable classes aren't shown.`);
  el("rule").textContent = rules.join(" ");
  el("rule").hidden = !rules.length;
  el("time").textContent = milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
  el("model").textContent = `${model.backbone} · ${answer.model}`;
  el("disclaimer").lastElementChild.textContent = answer.disclaimer;
  el("empty").hidden = true;
  el("answer").hidden = false;
  const box = el("result").getBoundingClientRect();
  if (box.top < 0 || box.bottom > innerHeight) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    el("result").scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
  }
}

async function predict(event) {
  event.preventDefault();
  if (el("predict").disabled) return;
  busy = true;
  refresh();
  clearResult();
  el("error").textContent = "";
  const form = new FormData();
  form.append("file", chosen);
  const started = performance.now();
  try {
    const [answer] = await ask("predict", { method: "POST", body: form });
    if (answer.model !== model.model) model = await ask("model");
    showAnswer(answer, performance.now() - started);
  } catch (problem) {
    el("error").textContent = problem.message.charAt(0).toUpperCase() + problem.message.slice(1);
    if (["offline", "loading", "no_model", "broken_model"].includes(problem.code)) checkModel();
  } finally {
    busy = false;
    refresh();
    el("predict").focus({ preventScroll: true });
  }
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

el("limit").textContent = `, up to ${sizeOf(maxBytes).replace(".0 ", " ")}`;
el("origin").textContent = location.origin;
el("form").addEventListener("submit", predict);
el("file").addEventListener("change", () => {
  choose(el("file").files);
  el("file").value = "";
});
el("other").addEventListener("click", () => el("file").click());
el("copy").addEventListener("click", copyCommand);
el("picture").addEventListener("error", () => {
  el("picture").hidden = true;
  el("no-preview").hidden = false;
});
document.addEventListener("paste", (event) => choose(event.clipboardData?.files));
// The whole window takes the picture: one that misses the box mustn't make the browser leave the page.
for (const kind of ["dragover", "drop", "dragleave"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    el("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") choose(event.dataTransfer?.files);
  });
}
checkModel();
