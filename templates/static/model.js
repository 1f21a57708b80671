// Show *The model* in a dialog: leaving the page would lose the images.

const dialog = document.getElementById("model");
const content = dialog.querySelector(".dialog-content");

async function showModel(event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a new tab or window
  event.preventDefault();
  content.replaceChildren();
  dialog.showModal();
  const response = await fetch(event.currentTarget.href).catch(() => null);
  const page = new DOMParser().parseFromString((await response?.text()) ?? "", "text/html");
  const parts = [...(page.querySelector("main")?.children ?? [])];
  if (!response?.ok || !parts.length) {
    const message = document.createElement("p");
    message.className = "error";
    message.textContent = "The page can’t be loaded. Try again, or open it in a new tab.";
    return content.replaceChildren(message);
  }
  content.replaceChildren(...parts);
  for (const link of content.querySelectorAll("a[href]")) link.target = "_blank";
  dialog.scrollTop = 0;
}

export function watchModelLink() {
  document.querySelector("nav [data-page=about]").addEventListener("click", showModel);
}
