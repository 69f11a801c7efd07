// Shared by all pages: their data and keyboard shortcuts.

const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

/** Run the actions of keys, except those that the focused control uses. actionOf(event) returns a function, if any. */
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
