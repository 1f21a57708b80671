// The upload page: pictures in, cards out.

import { Card } from "./card.js";
import { save, tableOf } from "./csv.js";
import { Queue } from "./queue.js";
import { Problem, ask, predict } from "./server.js";
import { Status } from "./status.js";
import { percent, plural, sizeOf } from "./words.js";

const AT_ONCE = 2;
const MOST = 100; // pictures on the page
const TRIES = 6;
const el = (id) => document.getElementById(id);
const maxBytes = Number(document.body.dataset.maxUploadBytes);

let items = []; // newest first
const queue = new Queue(classify, AT_ONCE);
const status = new Status(() => {
  if (status.model) {
    queue.resume();
    const labels = Object.values(status.model.labels);
    el("synthetic").hidden = !status.model.synthetic;
    if (labels.length <= 4) el("subtitle").textContent = `Give it slices of a chest CT: it says ${labels.join(" or ")}, how sure it is, and where it looked.`;
  } else {
    queue.pause();
    for (const item of items) if (item.waits) item.card.work(waitingFor(), null, true);
  }
});

function waitingFor() {
  return queue.paused ? "Waits for the model; goes on by itself." : "Waits for its turn.";
}

// Taking files in

function add(files) {
  const room = MOST - items.length;
  const taken = [...files].slice(0, room);
  if (files.length > room) say(`${MOST} pictures at most are shown at once: ${plural(files.length - room, "file")} left out. Clear some first.`, true);
  for (const file of taken) addOne(file);
}

function takeChosen() {
  add(el("file").files);
  el("file").value = "";
}

function addOne(file) {
  const item = { file, name: file.name || "Pasted picture", url: URL.createObjectURL(file), at: new Date(), waits: true, answer: null, fault: null, losses: 0 };
  item.card = new Card(item, {
    remove: () => remove(item),
    cancel: () => cancel(item),
    again: () => enqueue(item),
    ask: () => enqueue(item, true),
  });
  items.unshift(item);
  el("cards").prepend(item.card.element);
  refresh();
  enqueue(item);
}

function enqueue(item, first = false) {
  item.stop?.abort();
  item.fault = null;
  item.waits = true;
  item.card.work(waitingFor(), null, true);
  queue.add(item, first);
  refresh();
}

function cancel(item) {
  queue.remove(item);
  item.stop?.abort();
  settle(item, new Problem("cancelled", "Cancelled."));
}

function remove(item) {
  const place = items.indexOf(item);
  queue.remove(item);
  item.stop?.abort();
  items = items.filter((other) => other !== item);
  item.card.element.remove();
  URL.revokeObjectURL(item.url);
  refresh();
  const next = items[Math.min(place, items.length - 1)];
  (next?.card.element.querySelector(".cross") ?? el("file")).focus();
}

// Asking

async function classify(item) {
  item.stop = new AbortController();
  const { signal } = item.stop;
  item.waits = false;
  try {
    await check(item.file);
    item.shows ??= await item.card.showFile();
    const options = { map: "true", ...(item.shows ? {} : { preview: "true" }), ...item.card.options };
    const started = performance.now();
    const answer = await patiently(item, options, signal);
    const spent = performance.now() - started;
    if (answer.model !== status.model?.model) status.model = await ask("model");
    if (!signal.aborted) settle(item, null, answer, spent);
  } catch (problem) {
    if (signal.aborted) return;
    if (!(problem instanceof Problem)) throw problem;
    const lost = problem.code === "offline" || problem.code === "signed_out" || problem.lacksModel;
    if (lost && ++item.losses < TRIES) {
      status.lose();
      enqueue(item, true);
    } else {
      settle(item, problem);
    }
  }
}

async function check(file) {
  if (file.size > maxBytes) throw new Problem("too_large", `It has ${sizeOf(file.size)}; at most ${sizeOf(maxBytes)} can be sent.`);
  if (file.size === 0) throw new Problem("empty", "The file is empty.");
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Problem("unreadable", "The browser can’t read it: is it a folder, or was it moved away?");
  }
}

/** Send a picture; where the server has no time, wait as long as it asks for and send it again. */
async function patiently(item, options, signal) {
  for (let attempt = 1; ; attempt++) {
    item.card.work("Uploading…", 0);
    const onSent = (share) => item.card.work(share < 1 ? `Uploading, ${Math.round(100 * share)} %` : "The model looks at it…", share < 1 ? share : null);
    try {
      return await predict(item.file, options, onSent, signal);
    } catch (problem) {
      if (!problem.passes || attempt === TRIES) throw problem;
      const reason = problem.status === 429 ? "So many pictures a minute are too many for this server" : "The server is busy";
      for (let left = Math.ceil(problem.wait || attempt); left > 0; left--) {
        item.card.work(`${reason}: tries again in ${left} s (${attempt} of ${TRIES - 1}).`);
        await rest(1000, signal);
      }
    }
  }
}

function rest(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new Problem("cancelled", "Cancelled."));
    });
  });
}

function settle(item, fault, answer = null, spent = 0) {
  Object.assign(item, { fault, answer, waits: false, losses: 0, at: new Date() });
  if (fault) {
    const mayPass = ["cancelled", "unreadable", "odd_answer", "offline"].includes(fault.code) || fault.status === 429 || fault.status >= 500;
    item.card.fail(fault.message, mayPass);
  } else {
    item.card.tell(answer, status.model, spent);
    say(`${item.name}: ${answer.image}, ${percent(answer.probability)}.${answer.unfamiliar ? " Unfamiliar picture: this means nothing." : ""}${answer.uncertain ? " Uncertain." : ""} ${answer.disclaimer}`);
  }
  refresh();
}

// The page around the cards

function refresh() {
  const settled = items.filter((item) => item.answer || item.fault).length;
  el("results").hidden = items.length === 0;
  el("hints").hidden = items.length > 0;
  document.body.classList.toggle("filled", items.length > 0);
  el("export").disabled = settled === 0;
  el("count").textContent = settled < items.length ? `${settled} of ${plural(items.length, "picture")}` : plural(items.length, "picture");
}

function say(text, visibly = false) {
  el("said").textContent = text;
  el("said").classList.toggle("unseen", !visibly);
}

async function offerExamples() {
  let examples;
  try {
    examples = await ask("examples");
  } catch {
    return; // they are an offer, no more
  }
  const kinds = { mass: "with a mass", clear: "without" };
  const buttons = examples.map(({ name, url }) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const picture = document.createElement("img");
    const caption = document.createElement("span");
    Object.assign(picture, { src: url, alt: "", width: 160, height: 160 });
    caption.textContent = kinds[name.split("-")[0]] ?? name;
    button.type = "button";
    button.setAttribute("aria-label", `Synthetic example ${name}, ${caption.textContent}`);
    button.append(picture, caption);
    button.addEventListener("click", () => takeExample(name, url));
    item.append(button);
    return item;
  });
  el("example-list").replaceChildren(...buttons);
  el("examples").hidden = buttons.length === 0;
}

async function takeExample(name, url) {
  try {
    const response = await fetch(url);
    if (!response.ok) throw new Problem("odd_answer", `The server says ${response.status}.`);
    add([new File([await response.blob()], `synthetic-${name}.png`, { type: "image/png" })]);
  } catch {
    status.check();
  }
}

function exportTable() {
  const settled = items.filter((item) => item.answer || item.fault);
  const day = new Date().toISOString().slice(0, 19).replaceAll(":", "");
  save(tableOf(settled, document.body.dataset.disclaimer), `predictions-${day}.csv`);
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

el("limit").textContent = `, up to ${sizeOf(maxBytes)} each`;
el("origin").textContent = location.origin;
el("file").addEventListener("change", takeChosen);
el("export").addEventListener("click", exportTable);
el("clear").addEventListener("click", () => [...items].forEach(remove));
el("copy").addEventListener("click", copyCommand);
document.addEventListener("paste", (event) => event.clipboardData?.files.length && add(event.clipboardData.files));
// The whole window takes pictures: one that misses the box mustn't make the browser leave the page.
for (const kind of ["dragover", "drop", "dragleave"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    el("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") add(event.dataTransfer?.files ?? []);
  });
}
takeChosen(); // what was chosen before this script was there
status.check();
offerExamples();
