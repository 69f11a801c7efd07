// State of the page (current figure and epoch, epoch to compare with), pictures, curves and controls.

const GROUPS = { amp: "Amplitude", phase: "Phase", diff: "Diffraction", misfit: "Misfit of the diffraction" };
const ROLES = { pred: "predicted", gt: "truth", obs: "observed" };
const FIT = /^fit_/;

/**
 * other: epoch to compare with; null: none, so truth and error are shown if there is a truth
 * line: {from, to}, each {x, y} in fractions of the picture's sides; contrast: [first, last] value by quantity
 */
const state = {
  view: "", frames: [], index: 0, timer: 0, other: null, panels: new Map(), spaces: [], curves: [],
  quantity: "", line: null, contrast: new Map(),
};

const shown = () => state.frames[state.index];

function titleOfPicture(kind) {
  const [group, role] = kind.split("_");
  if (!role) return GROUPS[group];
  if (role === "error") return `${GROUPS[group]} error`;
  if (role === "change") return `${GROUPS[group]} difference`;
  if (state.other !== null) return `${GROUPS[group]}, epoch ${role === "other" ? state.other : shown().epoch}`;
  const refined = role === "pred" && state.view.startsWith("refined");
  return `${GROUPS[group]}, ${refined ? "refined" : ROLES[role]}`;
}

/** Show an object or a sample at the current epoch, or at the nearest epoch with pictures of it. */
function chooseView(name, epoch = shown()?.epoch ?? Infinity) {
  state.view = name;
  state.line = null;
  state.spaces = [];
  state.frames = DATA.entries.filter((entry) => Object.keys(viewOf(entry)?.pictures ?? {}).length);
  $("slider").max = state.frames.length - 1;
  for (const id of ["slider", "play", "previous", "next", "other"]) $(id).disabled = state.frames.length < 2;
  const epochs = state.frames.map((entry) => new Option(epochText(entry), entry.epoch));
  $("other").replaceChildren(new Option("no other epoch", ""), ...epochs);
  buildCurves();
  compareWith(frameOf(state.other)?.epoch ?? null, epoch);
}

const epochText = ({ epoch }) => `Epoch ${epoch}${epoch ? "" : " (untrained)"}`;
const frameOf = (epoch) => state.frames.find((entry) => entry.epoch === epoch);

/** Show the pictures of another epoch and the difference in place of truth and error. other = null: stop that. */
function compareWith(other, epoch = shown().epoch) {
  state.other = other;
  $("other").value = other ?? "";
  const places = state.spaces.map(({ zoom, centre }) => ({ zoom, centre }));
  buildPanels();
  state.spaces.forEach((space, at) => Object.assign(space, places[at]));
  goToEpoch(epoch);
}

function buildPanels() {
  state.panels = new Map();
  $("rows").replaceChildren();
  const kinds = kindsShown();
  const object = new Space(showValues);
  const diffraction = new Space(showValues);
  state.spaces = [object, diffraction];
  for (const [group, row] of rowsOf(kinds)) {
    const line = document.createElement("div");
    line.className = "row";
    line.dataset.group = group;
    line.setAttribute("role", "group");
    line.setAttribute("aria-label", GROUPS[group] ?? "Object");
    line.style.setProperty("--columns", group === "misfit" ? 3 : row.length);
    for (const kind of row) line.append(buildPanel(kind, kind.startsWith("diff_") ? diffraction : object));
    $("rows").append(line);
  }
  listQuantities();
}

/** Kinds of picture in order. In a comparison "amp_other" is the other epoch's amp_pred, "amp_change" the difference. */
function kindsShown() {
  const kinds = [...new Set(state.frames.flatMap((entry) => Object.keys(viewOf(entry).pictures)))];
  if (state.other === null) return kinds;
  const predicted = kinds.filter((kind) => kind.split("_")[1] === "pred");
  return predicted.flatMap((kind) => [kind, ...["other", "change"].map((role) => `${kind.split("_")[0]}_${role}`)]);
}

/** Place amplitude and phase in separate rows if a truth exists, otherwise in one row. */
function rowsOf(kinds) {
  const group = (start) => kinds.filter((kind) => kind.startsWith(start));
  const [amp, phase, diff, misfit] = [group("amp_"), group("phase_"), group("diff_"), group("misfit")];
  const object = amp.length > 1 ? [["amp", amp], ["phase", phase], ["misfit", misfit]] : [["both", [...amp, ...phase, ...misfit]]];
  return [...object, ["diff", diff]].filter(([, row]) => row.length);
}

function buildPanel(kind, space) {
  const figure = document.createElement("figure");
  figure.dataset.kind = kind;
  figure.innerHTML = `<figcaption><b></b><output aria-live="off"></output></figcaption>
    <canvas class="picture" tabindex="0" role="application" aria-roledescription="picture" aria-describedby="picture-keys"></canvas>
    <canvas class="bar" aria-hidden="true"></canvas><div class="ends"><span></span><span></span></div>`;
  const canvas = figure.querySelector(".picture");
  const panel = new LinePanel(canvas, space);
  state.panels.set(kind, { figure, panel, value: figure.querySelector("output") });
  return figure;
}

function buildCurves() {
  const series = Object.entries(DATA.labels).map(([name, label]) => [name, label, pointsOf(name)]);
  const epochs = DATA.entries.map((entry) => entry.epoch);
  state.curves = series
    .filter(([, , points]) => points.length)
    .map(([name, label, points]) => new Curve(name, label, points, epochs, goToEpoch));
  const fit = state.curves.filter((curve) => FIT.test(curve.element.dataset.metric));
  $("curves").replaceChildren(...state.curves.filter((curve) => !fit.includes(curve)).map((curve) => curve.element));
  $("fit-curves").replaceChildren(...fit.map((curve) => curve.element));
  $("more-curves").hidden = !fit.length;
  $("curves-title").hidden = !state.curves.length;
}

function pointsOf(name) {
  const value = (entry) => viewOf(entry)?.metrics[name] ?? entry.metrics[name] ?? null;
  return DATA.entries.map((entry) => ({ epoch: entry.epoch, value: value(entry) })).filter((one) => one.value !== null);
}

/** Show the nearest epoch with pictures. */
function goToEpoch(epoch) {
  const distance = (entry) => Math.abs(entry.epoch - Math.min(epoch, DATA.entries.at(-1).epoch));
  const nearest = Math.min(...state.frames.map(distance));
  goTo(state.frames.findIndex((entry) => distance(entry) === nearest));
}

async function goTo(index) {
  state.index = Math.min(Math.max(index, 0), state.frames.length - 1);
  const entry = shown();
  if (!entry) return;
  $("slider").value = state.index;
  $("epoch").textContent = `${epochText(entry)}, step ${entry.step}`;
  $("slider").setAttribute("aria-valuetext", $("epoch").textContent);
  for (const curve of state.curves) {
    curve.mark(entry.epoch);
    describeCurve(curve, entry);
  }
  const { other, panels } = state;
  const ready = await Promise.all([...panels.keys()].map(async (kind) => [kind, await pictureOf(kind, entry, other)]));
  if (entry !== shown() || panels !== state.panels) return; // something else is shown by now
  for (const [kind, one] of ready) showPicture(kind, one, entry);
  showValues();
  showInspector();
  showNotes(entry);
  showMisfit();
  showDownloads();
  showLink();
  document.documentElement.dataset.epoch = entry.epoch;
  document.documentElement.dataset.other = other ?? "";
}

/** Kind of the file behind a picture. */
const fileKind = (kind) => kind.replace(/^diff_(other|change)$/, "diff_pred_logI").replace(/_(other|change)$/, "_pred");

/** Decoded picture of a kind; null if the epoch has none. */
async function pictureOf(kind, entry, other) {
  const [own, others] = [entry, frameOf(other)].map((one) => one && viewOf(one).pictures[fileKind(kind)]);
  const decode = (thumbnail) => (thumbnail ? picture(thumbnail.png) : null);
  if (kind.endsWith("_other")) return decode(others);
  if (!kind.endsWith("_change")) return decode(own);
  const pair = await Promise.all([decode(own), decode(others)]);
  return pair.includes(null) ? null : difference(...pair);
}

function showPicture(kind, one, entry) {
  const kept = state.panels.get(kind);
  const { figure, panel } = kept;
  const title = titleOfPicture(kind);
  figure.querySelector("b").textContent = title;
  figure.style.visibility = one ? "visible" : "hidden";
  kept.picture = one;
  panel.picture = null;
  if (!one) return;
  panel.centreOnly = hasDimmedBorder(entry) && /^(amp|phase)_(pred|gt|other|change)$/.test(kind);
  paint(kind, kept);
  const [low, high] = figure.querySelectorAll(".ends span");
  [low.textContent, high.textContent] = endTexts(one.vmin, one.vmax, one.unit);
  figure.setAttribute("aria-label", title);
  panel.canvas.setAttribute("aria-label", `${title}${state.other === null ? `, epoch ${entry.epoch}` : ""}: ${statisticsText(one)}`);
  figure.title = `${one.quantity}\n${sourceOf(kind, entry)}`;
}

/** Draw a picture and its colour bar. */
function paint(kind, { figure, panel, picture: one }) {
  panel.show(contrasted(kind, one));
  drawBar(figure.querySelector(".bar"), panel.picture);
}

/** Path and size of the full-size picture. */
function sourceOf(kind, entry) {
  if (kind.endsWith("_change")) return `epoch ${entry.epoch} minus epoch ${state.other}`;
  const from = kind.endsWith("_other") ? frameOf(state.other) : entry;
  const { full_size: size } = viewOf(from).pictures[fileKind(kind)];
  return `${from.folder}/${state.view}/${fileKind(kind)}.png, ${size.join(" \u00d7 ")} px`;
}

/** Whether the view is a patch that is compared with the truth: only on its central half. */
const hasDimmedBorder = (entry) => state.view.startsWith("patch_") && "amp_error" in viewOf(entry).pictures;

/** Show the values at the pointed-at pixel in every picture, and its position in the full-size picture. */
function showValues() {
  for (const { panel, value } of state.panels.values()) {
    const pointed = panel.space.point && panel.picture && inside(panel.space.point);
    value.textContent = pointed ? textAt(panel) : "";
  }
  $("readout").textContent = positionText();
}

const inside = ({ x, y }) => x >= 0 && x < 1 && y >= 0 && y < 1;

function positionText() {
  const space = state.spaces.find((one) => one.point && inside(one.point));
  if (!space) return "Point at a picture to read its values. Zoom with the wheel or by pinching.";
  const { panel, figure } = [...state.panels.values()].find((one) => one.panel.space === space && one.panel.picture);
  const { block_px: block, full_size: [height, width] } = viewOf(shown()).pictures[fileKind(figure.dataset.kind)];
  const { x, y } = panel.pixel();
  const range = (first, count) => {
    const last = Math.min(first * block + block, count) - 1;
    return block > 1 && last > first * block ? `${first * block}\u2013${last}` : `${first * block}`;
  };
  const mean = block > 1 ? `, mean of ${block} \u00d7 ${block} px` : "";
  return `x ${range(x, width)}, y ${range(y, height)} px${mean}`;
}

function play(on) {
  clearInterval(state.timer);
  state.timer = 0;
  if (on) {
    if (state.index === state.frames.length - 1) goTo(0);
    state.timer = setInterval(() => {
      goTo(state.index + 1);
      if (state.index === state.frames.length - 1) play(false);
    }, FRAME_MS);
  }
  $("play").textContent = on ? "Stop" : "Play";
  $("play").setAttribute("aria-pressed", String(on));
}

function stepTo(index) {
  play(false);
  goTo(index);
  speak($("epoch").textContent);
}

const togglePlay = () => state.frames.length > 1 && play(!state.timer);

function start() {
  const names = [...new Set(DATA.entries.flatMap((entry) => entry.views.map((view) => view.name)))];
  $("view").replaceChildren(...names.map((name) => new Option(titleOfView(name), name)));
  $("view-label").hidden = names.length < 2;
  $("view").addEventListener("change", () => chooseView($("view").value));
  $("other").addEventListener("change", () => compareWith($("other").value === "" ? null : Number($("other").value)));
  $("slider").addEventListener("input", () => stepTo(Number($("slider").value)));
  $("previous").addEventListener("click", KEYS.ArrowLeft);
  $("next").addEventListener("click", KEYS.ArrowRight);
  $("play").addEventListener("click", togglePlay);
  $("zoom-in").addEventListener("click", KEYS["+"]);
  $("zoom-out").addEventListener("click", KEYS["-"]);
  $("zoom-reset").addEventListener("click", KEYS[0]);
  $("help-button").addEventListener("click", KEYS["?"]);
  $("rows").addEventListener("click", chooseSample);
  listenToKeys(actionOf);
  listenToInspector();
  window.addEventListener("hashchange", () => location.hash !== linkText() && openLink());
  if (names.length) openLink();
}

start();
