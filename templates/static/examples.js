// Example images: synthetic ones if the model was trained on such, or those of a configured folder.

import { fetchJson } from "./api.js";
import { showMessage } from "./messages.js";

const CAPTIONS = { mass: "With a mass", clear: "Without a mass" };
const el = (id) => document.getElementById(id);

/** @param {(file: File) => void} add called with the example that a user chooses */
export async function showExamples(add) {
  const examples = await fetchJson("examples");
  const buttons = examples.map(({ name, url, synthetic }) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const image = document.createElement("img");
    const caption = document.createElement("span");
    Object.assign(image, { src: url, alt: "", width: 160, height: 160 });
    caption.textContent = (synthetic && CAPTIONS[name.split("-")[0]]) || name;
    button.type = "button";
    const kind = synthetic ? "Synthetic example" : "Example";
    button.setAttribute("aria-label", `${kind} ${name}, ${caption.textContent.toLowerCase()}`);
    button.append(image, caption);
    button.addEventListener("click", async () => {
      const response = await fetch(url).catch(() => null);
      if (!response?.ok) return showMessage("example", "The example can’t be loaded. Try again.");
      const blob = await response.blob();
      add(new File([blob], synthetic ? `synthetic-${name}.png` : name, { type: blob.type }));
    });
    item.append(button);
    return item;
  });
  el("example-list").replaceChildren(...buttons);
  el("examples").hidden = buttons.length === 0;
  el("examples-note").hidden = !examples.some(({ synthetic }) => synthetic);
}
