// Requests to the server, and their errors.

export class ApiError extends Error {
  /**
   * @param {string} code from the server, or `offline`, `signed_out`, `invalid_response`, `cancelled`
   * @param {string} message for users
   * @param {number} status of the response; 0 without one
   * @param {number} retryAfter seconds, as the server requested; 0 if it didn't
   */
  constructor(code, message, status = 0, retryAfter = 0) {
    super(message);
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter;
  }

  /** Whether the server has a model and only lacks capacity. */
  get isTemporary() {
    return this.status === 429 || (this.status === 503 && !this.hasNoModel);
  }

  /** Whether the same request may succeed later. */
  get canRetry() {
    const mayPass = ["cancelled", "unreadable", "invalid_response", "offline"].includes(this.code);
    return mayPass || this.status === 429 || this.status >= 500;
  }

  get hasNoModel() {
    return ["loading", "no_model", "broken_model"].includes(this.code);
  }
}

const offline = () => new ApiError("offline", "The server can't be reached.");

function errorOf(status, text, retryAfter) {
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    content = {};
  }
  const { code, message } = content.error ?? {};
  if (status === 401) return new ApiError("signed_out", message ?? "You are signed out.", status);
  if (!code) return new ApiError("invalid_response", `Invalid response from the server (${status}).`, status);
  return new ApiError(code, message, status, Number(retryAfter) || 0);
}

/**
 * @param {string} url
 * @param {RequestInit} options such as method and body
 */
export async function fetchJson(url, options = {}) {
  let response, text;
  try {
    response = await fetch(url, { ...options, headers: { Accept: "application/json", ...options.headers } });
    text = await response.text();
  } catch {
    throw offline();
  }
  if (!response.ok) throw errorOf(response.status, text, response.headers.get("Retry-After"));
  try {
    return JSON.parse(text);
  } catch {
    throw errorOf(response.status, text);
  }
}

/**
 * Classify one image.
 *
 * @param {Blob} file its name isn't sent
 * @param {Record<string, string>} options of /predict
 * @param {(fraction: number) => void} onProgress fraction of the bytes that are sent, 0 to 1
 * @param {AbortSignal} signal
 * @returns {Promise<object>} the result
 */
export function predict(file, options, onProgress, signal) {
  const form = new FormData();
  form.append("file", file, "image");
  for (const [name, value] of Object.entries(options)) form.append(name, value);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch doesn't report the progress of an upload
    const stop = () => request.abort();
    request.open("POST", "predict");
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.upload.onload = () => onProgress(1);
    request.onerror = () => reject(offline());
    request.onabort = () => reject(new ApiError("cancelled", "Cancelled."));
    request.onload = () => {
      const error = errorOf(request.status, request.responseText, request.getResponseHeader("Retry-After"));
      if (request.status !== 200) return reject(error);
      try {
        const content = JSON.parse(request.responseText);
        const [result] = content.images ?? content; // with `series` it is an object
        if (result.error) return reject(new ApiError(result.error.code, result.error.message, 422));
        resolve(result);
      } catch {
        reject(error);
      }
    };
    request.onloadend = () => signal.removeEventListener("abort", stop);
    signal.addEventListener("abort", stop);
    if (signal.aborted) request.abort();
    request.send(form);
  });
}

/**
 * Send an image with its correct class.
 *
 * @param {Blob} file its name isn't sent
 * @param {string} label name of the class
 * @param {string=} frame of a DICOM file
 */
export async function sendFeedback(file, label, frame) {
  const form = new FormData();
  form.append("file", file, "image");
  form.append("label", label);
  if (frame) form.append("frame", frame);
  await fetchJson("feedback", { method: "POST", body: form });
}
