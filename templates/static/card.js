// One image and its result.

import { duration, percent, sentence } from "./format.js";
import { drawHeatmap } from "./heatmap.js";

const MAX_CLASSES = 8;
const WINDOW_NAMES = { lung: "lung window", mediastinal: "mediastinal window", bone: "bone window", file: "the file’s own window" };

let opacity = 65; // per cent, the latest value of any heat map slider

export class Card {
  #model = null;
  #find;

  /**
   * @param {{name: string, file: Blob, url: string}} item
   * @param {Record<string, () => void>} actions `remove`, `cancel`, `retry` and `update`
   */
  constructor(item, actions) {
    this.item = item;
    this.element = document.getElementById("card").content.firstElementChild.cloneNode(true);
    this.#find = (selector) => this.element.querySelector(selector);
    this.#find(".name").textContent = item.name;
    this.#find(".remove").setAttribute("aria-label", `Remove ${item.name}`);
    this.element.addEventListener("click", (event) => {
      const button = event.target.closest("[data-action]");
      if (button) actions[button.dataset.action]();
    });
    this.#find(".heatmap-controls input").addEventListener("input", (event) => this.#setOpacity(Number(event.target.value)));
    if (this.#find(".dicom")) this.#watchDicomControls(actions.update);
  }

  /** Show the file itself; returns whether the browser can. */
  async showFile() {
    const image = this.#find(".image");
    image.src = this.item.url;
    try {
      await image.decode();
    } catch {
      image.removeAttribute("src");
      this.#find(".no-preview").hidden = false;
      return false;
    }
    this.#showImage();
    return true;
  }

  #showImage() {
    const image = this.#find(".image");
    image.alt = this.item.name;
    const aspect = image.naturalWidth / image.naturalHeight;
    this.#find(".viewer").style.aspectRatio = Math.min(4 / 3, Math.max(1, aspect));
    image.hidden = false;
    this.#find(".no-preview").hidden = true;
  }

  /**
   * @param {string} text such as `Uploading…`
   * @param {?number} fraction that is done; null if unknown
   * @param {boolean} waiting whether the request hasn't started
   */
  showProgress(text, fraction = null, waiting = false) {
    this.#setState(waiting ? "waiting" : "working");
    const label = this.#find(".progress-text");
    if (label.textContent !== text) label.textContent = text;
    const bar = this.#find("progress");
    if (fraction === null) bar.removeAttribute("value");
    else bar.value = fraction;
    bar.hidden = waiting;
  }

  showError(message, canRetry) {
    this.#setState("failed");
    this.#find(".error").textContent = sentence(message);
    this.#find("[data-action=retry]").hidden = !canRetry;
  }

  #setState(state) {
    this.element.dataset.state = state;
    this.#find(".card-body").setAttribute("aria-busy", String(state === "working"));
    this.#find(".busy").hidden = !["waiting", "working"].includes(state);
    this.#find(".failure").hidden = state !== "failed";
    this.#find(".viewer").hidden = state === "failed" && this.#find(".image").hidden;
    // While the same file is classified again, its previous result stays visible, dimmed.
    const hasResult = state === "done" || (Boolean(this.item.result) && state !== "failed");
    for (const part of [".result", ".meta"]) this.#find(part).hidden = !hasResult;
    this.#find(".heatmap").hidden = !hasResult || !this.item.result?.map;
  }

  /**
   * @param {object} result of /predict
   * @param {object} model response of /model
   * @param {number} milliseconds from the request to the response
   */
  async showResult(result, model, milliseconds) {
    this.#model = model;
    this.#setState("done");
    this.element.classList.toggle("unreliable", result.unfamiliar);
    this.#find(".label").textContent = result.image;
    this.#find(".unfamiliar").hidden = !result.unfamiliar;
    this.#find(".uncertain").hidden = !result.uncertain;
    this.#find(".uncertain span").textContent = uncertaintyReason(result);
    this.#showBars(result);
    this.#find(".time").textContent = `${duration(milliseconds)} (${duration(result.ms)} on the server)`;
    this.#find(".model").textContent = `${model.backbone} · ${result.model}`;
    this.#find(".model").title = result.model_sha256;
    this.#showDicom(result.dicom);
    if (result.preview) {
      const image = this.#find(".image");
      image.src = result.preview;
      await image.decode();
      this.#showImage();
    }
    this.#showHeatmap(result);
  }

  #showBars(result) {
    const { labels, positive_class: positive } = this.#model;
    const sorted = Object.entries(result.probabilities).sort((a, b) => b[1] - a[1]);
    sorted.unshift(...sorted.splice(sorted.findIndex(([name]) => name === result.class), 1)); // the predicted class first
    const bars = sorted.slice(0, MAX_CLASSES).map(([name, probability]) => {
      const threshold = name === positive ? (result.threshold ?? null) : null;
      return createBar(labels[name] ?? name, probability, name === result.class, threshold);
    });
    this.#find(".bars").replaceChildren(...bars);
    const notes = [];
    if (typeof result.threshold === "number") notes.push(`Decision threshold for ${labels[positive]}: ${percent(result.threshold)}.`);
    if (sorted.length > MAX_CLASSES) notes.push(`${sorted.length - MAX_CLASSES} less probable classes are hidden.`);
    this.#find(".threshold-note").textContent = notes.join(" ");
    this.#find(".threshold-note").hidden = !notes.length;
  }

  #showHeatmap(result) {
    const image = this.#find(".image");
    const visible = Boolean(result.map?.length) && !image.hidden;
    this.#find(".heatmap-controls").hidden = !visible;
    this.#find(".heatmap").hidden = !visible;
    if (!visible) return;
    drawHeatmap(this.#find(".heatmap"), result.map, image.naturalWidth / image.naturalHeight);
    this.#find(".no-evidence").hidden = result.map.some((row) => row.some((value) => value > 0));
    this.#find(".heatmap-controls input").value = opacity;
    this.#setOpacity(opacity);
  }

  #setOpacity(value) {
    opacity = value;
    this.#find(".heatmap").style.opacity = value / 100;
    this.#find(".heatmap-controls output").textContent = `${value} %`;
  }

  // DICOM: window and slice

  #watchDicomControls(update) {
    const custom = this.#find(".custom");
    let timer = 0;
    const updateSoon = () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.#isWindowValid() && update(), 250);
    };
    this.#find(".window").addEventListener("change", (event) => {
      custom.hidden = event.target.value !== "custom";
      updateSoon();
    });
    for (const selector of [".centre", ".width", ".frame"]) this.#find(selector).addEventListener("change", updateSoon);
    this.#find(".frame").addEventListener("input", () => this.#showFrameNumber());
  }

  #showFrameNumber() {
    const { value, max } = this.#find(".frame");
    this.#find(".frame-control output").textContent = `${value} of ${max}`;
  }

  #isWindowValid() {
    if (this.#find(".window").value !== "custom") return true;
    return [".centre", ".width"].every((selector) => this.#find(selector).value !== "" && this.#find(selector).reportValidity());
  }

  /** The options of /predict that are set in this card. */
  get options() {
    if (this.#find(".dicom")?.hidden ?? true) return {};
    const choice = this.#find(".window").value;
    const window_ = choice === "custom" ? `${this.#find(".centre").value},${this.#find(".width").value}` : choice;
    return { window: window_, frame: this.#find(".frame").value };
  }

  #showDicom(dicom) {
    if (!dicom || !this.#find(".dicom")) return;
    this.#find(".dicom").hidden = false;
    const { window: name, centre, width, frame, frames } = dicom;
    this.#find(".dicom-info").textContent = centre === null
      ? "Color image: it has no window."
      : `Current: ${WINDOW_NAMES[name] ?? "custom window"}, center ${Math.round(centre)} HU, width ${Math.round(width)} HU.`;
    if (this.#find(".custom").hidden) {
      this.#find(".centre").value = Math.round(centre);
      this.#find(".width").value = Math.round(width);
    }
    this.#find(".frame-control").hidden = frames < 2;
    this.#find(".frame").max = frames;
    this.#find(".frame").value = frame;
    this.#showFrameNumber();
  }
}

function uncertaintyReason({ disagreement, disagreement_limit: limit, threshold }) {
  if (limit !== null && disagreement > limit) return "The model’s heads, trained on different images, disagree.";
  return threshold === null ? "Two classes are almost equally probable." : "The probability is near the decision threshold.";
}

function createBar(label, probability, isPredicted, threshold) {
  const item = document.createElement("li");
  item.innerHTML = '<span></span><b></b><span class="track"><span class="fill"></span></span>';
  const [name, value, track] = item.children;
  name.textContent = label;
  value.textContent = percent(probability);
  track.firstElementChild.style.width = `${100 * probability}%`;
  if (threshold !== null) {
    const mark = document.createElement("span");
    mark.className = "threshold-mark";
    mark.style.left = `${100 * threshold}%`;
    track.append(mark);
  }
  item.classList.toggle("predicted", isPredicted);
  return item;
}
