// Keyboard.

const each = (act) => state.spaces.filter((space) => space.panels.length).forEach(act);

const KEYS = {
  ArrowLeft: () => stepTo(state.index - 1),
  ArrowRight: () => stepTo(state.index + 1),
  Home: () => stepTo(0),
  End: () => stepTo(state.frames.length - 1),
  " ": () => togglePlay(),
  "+": () => each((space) => space.step(1)),
  "=": () => each((space) => space.step(1)),
  "-": () => each((space) => space.step(-1)),
  0: () => each((space) => space.reset()),
  c: () => $("other").focus(),
  l: () => toggleDrawing(),
  "?": () => $("help").showModal(),
};

function onKey(event) {
  const own = event.target.closest("select, dialog, input:not(#slider)")
    || (event.key === " " && event.target.closest("button, summary, a"));
  const act = KEYS[event.key];
  if (!act || own || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act();
}
