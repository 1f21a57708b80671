// "Try it": send a request of the API's description, and show the response.

const MAX_CHARACTERS = 20_000;

async function send(event) {
  event.preventDefault();
  const form = event.currentTarget;
  const output = form.querySelector(".response");
  const values = new FormData(form);
  const valueOf = (_, name) => encodeURIComponent(values.get(name));
  const path = form.dataset.path.slice(1).replace(/{(\w+)}/g, valueOf);
  const isPost = form.dataset.method === "post";
  output.hidden = false;
  output.textContent = "…";
  try {
    const response = await fetch(path, isPost ? { method: "POST", body: values } : {});
    output.textContent = `${response.status} ${response.statusText}\n\n${await read(response)}`;
  } catch {
    output.textContent = "The server can’t be reached.";
  }
}

async function read(response) {
  const type = response.headers.get("Content-Type") ?? "";
  if (!/json|text/.test(type)) return `${type}, ${(await response.blob()).size} bytes`;
  const text = await response.text();
  const shown = type.includes("json") ? JSON.stringify(JSON.parse(text), null, 2) : text;
  return shown.length > MAX_CHARACTERS ? `${shown.slice(0, MAX_CHARACTERS)}\n…` : shown;
}

for (const form of document.querySelectorAll(".try")) {
  form.hidden = false;
  form.addEventListener("submit", send);
}
