// One image and its result.

import { acceptsFeedback } from "./feedback.js";
import { describeCandidate, percent, sentence } from "./format.js";
import { drawHeatmap } from "./heatmap.js";

const MAX_CLASSES = 8;
const WINDOW_NAMES = { lung: "lung window", mediastinal: "mediastinal window", bone: "bone window", file: "the file’s own window" };

export class Card {
  #isVisible = false;
  #progress = null; // arguments of the last showProgress
  #find;
  #actions;

  /**
   * @param {object} item `name`, `file` (null after a reload), `picture`, `result`, `model`, `error`
   * @param {Record<string, () => void>} actions `remove`, `cancel`, `retry`, `update`, `enlarge`,
   *   `save`, `code` and `flag`
   */
  constructor(item, actions) {
    this.item = item;
    this.#actions = actions;
    this.element = document.getElementById("card").content.firstElementChild.cloneNode(true);
    this.#find = (selector) => this.element.querySelector(selector);
    this.#find(".name").title = this.#find(".name bdi").textContent = item.name;
    this.#find(".remove").setAttribute("aria-label", `Remove ${item.name}`);
    this.#find(".enlarge").setAttribute("aria-label", `Enlarge ${item.name}`);
    this.element.addEventListener("click", (event) => {
      const button = event.target.closest("[data-action]");
      if (button) actions[button.dataset.action]();
    });
    if (this.#find(".dicom")) this.#watchDicomControls(actions.update);
  }

  open() {
    this.#actions.enlarge();
  }

  /** Draw what takes memory only while the card is on the screen. */
  setVisible(isVisible) {
    this.#isVisible = isVisible;
    if (isVisible && this.#progress) this.showProgress(...this.#progress);
    this.#drawHeatmap();
  }

  get isVisible() {
    return this.#isVisible;
  }

  /** Show the item's picture, or that the browser can't decode the file. */
  showPicture() {
    const { picture, name } = this.item;
    this.#find(".enlarge").hidden = !picture;
    this.#find(".no-preview").hidden = Boolean(picture);
    if (picture) Object.assign(this.#find(".image"), { src: picture.url, alt: name });
    this.#drawHeatmap();
  }

  /**
   * @param {string} text such as `Classifying…`
   * @param {?number} fraction of the upload that is done, if there is one
   * @param {boolean} isWaiting whether the request hasn't started
   */
  showProgress(text, fraction = null, isWaiting = false) {
    this.#progress = [text, fraction, isWaiting];
    if (!this.#isVisible) return; // every change costs the browser a frame
    this.#setState(isWaiting ? "waiting" : "working");
    const label = this.#find(".progress-text");
    if (label.textContent !== text) label.textContent = text;
    const bar = this.#find("progress");
    bar.hidden = fraction === null;
    bar.value = fraction ?? 0;
  }

  showError() {
    const { error } = this.item;
    this.#setState("failed");
    this.#find(".error").textContent = sentence(error.message);
    this.#find("[data-action=retry]").hidden = !error.canRetry;
  }

  #setState(state) {
    if (!["waiting", "working"].includes(state)) this.#progress = null;
    this.element.dataset.state = state;
    this.#find(".card-body").setAttribute("aria-busy", String(state === "working"));
    this.#find(".busy").hidden = !this.#progress;
    this.#find(".failure").hidden = state !== "failed";
    // While the same file is classified again, its previous result stays visible, dimmed.
    const hasResult = state === "done" || (Boolean(this.item.result) && state !== "failed");
    this.#find(".result").hidden = !hasResult;
    this.#find(".actions").hidden = state !== "done" || !this.item.file;
  }

  showResult() {
    const { result, file } = this.item;
    this.#setState("done");
    this.element.classList.toggle("unreliable", result.unfamiliar);
    this.#find(".label").textContent = result.image;
    this.#find(".unfamiliar").hidden = !result.unfamiliar;
    this.#find(".uncertain").hidden = !result.uncertain;
    this.#find(".uncertain span").textContent = uncertaintyReason(result);
    this.#find(".candidate").hidden = !result.compared;
    this.#find(".candidate").textContent = `Candidate: ${describeCandidate(this.item)}`;
    this.#find(".candidate").classList.toggle("disagrees", result.compared?.agrees === false);
    this.#find(".viewer").hidden = !file;
    const hasEvidence = result.map?.some((row) => row.some((value) => value > 0)) ?? true;
    this.#find(".no-evidence").hidden = hasEvidence;
    this.#showBars();
    this.#showDicom(result.dicom);
    this.showFlag();
    this.#drawHeatmap();
  }

  /** Show the class that a user has named as the correct one. */
  showFlag() {
    const { flagged, model } = this.item;
    this.#find(".flagged").hidden = !flagged;
    this.#find(".flagged span").textContent = flagged ? model.labels[flagged] : "";
    this.#find("[data-action=flag]").hidden = !acceptsFeedback || Boolean(flagged);
  }

  /** Name the model of this result if the server has another one now. */
  showModel(current) {
    const { result } = this.item;
    const isOther = Boolean(result && current && result.model !== current.model);
    this.#find(".other-model").hidden = !isOther;
    if (isOther) this.#find(".other-model code").textContent = result.model;
  }

  #showBars() {
    const { result, model } = this.item;
    const sorted = Object.entries(result.probabilities).sort((a, b) => b[1] - a[1]);
    sorted.unshift(...sorted.splice(sorted.findIndex(([name]) => name === result.class), 1)); // the predicted class first
    const bars = sorted.slice(0, MAX_CLASSES).map(([name, probability]) => {
      const threshold = name === model.positive_class ? (result.threshold ?? null) : null;
      return createBar(model.labels[name] ?? name, probability, name === result.class, threshold);
    });
    this.#find(".bars").replaceChildren(...bars);
    const hiddenCount = sorted.length - bars.length;
    this.#find(".more-classes").hidden = !hiddenCount;
    this.#find(".more-classes").textContent = `${hiddenCount} less probable classes are hidden.`;
  }

  #drawHeatmap() {
    const { result, picture } = this.item;
    const canvas = this.#find(".heatmap");
    canvas.hidden = !(result?.map?.length && picture);
    if (canvas.hidden || !this.#isVisible) canvas.width = canvas.height = 0;
    else drawHeatmap(canvas, result.map, picture.width / picture.height);
  }

  // DICOM: window and frame

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
    this.#find(".dicom").hidden = !this.item.file;
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
    mark.title = `Decision threshold: ${percent(threshold)}`;
    track.append(mark);
  }
  item.classList.toggle("predicted", isPredicted);
  return item;
}
