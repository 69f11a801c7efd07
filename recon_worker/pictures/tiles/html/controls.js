// Moving the view: controls, keys, pointers, wheel.

function moveTo(x, y) {
  const inside = (value, size) => Math.min(Math.max(value, 0), size);
  state.centre = { x: inside(x, state.pyramid.width), y: inside(y, state.pyramid.height) };
  draw();
}

function zoomTo(scale, anchor = state.centre) {
  const before = state.scale;
  state.scale = Math.min(Math.max(scale, Math.min(fitScale(), 1)), MOST_ZOOM);
  if (state.scale <= fitScale()) return fit();
  const shrink = before / state.scale;
  moveTo(anchor.x + (state.centre.x - anchor.x) * shrink, anchor.y + (state.centre.y - anchor.y) * shrink);
}

/** Zoom to the next power of two of screen pixels per pixel. */
const step = (direction) => zoomTo(2 ** (direction > 0
  ? Math.floor(Math.log2(state.scale) + 1.01) : Math.ceil(Math.log2(state.scale) - 1.01)));

function pan(right, down) {
  const seen = box();
  moveTo(state.centre.x + right * (seen.right - seen.left) / 8, state.centre.y + down * (seen.bottom - seen.top) / 8);
  pointAt(state.centre.x, state.centre.y);
}

function goTo(index) {
  state.index = Math.min(Math.max(index, 0), DATA.epochs.length - 1);
  show();
}

function nextPicture() {
  const all = [...$("picture").options].map((one) => one.value);
  state.kind = all[(all.indexOf(state.kind) + 1) % all.length];
  show();
}

const KEYS = {
  ArrowLeft: () => pan(-1, 0), ArrowRight: () => pan(1, 0), ArrowUp: () => pan(0, -1), ArrowDown: () => pan(0, 1),
  "+": () => step(1), "=": () => step(1), "-": () => step(-1), 0: fit, 1: () => zoomTo(1),
  p: () => goTo(state.index - 1), n: () => goTo(state.index + 1), v: nextPicture, "?": () => $("help").showModal(),
};

/** What a key does; the arrow keys of the focused slider are its own. */
const actionOf = ({ key, target }) => (key.startsWith("Arrow") && target.closest("input") ? undefined : KEYS[key]);

/** Position of an event in full-size pixels. */
function place(event) {
  const frame = canvas.getBoundingClientRect();
  const seen = box();
  return {
    x: seen.left + ((event.clientX - frame.left) * devicePixelRatio) / state.scale,
    y: seen.top + ((event.clientY - frame.top) * devicePixelRatio) / state.scale,
  };
}

function listen() {
  const held = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, event);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = held.get(event.pointerId);
    const other = [...held.values()].find((one) => one.pointerId !== event.pointerId);
    const [from, to] = [before && place(before), place(event)];
    if (before && other) {
      const distance = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      zoomTo(state.scale * distance(event) / Math.max(1, distance(before)), place(other));
    } else if (before) moveTo(state.centre.x + from.x - to.x, state.centre.y + from.y - to.y);
    if (before) held.set(event.pointerId, event);
    else pointAt(to.x, to.y);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (held.size === 1) pointAt(place(event).x, place(event).y);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => held.delete(event.pointerId));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomTo(state.scale * Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), place(event));
  }, { passive: false });
}

function start() {
  const names = Object.keys(DATA.pictures);
  $("object").replaceChildren(...names.map((name) => new Option(titleOfObject(name), name)));
  $("object-label").hidden = names.length < 2;
  [state.object] = names;
  $("slider").max = DATA.epochs.length - 1;
  $("slider").disabled = DATA.epochs.length < 2;
  $("object").addEventListener("change", () => { state.object = $("object").value; show(); });
  $("picture").addEventListener("change", () => { state.kind = $("picture").value; show(); });
  $("slider").addEventListener("input", () => goTo(Number($("slider").value)));
  const buttons = { previous: "p", next: "n", "zoom-in": "+", "zoom-out": "-", "zoom-fit": "0", "zoom-pixels": "1" };
  for (const [id, key] of Object.entries(buttons)) $(id).addEventListener("click", KEYS[key]);
  $("help-button").addEventListener("click", KEYS["?"]);
  listenToKeys(actionOf);
  listen();
  new ResizeObserver(() => {
    const whole = state.scale <= fitScale();
    sizeCanvas();
    if (whole) fit();
    else draw();
  }).observe(canvas);
  goTo(DATA.epochs.length - 1);
}

start();
