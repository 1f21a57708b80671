// Poll whether the server has a model, and show it.

import { fetchJson } from "./api.js";
import { sentence } from "./format.js";

const el = (id) => document.getElementById(id);
const NOTICES = {
  no_model: ["No model yet", "Train one first. Run in the project’s folder:"],
  broken_model: ["The model can’t be used", ""],
  offline: ["The server can’t be reached", "Is python app.py still running? This page retries automatically and then continues."],
  signed_out: ["You are signed out", "Sign in again to continue. This tab keeps the results, but not the images."],
};
const LABELS = {
  loading: "Loading the model…",
  no_model: "No model yet",
  broken_model: "Model can’t be used",
  signed_out: "Signed out",
  offline: "Server not reachable",
};

export class ModelStatus {
  model = null;
  #timer = 0;
  #onChange;

  /** @param {() => void} onChange called after each check */
  constructor(onChange) {
    this.#onChange = onChange;
    document.addEventListener("visibilitychange", () => document.hidden || this.check());
  }

  /** A request found no model or no server: check again. */
  invalidate() {
    this.model = null;
    this.#onChange();
    this.check();
  }

  async check() {
    clearTimeout(this.#timer);
    let state = "ready";
    let delay = 20_000;
    try {
      const ready = await fetchJson("readyz");
      if (this.model?.model !== ready.model) this.model = await fetchJson("model");
      show(state, "Ready");
      notify(state);
    } catch (error) {
      this.model = null;
      state = error.code in LABELS ? error.code : "offline";
      show(state, LABELS[state]);
      notify(state, error.message);
      delay = { loading: 500, signed_out: 30_000 }[state] ?? 3000;
    }
    this.#onChange();
    this.#timer = setTimeout(() => document.hidden || this.check(), delay);
  }
}

function show(state, text) {
  el("status").dataset.state = state;
  setText("status-text", text);
}

function notify(state, message = "") {
  const [title, text] = NOTICES[state] ?? [];
  el("notice").hidden = !title;
  if (!title) return;
  el("notice").dataset.state = state;
  setText("notice-title", title);
  setText("notice-text", text || sentence(message));
  el("notice-command").hidden = el("notice-more").hidden = state !== "no_model";
  el("notice-sign-in").hidden = state !== "signed_out";
}

// Unchanged text isn't written again: a screen reader would repeat it.
function setText(id, text) {
  if (el(id).textContent !== text) el(id).textContent = text;
}
