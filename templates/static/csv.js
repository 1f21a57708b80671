// Export results as CSV (RFC 4180); no cell is interpreted as a formula by a spreadsheet.

/** @param {string|number|boolean|null|undefined} value */
function cell(value) {
  if (value === null || value === undefined) return "";
  let text = String(value);
  if (typeof value === "string" && /^\s*[=+\-@\t\r\n|%]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/**
 * @param {{name: string, result: ?object, error: ?Error, at: Date}[]} items that have a result or an error
 * @returns {string} a header and one line for each item, each with the disclaimer
 */
export function toCsv(items, disclaimer) {
  const classes = [...new Set(items.flatMap((item) => Object.keys(item.result?.probabilities ?? {})))];
  const columns = {
    file: (item) => item.name,
    class: (item) => item.result?.class,
    label: (item) => item.result?.image,
    probability: (item) => item.result?.probability,
    ...Object.fromEntries(classes.map((name) => [`p_${name}`, (item) => item.result?.probabilities[name]])),
    threshold: (item) => item.result?.threshold,
    uncertain: (item) => item.result?.uncertain,
    disagreement: (item) => item.result?.disagreement,
    disagreement_limit: (item) => item.result?.disagreement_limit,
    unfamiliar: (item) => item.result?.unfamiliar,
    distance: (item) => item.result?.distance,
    unfamiliar_limit: (item) => item.result?.unfamiliar_limit,
    window: (item) => item.result?.dicom?.window,
    window_centre: (item) => item.result?.dicom?.centre,
    window_width: (item) => item.result?.dicom?.width,
    frame: (item) => item.result?.dicom?.frame,
    frames: (item) => item.result?.dicom?.frames,
    error: (item) => item.error?.message,
    answered_at: (item) => item.at.toISOString(),
    server_ms: (item) => item.result?.ms,
    model_sha256: (item) => item.result?.model_sha256,
    ...(items.some((item) => item.result?.compared) && {
      candidate: (item) => item.result?.compared?.model,
      candidate_class: (item) => item.result?.compared?.class,
      candidate_probability: (item) => item.result?.compared?.probability,
    }),
    trained_on_synthetic: (item) => item.result?.synthetic,
    disclaimer: (item) => item.result?.disclaimer ?? disclaimer,
  };
  const lines = [Object.keys(columns), ...items.map((item) => Object.values(columns).map((value) => value(item)))];
  return lines.map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}
