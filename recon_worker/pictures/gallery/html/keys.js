// Keyboard and screen readers.

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
  Escape: () => {
    setDrawing(false);
    each((space) => space.pointAt(null));
  },
  "?": () => $("help").showModal(),
};
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function actionOf(event) {
  const move = event.shiftKey && MOVES[event.key];
  return move ? () => movePoint(...move) : KEYS[event.key];
}

/** Announce a text to screen readers. */
function speak(content) {
  $("spoken").textContent = content;
}

/** Point at the next pixel of the focused picture, or else of the first picture; begin in the middle. */
function movePoint(right, down) {
  const panels = [...state.panels].filter(([, one]) => one.picture);
  if (!panels.length) return;
  const focused = panels.find(([, { panel }]) => panel.canvas === document.activeElement);
  const [kind, { panel }] = focused ?? panels[0];
  const { space, picture: { width, height } } = panel;
  const from = space.point && inside(space.point) ? panel.pixel() : { x: Math.floor(width / 2) - right, y: Math.floor(height / 2) - down };
  const within = (pixel, count) => (Math.min(Math.max(pixel, 0), count - 1) + 0.5) / count;
  space.pointAt({ x: within(from.x + right, width), y: within(from.y + down, height) });
  keepInSight(space);
  const spoken = focused ? [[kind, focused[1]]] : panels.filter(([, one]) => one.panel.space === space);
  speak(`${$("readout").textContent}. ${spoken.map(([of, one]) => `${titleOfPicture(of)}: ${one.value.textContent}`).join(". ")}`);
}

function keepInSight(space) {
  const half = 0.5 / space.zoom;
  const follow = (centre, point) => Math.min(Math.max(centre, point - half), point + half);
  space.moveTo({ x: follow(space.centre.x, space.point.x), y: follow(space.centre.y, space.point.y) });
}

/** Describe a curve in words: its value now, and its first and last. */
function describeCurve({ svg, output, points, unit, element: { title, firstChild } }, entry) {
  output.setAttribute("aria-live", "off"); // the description is enough
  const valueOf = ({ value }) => `${numberText(value)} ${unit}`.trim();
  const now = points.find((one) => one.epoch === entry.epoch);
  const [first, last] = [points[0], points.at(-1)].map((one) => `${valueOf(one)} at epoch ${one.epoch}`);
  const name = firstChild.querySelector("b").textContent;
  svg.setAttribute("aria-label", `${name}: ${now ? valueOf(now) : "not defined"} at epoch ${entry.epoch}; from ${first} to ${last}${title && `; ${title}`}`);
}
