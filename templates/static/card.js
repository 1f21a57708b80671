// One picture and what is said of it.

import { drawHeat } from "./heat.js";
import { duration, percent, sentence } from "./words.js";

const SHOWN = 8; // classes
const NAMES = { lung: "lung window", mediastinal: "mediastinal window", bone: "bone window", file: "the file’s own window" };

let opacity = 65; // per cent, as the map's slider was left last

export class Card {
  #facts = null;
  #find;

  /**
   * @param {{name: string, file: Blob, url: string}} item
   * @param {Record<string, () => void>} doing what `remove`, `cancel`, `again` and `ask` do
   */
  constructor(item, doing) {
    this.item = item;
    this.element = document.getElementById("card").content.firstElementChild.cloneNode(true);
    this.#find = (selector) => this.element.querySelector(selector);
    this.#find(".name").textContent = item.name;
    this.#find(".cross").setAttribute("aria-label", `Remove ${item.name}`);
    this.element.addEventListener("click", (event) => {
      const button = event.target.closest("[data-do]");
      if (button) doing[button.dataset.do]();
    });
    this.#find(".look input").addEventListener("input", (event) => this.#fade(Number(event.target.value)));
    this.#watchDicom(doing.ask);
  }

  /** Show the file itself; returns whether the browser can. */
  async showFile() {
    const picture = this.#find(".picture");
    picture.src = this.item.url;
    try {
      await picture.decode();
    } catch {
      picture.removeAttribute("src");
      this.#find(".no-picture").hidden = false;
      return false;
    }
    this.#showPicture();
    return true;
  }

  #showPicture() {
    const picture = this.#find(".picture");
    picture.alt = this.item.name;
    const aspect = picture.naturalWidth / picture.naturalHeight;
    this.#find(".view").style.aspectRatio = Math.min(4 / 3, Math.max(1, aspect));
    picture.hidden = false;
    this.#find(".no-picture").hidden = true;
  }

  /**
   * @param {string} text such as `Uploading…`
   * @param {?number} share of what is done; null where that isn't known
   * @param {boolean} waits whether nothing is under way
   */
  work(text, share = null, waits = false) {
    this.#state(waits ? "waiting" : "working");
    const step = this.#find(".step");
    if (step.textContent !== text) step.textContent = text;
    const bar = this.#find("progress");
    if (share === null) bar.removeAttribute("value");
    else bar.value = share;
    bar.hidden = waits;
  }

  fail(message, again) {
    this.#state("failed");
    this.#find(".error").textContent = sentence(message);
    this.#find("[data-do=again]").hidden = !again;
    this.#find(".no-picture").hidden = !this.#find(".picture").hidden;
    this.#find(".no-picture").textContent = "No preview";
  }

  #state(state) {
    this.element.dataset.state = state;
    this.#find(".inside").setAttribute("aria-busy", String(state === "working"));
    this.#find(".working").hidden = !["waiting", "working"].includes(state);
    this.#find(".fault").hidden = state !== "failed";
    const answered = state === "done";
    // While the same file is asked about again, what was said of it stays, faint.
    const stays = answered || (Boolean(this.item.answer) && state !== "failed");
    for (const part of [".answer", ".facts"]) this.#find(part).hidden = !stays;
    this.#find(".heat").hidden = !stays || !this.item.answer?.map;
  }

  /**
   * @param {object} answer of /predict
   * @param {object} model what /model says
   * @param {number} milliseconds from the request to the answer
   */
  async tell(answer, model, milliseconds) {
    this.#facts = model;
    this.#state("done");
    this.element.classList.toggle("doubtful", answer.unfamiliar);
    this.#find(".label").textContent = answer.image;
    this.#find(".unfamiliar").hidden = !answer.unfamiliar;
    this.#find(".uncertain").hidden = !answer.uncertain;
    this.#find(".uncertain span").textContent =
      answer.threshold === null ? "Two classes are almost equally probable." : "The probability lies close to the line between the classes.";
    this.#bars(answer);
    this.#find(".time").textContent = `${duration(milliseconds)} (${duration(answer.ms)} in the server)`;
    this.#find(".model").textContent = `${model.backbone} · ${answer.model}`;
    this.#find(".model").title = answer.model_sha256;
    this.#dicom(answer.dicom);
    if (answer.preview) {
      const picture = this.#find(".picture");
      picture.src = answer.preview;
      await picture.decode();
      this.#showPicture();
    }
    this.#map(answer);
  }

  #bars(answer) {
    const { labels, positive_class: positive } = this.#facts;
    const sorted = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]);
    sorted.unshift(...sorted.splice(sorted.findIndex(([name]) => name === answer.class), 1)); // the called one first
    const bars = sorted.slice(0, SHOWN).map(([name, share]) => {
      const line = name === positive ? (answer.threshold ?? null) : null;
      return barOf(labels[name] ?? name, share, name === answer.class, line);
    });
    this.#find(".bars").replaceChildren(...bars);
    const rules = [];
    if (typeof answer.threshold === "number") rules.push(`${labels[positive]} is called from ${percent(answer.threshold)} on, where the line stands.`);
    if (sorted.length > SHOWN) rules.push(`${sorted.length - SHOWN} less probable classes aren’t shown.`);
    this.#find(".rule").textContent = rules.join(" ");
    this.#find(".rule").hidden = !rules.length;
  }

  #map(answer) {
    const picture = this.#find(".picture");
    const drawn = Boolean(answer.map?.length) && !picture.hidden;
    this.#find(".look").hidden = !drawn;
    this.#find(".heat").hidden = !drawn;
    if (!drawn) return;
    drawHeat(this.#find(".heat"), answer.map, picture.naturalWidth / picture.naturalHeight);
    const any = answer.map.some((row) => row.some((value) => value > 0));
    this.#find(".spoke").textContent = any ? "spoke for it" : "spoke for it: here nothing did";
    this.#find(".look input").value = opacity;
    this.#fade(opacity);
  }

  #fade(value) {
    opacity = value;
    this.#find(".heat").style.opacity = value / 100;
    this.#find(".look output").textContent = `${value} %`;
  }

  // DICOM: which window, which slice

  #watchDicom(ask) {
    const custom = this.#find(".custom");
    let timer = 0;
    const soon = () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.#validWindow() && ask(), 250);
    };
    this.#find(".window").addEventListener("change", (event) => {
      custom.hidden = event.target.value !== "custom";
      soon();
    });
    for (const selector of [".centre", ".width", ".frame"]) this.#find(selector).addEventListener("change", soon);
    this.#find(".frame").addEventListener("input", () => this.#slice());
  }

  #slice() {
    const { value, max } = this.#find(".frame");
    this.#find(".slices output").textContent = `${value} of ${max}`;
  }

  #validWindow() {
    if (this.#find(".window").value !== "custom") return true;
    return [".centre", ".width"].every((selector) => this.#find(selector).value !== "" && this.#find(selector).reportValidity());
  }

  /** Options of /predict, as they are chosen in this card. */
  get options() {
    if (this.#find(".dicom").hidden) return {};
    const choice = this.#find(".window").value;
    const window_ = choice === "custom" ? `${this.#find(".centre").value},${this.#find(".width").value}` : choice;
    return { window: window_, frame: this.#find(".frame").value };
  }

  #dicom(facts) {
    if (!facts) return;
    this.#find(".dicom").hidden = false;
    const { window: kind, centre, width, frame, frames } = facts;
    this.#find(".shown").textContent = `Shown: ${NAMES[kind] ?? "custom window"}, centre ${Math.round(centre)} HU, width ${Math.round(width)} HU.`;
    if (this.#find(".custom").hidden) {
      this.#find(".centre").value = Math.round(centre);
      this.#find(".width").value = Math.round(width);
    }
    this.#find(".slices").hidden = frames < 2;
    this.#find(".frame").max = frames;
    this.#find(".frame").value = frame;
    this.#slice();
  }
}

function barOf(name, share, called, line) {
  const item = document.createElement("li");
  item.innerHTML = '<span></span><b></b><span class="track"><span class="fill"></span></span>';
  const [label, value, track] = item.children;
  label.textContent = name;
  value.textContent = percent(share);
  track.firstElementChild.style.width = `${100 * share}%`;
  if (line !== null) {
    const mark = document.createElement("span");
    mark.className = "line";
    mark.style.left = `${100 * line}%`;
    track.append(mark);
  }
  item.classList.toggle("top1", called);
  return item;
}
