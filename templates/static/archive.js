// Unpack zip archives in the browser, so that one is the same as a folder.

import { collator } from "./format.js";
import { showMessage } from "./messages.js";

const MAGIC = 0x04034b50;
const DIRECTORY_ENTRY = 0x02014b50;
const END_OF_DIRECTORY = 0x06054b50;
const MAX_END_SIZE = 65_557; // with the longest comment
const ENCRYPTED = 0x1; // one of the flags
const HIDDEN = /(^|\/)(\.|__MACOSX\/)/;

/**
 * Replace zip archives by their files, whose `folder` begins with the archive's name.
 *
 * @param {File[]} files
 * @param {number} max files of an archive that are unpacked; more are empty, to be counted
 * @returns {Promise<File[]>} those of each archive in the order of their paths
 */
export async function unpackArchives(files, max) {
  const lists = await Promise.all(files.map(async (file) => {
    if (!(await isArchive(file))) return [file];
    try {
      return await unpack(file, max);
    } catch {
      const text = "The browser can’t unpack it. Is it damaged or encrypted?";
      showMessage(`archive ${file.name}`, `${file.name} not added. ${text}`);
      return [];
    }
  }));
  return lists.flat();
}

async function isArchive(file) {
  if (file.type.startsWith("image/") || file.size < 4) return false;
  return viewOf(file, 0, 4).then((view) => view.getUint32(0, true) === MAGIC, () => false);
}

async function viewOf(blob, start, end) {
  return new DataView(await blob.slice(start, end).arrayBuffer());
}

async function unpack(archive, max) {
  const parent = [archive.folder, archive.name.replace(/\.zip$/i, "")].filter(Boolean).join("/");
  const entries = await readDirectory(archive);
  const visible = entries.filter(({ path }) => !path.endsWith("/") && !HIDDEN.test(path));
  if (!visible.length) throw new Error("no files");
  visible.sort((a, b) => collator.compare(a.path, b.path));
  return Promise.all(visible.map(async (entry, index) => {
    const parts = entry.path.split("/").filter(Boolean);
    const content = index < max ? [await extract(archive, entry)] : [];
    const file = new File(content, parts.pop());
    return Object.assign(file, { folder: [parent, ...parts].join("/") });
  }));
}

async function readDirectory(archive) {
  const tail = await viewOf(archive, Math.max(0, archive.size - MAX_END_SIZE));
  let end = tail.byteLength - 22;
  while (tail.getUint32(end, true) !== END_OF_DIRECTORY) end -= 1; // fails at the beginning
  const start = tail.getUint32(end + 16, true);
  const view = await viewOf(archive, start, start + tail.getUint32(end + 12, true));
  const entries = [];
  for (let at = 0; at < view.byteLength;) {
    const [nameSize, extraSize, commentSize] = [28, 30, 32].map((field) => view.getUint16(at + field, true));
    if (view.getUint32(at, true) !== DIRECTORY_ENTRY) throw new Error("damaged");
    const name = new Uint8Array(view.buffer, at + 46, nameSize);
    entries.push({
      path: new TextDecoder().decode(name).replaceAll("\\", "/"),
      isEncrypted: Boolean(view.getUint16(at + 8, true) & ENCRYPTED),
      method: view.getUint16(at + 10, true),
      size: view.getUint32(at + 20, true), // compressed
      start: view.getUint32(at + 42, true),
    });
    at += 46 + nameSize + extraSize + commentSize;
  }
  return entries;
}

async function extract(archive, { isEncrypted, method, size, start }) {
  const header = await viewOf(archive, start, start + 30);
  const begin = start + 30 + header.getUint16(26, true) + header.getUint16(28, true);
  const data = archive.slice(begin, begin + size);
  if (isEncrypted || header.getUint32(0, true) !== MAGIC) throw new Error("not readable");
  if (method === 0) return data;
  if (method !== 8) throw new Error("not deflated");
  const stream = data.stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Response(stream).blob();
}
