// State of the page (current figure and epoch), controls and keyboard shortcuts.

const DATA = JSON.parse(document.getElementById("data").textContent);
const GROUPS = { amp: "Amplitude", phase: "Phase", diff: "Diffraction" };
const ROLES = { pred: "predicted", gt: "truth", obs: "observed" };
const FIT = /^fit_/;
const FRAME_MS = 350;
const $ = (id) => document.getElementById(id);

const decoded = new Map();
const state = { view: "", frames: [], index: 0, timer: 0, panels: new Map(), spaces: [], curves: [] };

function picture(name) {
  if (!decoded.has(name)) decoded.set(name, decodePicture(DATA.pictures[name]));
  return decoded.get(name);
}

const viewOf = (entry) => entry.views.find((view) => view.name === state.view);
const shown = () => state.frames[state.index];

function titleOfView(name) {
  const [kind, number] = name.split("_object_");
  if (kind.startsWith("patch_")) return `Sample ${Number(kind.split("_").at(-1))}`;
  return `Object ${number ?? ""}`.trim() + (kind === "refined" ? ", refined" : "");
}

function titleOfPicture(kind) {
  const [group, role] = kind.split("_");
  if (role === "error") return `${GROUPS[group]} error`;
  const refined = role === "pred" && state.view.startsWith("refined");
  return `${GROUPS[group]}, ${refined ? "refined" : ROLES[role]}`;
}

/** Show an object or a sample at the current epoch, or at the nearest epoch with pictures of it. */
function chooseView(name) {
  const epoch = shown()?.epoch ?? Infinity;
  state.view = name;
  state.frames = DATA.entries.filter((entry) => Object.keys(viewOf(entry)?.pictures ?? {}).length);
  $("slider").max = state.frames.length - 1;
  for (const id of ["slider", "play", "previous", "next"]) $(id).disabled = state.frames.length < 2;
  buildPanels();
  buildCurves();
  goToEpoch(epoch);
}

function buildPanels() {
  state.panels.clear();
  $("rows").replaceChildren();
  const kinds = [...new Set(state.frames.flatMap((entry) => Object.keys(viewOf(entry).pictures)))];
  const object = new Space(showValues);
  const diffraction = new Space(showValues);
  state.spaces = [object, diffraction];
  for (const [group, row] of rowsOf(kinds)) {
    const line = document.createElement("div");
    line.className = "row";
    line.dataset.group = group;
    line.style.setProperty("--columns", row.length);
    for (const kind of row) line.append(buildPanel(kind, kind.startsWith("diff_") ? diffraction : object));
    $("rows").append(line);
  }
}

/** Place amplitude and phase in separate rows if a truth exists, otherwise in one row. */
function rowsOf(kinds) {
  const group = (start) => kinds.filter((kind) => kind.startsWith(start));
  const [amp, phase, diff] = [group("amp_"), group("phase_"), group("diff_")];
  const object = amp.length > 1 ? [["amp", amp], ["phase", phase]] : [["both", [...amp, ...phase]]];
  return [...object, ["diff", diff]].filter(([, row]) => row.length);
}

function buildPanel(kind, space) {
  const figure = document.createElement("figure");
  figure.dataset.kind = kind;
  figure.innerHTML = `<figcaption><b></b><output></output></figcaption>
    <canvas class="picture" tabindex="-1" role="img"></canvas>
    <canvas class="bar" aria-hidden="true"></canvas><div class="ends"><span></span><span></span></div>`;
  figure.querySelector("b").textContent = titleOfPicture(kind);
  const canvas = figure.querySelector(".picture");
  const panel = new PicturePanel(canvas, space);
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
  $("epoch").textContent = `Epoch ${entry.epoch}${entry.epoch ? "" : " (untrained)"}, step ${entry.step}`;
  $("slider").setAttribute("aria-valuetext", $("epoch").textContent);
  for (const curve of state.curves) curve.mark(entry.epoch);
  const pictures = viewOf(entry).pictures;
  const ready = await Promise.all(
    [...state.panels.keys()].map(async (kind) => [kind, pictures[kind] && (await picture(pictures[kind].png))]),
  );
  if (entry !== shown()) return; // the slider has moved on
  for (const [kind, one] of ready) showPicture(kind, one, pictures[kind], entry);
  showValues();
  showNotes(entry);
  document.documentElement.dataset.epoch = entry.epoch;
}

function showPicture(kind, one, thumbnail, entry) {
  const { figure, panel } = state.panels.get(kind);
  figure.style.visibility = one ? "visible" : "hidden";
  if (!one) return;
  panel.centreOnly = hasDimmedBorder(entry) && /^(amp|phase)_(pred|gt)$/.test(kind);
  panel.show(one);
  drawBar(figure.querySelector(".bar"), one);
  const [low, high] = figure.querySelectorAll(".ends span");
  low.textContent = endText(one.vmin, "");
  if (one.unit === "rad") low.textContent = endText(one.vmin, "rad").replace(" rad", "");
  high.textContent = endText(one.vmax, one.unit);
  panel.canvas.setAttribute("aria-label", `${titleOfPicture(kind)}, epoch ${entry.epoch}`);
  figure.title = `${one.quantity}\n${entry.folder}/${state.view}/${kind}.png, ${thumbnail.full_size.join(" \u00d7 ")} px`;
}

/** Whether the view is a patch that is compared with the truth: only on its central half. */
const hasDimmedBorder = (entry) => state.view.startsWith("patch_") && "amp_error" in viewOf(entry).pictures;

/** Show the values at the pointed-at pixel in every picture, and its position in the full-size picture. */
function showValues() {
  for (const { panel, value } of state.panels.values()) {
    const pointed = panel.space.point && panel.picture && inside(panel.space.point);
    value.textContent = pointed ? valueText(panel.picture, panel.index()) : "";
  }
  $("readout").textContent = positionText();
}

const inside = ({ x, y }) => x >= 0 && x < 1 && y >= 0 && y < 1;

function positionText() {
  const space = state.spaces.find((one) => one.point && inside(one.point));
  if (!space) return "Point at a picture to read its values. Zoom with the wheel or by pinching.";
  const { panel, figure } = [...state.panels.values()].find((one) => one.panel.space === space && one.panel.picture);
  const { block_px: block, full_size: [height, width] } = viewOf(shown()).pictures[figure.dataset.kind];
  const { x, y } = panel.pixel();
  const range = (first, count) => {
    const last = Math.min(first * block + block, count) - 1;
    return block > 1 && last > first * block ? `${first * block}\u2013${last}` : `${first * block}`;
  };
  const mean = block > 1 ? `, mean of ${block} \u00d7 ${block} px` : "";
  return `x ${range(x, width)}, y ${range(y, height)} px${mean}`;
}

function showNotes(entry) {
  const present = new Map();
  for (const { panel } of state.panels.values()) {
    for (const index of new Set(panel.picture?.indices)) if (index >= LEVELS) present.set(index, panel.picture.palette);
  }
  $("special").replaceChildren(...[...present].sort(([a], [b]) => a - b).map(([index, palette]) => {
    const item = document.createElement("span");
    item.className = "special";
    item.innerHTML = "<span class='swatch'></span>";
    item.firstChild.style.background = `rgb(${palette.subarray(3 * index, 3 * index + 3).join(",")})`;
    item.append(SPECIAL[index - LEVELS]);
    return item;
  }));
  $("notes").textContent = notes(entry).join(" ");
  $("files").replaceChildren("Full-size pictures: ", ...fileNames(entry), ...tilesPage(entry));
}

function notes(entry) {
  const found = [];
  const pictures = Object.values(viewOf(entry).pictures);
  const [{ block_px: block, full_size: [height, width] }] = pictures;
  if (block > 1) found.push(`Full size is ${width} \u00d7 ${height} px, shown here averaged over ${block} \u00d7 ${block} px.`);
  if (entry.pixel_size_m) found.push(`Pixel size ${lengthText(entry.pixel_size_m)}.`);
  if (state.frames.length < DATA.entries.length) {
    found.push(`${state.frames.length} of ${DATA.entries.length} logged epochs have pictures here, to limit the size of this file.`);
  }
  if (pictures.some((one, at) => Object.keys(viewOf(entry).pictures)[at].endsWith("_error"))) {
    found.push("Predictions are aligned with the truth before errors are computed; the picture files show them as they are.");
  }
  if (hasDimmedBorder(entry)) found.push("The dimmed border of the patch is not compared.");
  return found;
}

function lengthText(metres) {
  const [factor, unit] = [[1e-3, "mm"], [1e-6, "µm"], [1e-9, "nm"], [0, "pm"]].find(([least]) => metres >= least * 0.999);
  return `${numberText(metres / (factor || 1e-12))} ${unit}`;
}

/** Link the files if the gallery was opened from disk, next to the pictures; otherwise only name them. */
function fileNames(entry) {
  const folder = `${entry.folder}/${state.view}/`;
  const names = Object.keys(viewOf(entry).pictures).map((kind) => `${kind}.png`);
  if (location.protocol !== "file:") return [`${folder} ${names.join(" ")}`];
  return names.flatMap((name) => {
    const link = document.createElement("a");
    link.href = `../${folder}${name}`;
    link.textContent = name;
    return [link, " "];
  });
}

/** Link the page that zooms to single pixels, if there are tiles. */
function tilesPage(entry) {
  if (!viewOf(entry).tiles) return [];
  if (location.protocol !== "file:") return [". To zoom to single pixels: recon_log/tiles.html"];
  const link = document.createElement("a");
  link.href = "../recon_log/tiles.html";
  link.textContent = "zoom to single pixels";
  return [link];
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
}

const each = (act) => state.spaces.filter((space) => space.panels.length).forEach(act);
const togglePlay = () => state.frames.length > 1 && play(!state.timer);

const KEYS = {
  ArrowLeft: () => stepTo(state.index - 1),
  ArrowRight: () => stepTo(state.index + 1),
  Home: () => stepTo(0),
  End: () => stepTo(state.frames.length - 1),
  " ": togglePlay,
  "+": () => each((space) => space.step(1)),
  "=": () => each((space) => space.step(1)),
  "-": () => each((space) => space.step(-1)),
  0: () => each((space) => space.reset()),
  "?": () => $("help").showModal(),
};

function onKey(event) {
  const own = event.target.closest("select, dialog") || (event.key === " " && event.target.closest("button, summary, a"));
  const act = KEYS[event.key];
  if (!act || own || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act();
}

function start() {
  const names = [...new Set(DATA.entries.flatMap((entry) => entry.views.map((view) => view.name)))];
  $("view").replaceChildren(...names.map((name) => new Option(titleOfView(name), name)));
  $("view-label").hidden = names.length < 2;
  $("view").addEventListener("change", () => chooseView($("view").value));
  $("slider").addEventListener("input", () => stepTo(Number($("slider").value)));
  $("previous").addEventListener("click", KEYS.ArrowLeft);
  $("next").addEventListener("click", KEYS.ArrowRight);
  $("play").addEventListener("click", togglePlay);
  $("zoom-in").addEventListener("click", KEYS["+"]);
  $("zoom-out").addEventListener("click", KEYS["-"]);
  $("zoom-reset").addEventListener("click", KEYS[0]);
  $("help-button").addEventListener("click", KEYS["?"]);
  document.addEventListener("keydown", onKey);
  if (names.length) chooseView(names[0]);
}

start();
