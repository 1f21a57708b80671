// Answers as a table: RFC 4180, and no cell that a spreadsheet takes for a formula.

/** @param {string|number|boolean|null|undefined} value */
function cell(value) {
  if (value === null || value === undefined) return "";
  let text = String(value);
  if (typeof value === "string" && /^\s*[=+\-@\t\r\n|%]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/**
 * @param {{name: string, answer: ?object, fault: ?Error, at: Date}[]} items that have an answer or a fault
 * @returns {string} a line each under a header, with the disclaimer in each line
 */
export function tableOf(items, disclaimer) {
  const classes = [...new Set(items.flatMap((item) => Object.keys(item.answer?.probabilities ?? {})))];
  const columns = {
    file: (item) => item.name,
    class: (item) => item.answer?.class,
    label: (item) => item.answer?.image,
    probability: (item) => item.answer?.probability,
    ...Object.fromEntries(classes.map((name) => [`p_${name}`, (item) => item.answer?.probabilities[name]])),
    threshold: (item) => item.answer?.threshold,
    uncertain: (item) => item.answer?.uncertain,
    unfamiliar: (item) => item.answer?.unfamiliar,
    distance: (item) => item.answer?.distance,
    unfamiliar_limit: (item) => item.answer?.unfamiliar_limit,
    window: (item) => item.answer?.dicom?.window,
    window_centre: (item) => item.answer?.dicom?.centre,
    window_width: (item) => item.answer?.dicom?.width,
    frame: (item) => item.answer?.dicom?.frame,
    frames: (item) => item.answer?.dicom?.frames,
    error: (item) => item.fault?.message,
    answered_at: (item) => item.at.toISOString(),
    server_ms: (item) => item.answer?.ms,
    model_sha256: (item) => item.answer?.model_sha256,
    trained_on_synthetic: (item) => item.answer?.synthetic,
    disclaimer: (item) => item.answer?.disclaimer ?? disclaimer,
  };
  const lines = [Object.keys(columns), ...items.map((item) => Object.values(columns).map((value) => value(item)))];
  return lines.map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}

export function save(text, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv;charset=utf-8" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
