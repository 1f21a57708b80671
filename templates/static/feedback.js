// Ask for the correct class, and send the image with it to the server.

import { sendFeedback } from "./api.js";
import { sentence } from "./format.js";

const dialog = document.getElementById("flag"); // missing if the server takes no feedback
let current = null; // the item, and what to do once it is flagged

export const acceptsFeedback = Boolean(dialog);

/**
 * @param {{name: string, file: Blob, options: object, result: object, model: object}} item
 * @param {() => void} onFlagged
 */
export function flag(item, onFlagged) {
  current = { item, onFlagged };
  const { labels } = item.model;
  const others = Object.entries(labels).filter(([name]) => name !== item.result.class);
  dialog.querySelector("select").replaceChildren(
    ...(others.length > 1 ? [new Option("Choose a class", "")] : []),
    ...others.map(([name, label]) => new Option(label, name)),
  );
  dialog.querySelector(".flag-text").textContent = `${item.name}: predicted ${item.result.image}.`;
  showError("");
  dialog.showModal();
}

function showError(message) {
  dialog.querySelector(".error").textContent = message;
}

async function send(event) {
  if (event.submitter.value === "cancel") return;
  event.preventDefault();
  const { item, onFlagged } = current;
  const button = dialog.querySelector("[type=submit]");
  const label = dialog.querySelector("select").value;
  button.disabled = true;
  showError("");
  try {
    await sendFeedback(item.file, label, item.options.frame);
    item.flagged = label;
    onFlagged();
    dialog.close();
  } catch (error) {
    showError(sentence(error.message));
  } finally {
    button.disabled = false;
  }
}

dialog?.querySelector("form").addEventListener("submit", send);
