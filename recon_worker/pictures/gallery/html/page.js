// What all pages share: their data, and the keyboard.

const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

/** Do what keys ask for, except those that the focused control uses itself. actionOf(event) returns a function, if any. */
function listenToKeys(actionOf) {
  document.addEventListener("keydown", (event) => {
    const own = event.target.closest("select, dialog, input:not(#slider)")
      || (event.key === " " && event.target.closest("button, summary, a"));
    const act = actionOf(event);
    if (!act || own || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });
}
