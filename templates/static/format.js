// Format numbers and messages; sort, save and copy texts.

export const collator = new Intl.Collator(undefined, { numeric: true });

export function percent(fraction) {
  // No model is certain: 100 % and 0 % would claim it.
  if (fraction > 0.9995) return "> 99.9 %";
  if (fraction < 0.0005) return "< 0.1 %";
  return `${(100 * fraction).toFixed(1)} %`;
}

export function fileSize(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1).replace(".0", "")} MB`;
}

export function duration(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

export function sentence(text) {
  const capitalized = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(capitalized) ? capitalized : `${capitalized}.`;
}

export function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** @returns {?string} the candidate's prediction, or why it has none; null without a candidate */
export function describeCandidate({ result, model }) {
  const compared = result?.compared;
  if (!compared) return null;
  if (compared.error) return sentence(compared.error.message);
  return `${model.labels[compared.class] ?? compared.class}, ${percent(compared.probability)}`;
}

export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Copy the text of an element; where the browser forbids it, select it. */
export async function copyText(element, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(element.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(element);
    button.textContent = "Press Ctrl+C";
  }
  setTimeout(() => (button.textContent = label), 2000);
}
