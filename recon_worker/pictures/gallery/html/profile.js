// A line on the pictures, and the values along it.

/** A picture with the line on it. */
class LinePanel extends PicturePanel {
  draw() {
    super.draw();
    if (this.picture && state.line && isOpen() && this.space === spaceOf(state.quantity)) strokeLine(this);
  }
}

const spaceOf = (quantity) => state.spaces[quantity.startsWith("diff") ? 1 : 0];
const isDrawing = () => $("draw-line").getAttribute("aria-pressed") === "true";

function strokeLine({ canvas, picture, space }) {
  const scale = (canvas.width / picture.width) * space.zoom;
  const [from, to] = [state.line.from, state.line.to].map(({ x, y }) => [
    canvas.width / 2 + (x - space.centre.x) * picture.width * scale,
    canvas.height / 2 + (y - space.centre.y) * picture.height * scale,
  ]);
  const context = canvas.getContext("2d");
  for (const [width, colour] of [[4, "#000"], [1.5, "#fff"]]) {
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.stroke();
    context.beginPath(); // a dot marks the start
    context.arc(...from, 4 + width / 2, 0, 2 * Math.PI);
    context.fillStyle = colour;
    context.fill();
  }
}

/** Size of the full-size pictures of the chosen quantity, [width, height]. */
function fullSize() {
  const kind = fileKind([...state.panels.keys()].find((one) => quantityOf(one) === state.quantity));
  const entry = [shown(), ...state.frames].find((one) => kind in viewOf(one).pictures);
  return [...viewOf(entry).pictures[kind].full_size].reverse();
}

/** Ends of the line in pixels of the full-size picture: x and y of the start, x and y of the end. */
function lineInPixels() {
  const size = fullSize();
  return [state.line.from, state.line.to].flatMap(({ x, y }) => [x, y].map((share, axis) => Math.floor(share * size[axis])));
}

/** Set the line in pixels of the full-size picture; its ends are centres of pixels inside it. */
function setLine(pixels) {
  const size = fullSize();
  const share = (at) => (Math.min(Math.max(Math.floor(pixels[at]), 0), size[at % 2] - 1) + 0.5) / size[at % 2];
  state.line = { from: { x: share(0), y: share(1) }, to: { x: share(2), y: share(3) } };
  showLine();
}

function removeLine() {
  state.line = null;
  setDrawing(false);
  showLine();
}

function showLine() {
  for (const space of state.spaces) space.draw();
  showProfile();
  showLink();
}

/** Let the pointer draw or not. Without a line, there is one across the middle at first. */
function setDrawing(on) {
  $("draw-line").setAttribute("aria-pressed", String(on));
  $("rows").classList.toggle("drawing", on);
  if (!on) return;
  $("inspect").open = true;
  const [width, height] = fullSize();
  if (!state.line) setLine([0, height / 2, width - 1, height / 2]);
}

const toggleDrawing = () => state.panels.size && setDrawing(!isDrawing());

/** Values along the line, one per pixel of its length: [[share of the length, value], ...]. */
function valuesAlongLine(picture) {
  const { from, to } = state.line;
  const { width, height } = picture;
  const count = Math.max(2, Math.round(Math.hypot((to.x - from.x) * width, (to.y - from.y) * height)) + 1);
  const values = valuesOf(picture);
  return Array.from({ length: count }, (_, at) => {
    const share = at / (count - 1);
    const x = Math.floor((from.x + share * (to.x - from.x)) * width);
    const y = Math.floor((from.y + share * (to.y - from.y)) * height);
    return [share, values[y * width + x]];
  });
}

function showProfile() {
  const pictures = state.line ? chosenPictures() : [];
  $("profile").hidden = $("line-ends").hidden = !pictures.length;
  $("remove-line").disabled = !state.line;
  if (!pictures.length) return;
  const pixels = lineInPixels();
  fullSize().forEach((count, axis) => [axis, axis + 2].forEach((at) => { lineInputs()[at].max = count - 1; }));
  lineInputs().forEach((input, at) => { if (input !== document.activeElement) input.value = pixels[at]; });
  const series = pictures.map(({ name, picture: one }) => ({ name, points: valuesAlongLine(one) }));
  const finite = series.flatMap((one) => one.points.map(([, value]) => value)).filter(Number.isFinite);
  const [low, high] = finite.length ? [Math.min(...finite), Math.max(...finite)] : [0, 1];
  const { unit } = pictures[0].picture;
  const length = lengthOfLine(pixels);
  plot($("profile"), {
    series, x: [0, 1], y: [low, high], xEnds: ["start \u25cf", length], yEnds: [numberText(low), withUnit(numberText(high), unit)],
    label: `Profile of ${titleOfQuantity(state.quantity).toLowerCase()} over ${length}. ${series.map(rangeOfSeries).join(". ")}`,
  });
}

function rangeOfSeries({ name, points }) {
  const values = points.map(([, value]) => value).filter(Number.isFinite);
  if (!values.length) return `${name}: no values`;
  const [first, last, least, most] = [values[0], values.at(-1), Math.min(...values), Math.max(...values)].map(numberText);
  return `${name}: ${first} at the start, ${last} at the end, between ${least} and ${most}`;
}

function lengthOfLine([x0, y0, x1, y1]) {
  const px = Math.hypot(x1 - x0, y1 - y0);
  const size = state.quantity.startsWith("diff") ? null : shown().pixel_size_m;
  return `${numberText(px)} px${size && px ? ` = ${lengthText(px * size)}` : ""}`;
}

const lineInputs = () => [...$("line-ends").querySelectorAll("input")];

/** Let a drag draw a line while drawing is on, before the pictures take it for pointing or moving. */
function listenForLines() {
  let drawn = null;
  const on = (type, act) => $("rows").addEventListener(type, (event) => {
    const figure = event.target.closest("canvas.picture")?.closest("figure");
    if (!isDrawing() || !figure || (type !== "pointerdown" && !drawn)) return;
    event.stopPropagation();
    act(event, figure.dataset.kind);
  }, true);
  const pixelAt = (event) => {
    const { x, y } = drawn.panel.share(event);
    return [x, y].map((share, axis) => share * fullSize()[axis]);
  };
  on("pointerdown", (event, kind) => {
    drawn = { panel: state.panels.get(kind).panel };
    event.target.setPointerCapture(event.pointerId);
    chooseQuantity(quantityOf(kind));
    drawn.start = pixelAt(event);
    setLine([...drawn.start, ...drawn.start]);
  });
  on("pointermove", (event) => setLine([...drawn.start, ...pixelAt(event)]));
  for (const end of ["pointerup", "pointercancel"]) on(end, () => { drawn = null; });
}

function chooseQuantity(quantity) {
  state.quantity = quantity;
  $("quantity").value = quantity;
  showInspector();
}

/** Show histogram, contrast and line profile of the chosen quantity, if they are open. */
function showInspector() {
  for (const space of state.spaces) space.draw();
  if (!isOpen()) return;
  showHistogram();
  showProfile();
}

function listenToInspector() {
  listenForLines();
  $("quantity").addEventListener("change", () => chooseQuantity($("quantity").value));
  for (const id of ["low", "high"]) $(id).addEventListener("input", () => changeContrast(id));
  $("contrast-reset").addEventListener("click", () => {
    state.contrast.delete(state.quantity);
    recolour();
  });
  $("draw-line").addEventListener("click", toggleDrawing);
  $("remove-line").addEventListener("click", removeLine);
  $("line-ends").addEventListener("input", () => {
    const pixels = lineInputs().map((input) => input.valueAsNumber);
    if (pixels.every(Number.isFinite)) setLine(pixels);
  });
  $("inspect").addEventListener("toggle", showInspector);
  window.addEventListener("resize", showInspector);
}
