// Signing out removes the results that are kept in this tab.

const clear = () => sessionStorage.clear();

document.getElementById("sign-out").addEventListener("submit", () => {
  clear();
  window.addEventListener("pagehide", clear); // the page may have kept a result since
});
