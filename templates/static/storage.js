// Keep results in this tab's sessionStorage, for a reload: names and numbers, never an image.

const KEY = "results";

/** @param {object[]} items with a result */
export function saveResults(items) {
  const kept = items.map(({ name, folder, isExample, isExported, at, flagged, model, result }) => {
    const { map, ...values } = result;
    const { labels, positive_class } = model;
    return { name, folder, isExample, isExported, at, flagged, result: values, model: { labels, positive_class } };
  });
  try {
    if (kept.length) sessionStorage.setItem(KEY, JSON.stringify(kept));
    else sessionStorage.removeItem(KEY);
  } catch {
    // The storage is full or forbidden: a reload loses the results.
  }
}

/** @returns {object[]} the items that `saveResults` has kept */
export function loadResults() {
  try {
    const items = JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
    return items.map((item) => ({ ...item, at: new Date(item.at) }));
  } catch {
    return [];
  }
}
