// What the page asks the server, and what goes wrong on the way.

export class Problem extends Error {
  /**
   * @param {string} code the server's word for it, or `offline`, `signed_out`, `odd_answer`, `cancelled`
   * @param {string} message a sentence for people
   * @param {number} status of the answer; 0 without one
   * @param {number} wait seconds after which to try again, as the server says; 0 where it doesn't
   */
  constructor(code, message, status = 0, wait = 0) {
    super(message);
    this.code = code;
    this.status = status;
    this.wait = wait;
  }

  /** Whether the server is there, has a model, and merely has no time. */
  get passes() {
    return this.status === 429 || (this.status === 503 && !this.lacksModel);
  }

  get lacksModel() {
    return ["loading", "no_model", "broken_model"].includes(this.code);
  }
}

const OFFLINE = () => new Problem("offline", "The server can't be reached.");

function problemOf(status, text, retryAfter) {
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    content = {};
  }
  if (status === 401) return new Problem("signed_out", "You are signed out.", status);
  const { code, message } = content.error ?? {};
  if (!code) return new Problem("odd_answer", `The server gave no answer that this page understands (${status}).`, status);
  return new Problem(code, message, status, Number(retryAfter) || 0);
}

export async function ask(url) {
  let response, text;
  try {
    response = await fetch(url, { headers: { Accept: "application/json" } });
    text = await response.text();
  } catch {
    throw OFFLINE();
  }
  if (!response.ok) throw problemOf(response.status, text, response.headers.get("Retry-After"));
  try {
    return JSON.parse(text);
  } catch {
    throw problemOf(response.status, text);
  }
}

/**
 * Send one picture to be classified.
 *
 * @param {Blob} file without its name: that stays in the browser
 * @param {Record<string, string>} options of /predict
 * @param {(share: number) => void} onSent share of the bytes that are sent, 0 to 1
 * @param {AbortSignal} signal
 * @returns {Promise<object>} the answer
 */
export function predict(file, options, onSent, signal) {
  const form = new FormData();
  form.append("file", file, "picture");
  for (const [name, value] of Object.entries(options)) form.append(name, value);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch tells nothing of an upload's progress
    const stop = () => request.abort();
    request.open("POST", "predict");
    request.upload.onprogress = (event) => event.lengthComputable && onSent(event.loaded / event.total);
    request.upload.onload = () => onSent(1);
    request.onerror = () => reject(OFFLINE());
    request.onabort = () => reject(new Problem("cancelled", "Cancelled."));
    request.onload = () => {
      const problem = problemOf(request.status, request.responseText, request.getResponseHeader("Retry-After"));
      if (request.status !== 200) return reject(problem);
      try {
        const [answer] = JSON.parse(request.responseText);
        if (answer.error) return reject(new Problem(answer.error.code, answer.error.message, 422));
        resolve(answer);
      } catch {
        reject(problem);
      }
    };
    request.onloadend = () => signal.removeEventListener("abort", stop);
    signal.addEventListener("abort", stop);
    if (signal.aborted) request.abort();
    request.send(form);
  });
}
