// Messages that stay until the user closes them.

const shown = new Map(); // by key: the element and what to do once it is closed

/**
 * @param {string} key a new message replaces the one with the same key
 * @param {string} text
 * @param {{action?: {label: string, run: () => void}, onClose?: () => void}} options a button, and
 *   what to do when the message is closed without it
 * @returns {?HTMLButtonElement} the button
 */
export function showMessage(key, text, { action, onClose } = {}) {
  closeMessage(key);
  const element = document.getElementById("message").content.firstElementChild.cloneNode(true);
  element.querySelector("span").textContent = text;
  const [button, close] = element.querySelectorAll("button");
  button.hidden = !action;
  button.textContent = action?.label;
  button.addEventListener("click", () => {
    closeMessage(key, false);
    action.run();
  });
  close.addEventListener("click", () => {
    closeMessage(key);
    document.getElementById("file").focus();
  });
  shown.set(key, { element, onClose });
  document.getElementById("messages").append(element);
  return action ? button : null;
}

export function closeMessage(key, isIgnored = true) {
  const message = shown.get(key);
  if (!message) return;
  shown.delete(key);
  message.element.remove();
  if (isIgnored) message.onClose?.();
}
