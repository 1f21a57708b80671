// Whether there is a server with a model; asked again and again.

import { ask } from "./server.js";
import { sentence } from "./words.js";

const el = (id) => document.getElementById(id);
const NOTICES = {
  no_model: ["No model yet", "Train one first. With the project’s folder as the working folder, run:"],
  broken_model: ["The model can’t be used", ""],
  offline: ["The server can’t be reached", "Is python app.py still running? This page tries again by itself, and goes on with what waits."],
  signed_out: ["You are signed out", "Sign in again to go on. What is on this page goes with it: export it first."],
};
const WORDS = {
  loading: "Loading the model…",
  no_model: "No model yet",
  broken_model: "Model can’t be used",
  signed_out: "Signed out",
  offline: "Server out of reach",
};

export class Status {
  model = null;
  #timer = 0;
  #changed;

  /** @param {() => void} changed is called when a model is there, and when it is no longer */
  constructor(changed) {
    this.#changed = changed;
    document.addEventListener("visibilitychange", () => document.hidden || this.check());
  }

  /** A request found no model, or nobody: look again. */
  lose() {
    this.model = null;
    this.#changed();
    this.check();
  }

  async check() {
    clearTimeout(this.#timer);
    let state = "ready", pause = 20_000;
    try {
      const ready = await ask("readyz");
      if (this.model?.model !== ready.model) this.model = await ask("model");
      show(state, "Ready", `· ${this.model.backbone} · ${this.model.model}`);
      notify(state);
    } catch (problem) {
      this.model = null;
      state = problem.code in WORDS ? problem.code : "offline";
      show(state, WORDS[state]);
      notify(state, problem.message);
      pause = { loading: 500, signed_out: 30_000 }[state] ?? 3000;
    }
    this.#changed();
    this.#timer = setTimeout(() => document.hidden || this.check(), pause);
  }
}

function show(state, text, more = "") {
  el("status").dataset.state = state;
  put("status-text", text);
  put("status-more", more);
}

function notify(state, message = "") {
  const [title, text] = NOTICES[state] ?? [];
  el("notice").hidden = !title;
  if (!title) return;
  el("notice").dataset.state = state;
  put("notice-title", title);
  put("notice-text", text || sentence(message));
  el("notice-command").hidden = el("notice-more").hidden = state !== "no_model";
  el("notice-sign-in").hidden = state !== "signed_out";
}

// What stays the same isn't written again: a screen reader would say it again.
function put(id, text) {
  if (el(id).textContent !== text) el(id).textContent = text;
}
