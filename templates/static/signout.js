// Signing out removes the results that are kept in this tab.

document.getElementById("sign-out").addEventListener("submit", () => sessionStorage.clear());
