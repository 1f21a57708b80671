// The request of a card as code to run elsewhere.

import { copyText } from "./format.js";

const dialog = document.getElementById("code");

/** @returns {string} a shell word */
const shellQuote = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;
/** @returns {string} a string literal of Python and JavaScript */
const quote = (text) => JSON.stringify(text);

function curl({ url, file, options, needsToken }) {
  const name = /[",;\\]/.test(file) ? quote(file) : file;
  const parts = [`curl ${shellQuote(url)}`];
  if (needsToken) parts.push('-H "Authorization: Bearer $TOKEN"');
  parts.push(`-F ${shellQuote(`file=@${name}`)}`);
  for (const [key, value] of Object.entries(options)) parts.push(`-F ${key}=${value}`);
  return parts.join(" \\\n  ");
}

function python({ url, file, options, needsToken }) {
  return [
    ...(needsToken ? ["import os", ""] : []),
    "import requests",
    "",
    `with open(${quote(file)}, "rb") as file:`,
    "    response = requests.post(",
    `        ${quote(url)},`,
    '        files={"file": file},',
    `        data=${quote(options).replaceAll(",", ", ").replaceAll(":", ": ")},`,
    ...(needsToken
      ? ["        headers={\"Authorization\": f\"Bearer {os.environ['TOKEN']}\"},"]
      : []),
    "        timeout=60,",
    "    )",
    "response.raise_for_status()",
    "result = response.json()[0]",
    'print(result["image"], result["probability"])',
  ].join("\n");
}

function javascript({ url, file, options, needsToken }) {
  const headers = needsToken ? "  headers: { Authorization: `Bearer ${process.env.TOKEN}` },\n" : "";
  return [
    'import { openAsBlob } from "node:fs";',
    "",
    "const form = new FormData();",
    `form.append("file", await openAsBlob(${quote(file)}));`,
    ...Object.entries(options).map(([key, value]) => `form.append(${quote(key)}, ${quote(value)});`),
    `const response = await fetch(${quote(url)}, {`,
    `  method: "POST",\n${headers}  body: form,`,
    "});",
    "if (!response.ok) throw new Error(await response.text());",
    "const [result] = await response.json();",
    "console.log(result.image, result.probability);",
  ].join("\n");
}

/**
 * @param {string} file name of the image
 * @param {Record<string, string>} options of /predict
 */
export function showSnippets(file, options) {
  const needsToken = document.body.dataset.needsToken === "true";
  const request = { url: new URL("predict", location.href).href, file, options, needsToken };
  for (const [id, write] of Object.entries({ curl, python, javascript })) {
    document.getElementById(`code-${id}`).textContent = write(request);
  }
  dialog.querySelector(".token-note").hidden = !needsToken;
  dialog.showModal();
}

dialog.addEventListener("click", ({ target }) => {
  if (target.dataset.copy) copyText(document.getElementById(target.dataset.copy), target);
});
