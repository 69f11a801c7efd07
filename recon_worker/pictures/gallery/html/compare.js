// State of the comparison page (figure, epoch, reference) and what it shows.

const PARTS = { amp: "Amplitude", phase: "Phase" };
const TRUTH = "truth";
const FIT = /^(fit|steep)_/;
const DIFFERENCE_PALETTE = bytesOf(DATA.difference_palette);
const NAMES = DATA.runs.map((run) => run.name);

const state = { view: "", epochs: [], index: 0, mode: "", reference: "", timer: 0, asked: 0,
  columns: [], panels: new Map(), space: null, curves: [], limits: new Map() };

const framesOf = (run) => run.entries.filter((entry) => viewOf(entry)?.pictures.amp_pred);
const valueOf = (entry, name) => viewOf(entry)?.metrics[name] ?? entry.metrics[name] ?? null;
const numbers = (column) => column !== TRUTH;

/** The epoch shown of each run: the best one, or the latest one that is not after the chosen epoch. */
function shownFrames() {
  return DATA.runs.map((run) => {
    const frames = framesOf(run);
    if (!state.mode) return frames.findLast((entry) => entry.epoch <= state.epochs[state.index]) ?? frames[0];
    const known = frames.filter((entry) => valueOf(entry, state.mode) !== null);
    const sign = DATA.labels[state.mode].better === "low" ? -1 : 1;
    const better = (a, b) => (sign * valueOf(b, state.mode) > sign * valueOf(a, state.mode) ? b : a);
    return known.length ? known.reduce(better) : frames.at(-1);
  });
}

/** An entry with a ground truth, if the truth is the same for all runs that have one; else undefined. */
function commonTruth() {
  const known = DATA.runs.map((run) => framesOf(run).at(-1)).filter((entry) => viewOf(entry).pictures.amp_gt);
  const names = new Set(known.map((entry) => `${viewOf(entry).pictures.amp_gt.png} ${viewOf(entry).pictures.phase_gt.png}`));
  return names.size === 1 ? known[0] : undefined;
}

function chooseView(name) {
  const epoch = state.epochs[state.index] ?? Infinity;
  state.view = name;
  state.epochs = [...new Set(DATA.runs.flatMap(framesOf).map((entry) => entry.epoch))].sort((a, b) => a - b);
  state.truth = commonTruth();
  state.colours = Object.fromEntries(Object.entries(DATA.colours[name]).map(([part, { range, palette }]) =>
    [part, { range, palette: bytesOf(palette) }]));
  state.columns = [...(state.truth ? [TRUTH] : []), ...DATA.runs.keys()];
  $("slider").max = state.epochs.length - 1;
  fillChoices();
  buildPanels();
  buildCurves();
  goToEpoch(epoch);
}

function fillChoices() {
  const scored = Object.entries(DATA.labels).filter(([name, label]) =>
    label.better && DATA.runs.every((run) => framesOf(run).some((entry) => valueOf(entry, name) !== null)));
  const best = scored.map(([name, { label, unit }]) => [name, `best ${label}${unit && ` (${unit})`} of each run`]);
  fill($("mode"), [["", "the same epoch"], ...best]);
  const columns = state.columns.map((column) => [String(column), numbers(column) ? NAMES[column] : "the truth"]);
  fill($("reference"), [["", "nothing"], ...columns]);
  state.mode = $("mode").value;
  state.reference = $("reference").value;
}

/** Fill a selection, and keep the chosen value if it is still there. */
function fill(select, options) {
  const chosen = select.value;
  select.replaceChildren(...options.map(([value, label]) => new Option(label, value)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

function buildPanels() {
  state.panels.clear();
  state.space = new Space(showValues);
  $("parts").replaceChildren();
  for (const [part, title] of Object.entries(PARTS)) {
    const head = document.createElement("div");
    head.className = "part-head";
    head.dataset.part = part;
    head.innerHTML = `<h2>${title}</h2>`;
    const line = document.createElement("div");
    line.className = "part";
    line.style.setProperty("--columns", state.columns.length);
    for (const column of state.columns) line.append(buildPanel(part, column));
    $("parts").append(head, line);
  }
}

function buildPanel(part, column) {
  const figure = document.createElement("figure");
  Object.assign(figure.dataset, { part, column });
  figure.innerHTML = `<figcaption><span></span><b></b><output></output><small></small></figcaption>
    <canvas class="picture" tabindex="-1" role="img"></canvas>`;
  figure.querySelector("span").replaceWith(...(numbers(column) ? [swatch(column)] : []));
  figure.querySelector("b").textContent = numbers(column) ? NAMES[column] : "Truth";
  if (numbers(column)) figure.querySelector("b").title = `${NAMES[column]}, run ${DATA.runs[column].id}`;
  const panel = new PicturePanel(figure.querySelector(".picture"), state.space);
  state.panels.set(`${part} ${column}`, { figure, panel, part, column });
  return figure;
}

function buildCurves() {
  const epochs = DATA.runs.flatMap((run) => run.entries.map((entry) => entry.epoch));
  const points = (name) => DATA.runs.flatMap(({ entries }, run) =>
    entries.map((entry) => ({ run, epoch: entry.epoch, value: valueOf(entry, name) })).filter((one) => one.value !== null));
  state.curves = Object.entries(DATA.labels)
    .map(([name, label]) => [name, label, points(name)])
    .filter(([name, , found]) => new Set(found.map((one) => one.value)).size > 1 && !FIT.test(name))
    .map(([name, label, found]) => new RunCurves(name, label, found, epochs, chooseEpoch));
  $("curves").replaceChildren(...state.curves.map((curve) => curve.element));
  for (const curve of state.curves) curve.output.textContent = DATA.labels[curve.element.dataset.metric].unit;
}

/** Show all runs at the epoch nearest to a given one. */
function goToEpoch(epoch) {
  const distance = (one) => Math.abs(one - Math.min(epoch, state.epochs.at(-1)));
  const nearest = Math.min(...state.epochs.map(distance));
  goTo(state.epochs.findIndex((one) => distance(one) === nearest));
}

function chooseEpoch(epoch) {
  play(false);
  $("mode").value = state.mode = "";
  goToEpoch(epoch);
}

async function goTo(index) {
  state.index = Math.min(Math.max(index, 0), state.epochs.length - 1);
  const asked = ++state.asked;
  const frames = shownFrames();
  showControls(frames);
  const objects = await objectsOf(frames);
  const limits = state.reference && (await differenceLimits());
  if (asked !== state.asked) return; // the slider has moved on
  showPictures(objects, limits);
  showCaptions(frames);
  showValues();
  showSpecial();
  showNotes(frames);
  document.documentElement.dataset.shown = frames.map((entry) => entry.epoch).join(" ");
}

function showControls(frames) {
  const epoch = state.epochs[state.index];
  for (const id of ["slider", "play", "previous", "next"]) $(id).disabled = Boolean(state.mode) || state.epochs.length < 2;
  $("slider").value = state.index;
  $("epoch").textContent = state.mode ? "Best epoch of each run" : `Epoch ${epoch}${epoch ? "" : " (untrained)"}`;
  $("slider").setAttribute("aria-valuetext", $("epoch").textContent);
  for (const curve of state.curves) curve.mark(frames.map((entry) => entry.epoch), state.mode ? null : epoch);
  const rows = Object.entries(DATA.labels).map(([name, { label, unit, better }]) => {
    const values = frames.map((entry) => valueOf(entry, name));
    const texts = values.map((value) => (value === null ? "\u2013" : numberText(value)));
    return [unit ? `${label}, ${unit}` : label, texts, bestOf(values, better), values];
  });
  const epochs = ["epoch", frames.map((entry) => String(entry.epoch))];
  fillTable($("values"), NAMES, [epochs, ...rows.filter(([, , , values]) => values.some((value) => value !== null))]);
}

/** The decoded {amp, phase} of each column, by column. */
async function objectsOf(frames) {
  const parts = async (entry, role) => {
    const pictures = viewOf(entry).pictures;
    const [amp, phase] = await Promise.all(["amp", "phase"].map((part) => picture(pictures[`${part}_${role}`].png)));
    return { amp, phase, aligned: "amp_gt" in pictures };
  };
  const made = state.columns.map(async (column) =>
    [String(column), await (numbers(column) ? parts(frames[column], "pred") : parts(state.truth, "gt"))]);
  return new Map(await Promise.all(made));
}

/** Ends of the ranges of the differences, {amp, phase}: measured on the latest epochs and kept for all others. */
async function differenceLimits() {
  const key = `${state.view} ${state.reference}`;
  if (!state.limits.has(key)) {
    const objects = await objectsOf(DATA.runs.map((run) => framesOf(run).at(-1)));
    const all = (part) => comparedColumns().map((column) => differenceOf(part, objects, column));
    state.limits.set(key, { amp: symmetricLimit("amp", all("amp")), phase: symmetricLimit("phase", all("phase")) });
  }
  return state.limits.get(key);
}

const comparedColumns = () => state.columns.map(String).filter((column) => column !== state.reference);

function differenceOf(part, objects, column) {
  const [one, other] = [objects.get(column), objects.get(state.reference)];
  const fit = one.aligned && other.aligned ? { scale: 1, phase: 0 } : globalFit(one, other);
  return objectDifference(part, one, other, fit);
}

function showPictures(objects, limits) {
  for (const { panel, part, column } of state.panels.values()) {
    const original = objects.get(String(column))[part];
    const whole = !state.reference || state.reference === String(column);
    const shown = whole
      ? inCommon(original, state.colours[part])
      : differencePicture(original, differenceOf(part, objects, String(column)), limits[part], DIFFERENCE_PALETTE);
    if (panel.picture !== shown) panel.show(shown);
  }
  for (const head of document.querySelectorAll(".part-head")) showBars(head, head.dataset.part);
}

/** One colour bar for the pictures of a part, and one for the differences. */
function showBars(head, part) {
  const shown = [...state.panels.values()].filter((one) => one.part === part).map((one) => one.panel.picture);
  const kinds = new Map(shown.map((one) => [one.palette === DIFFERENCE_PALETTE ? "difference" : "value", one]));
  head.replaceChildren(head.firstElementChild, ...[...kinds].sort().map(([kind, one]) => {
    const made = document.createElement("span");
    made.className = "colours";
    const bar = document.createElement("canvas");
    bar.className = "bar";
    drawBar(bar, one);
    const name = kind === "difference" ? "run \u2212 reference" : state.reference ? "reference" : "all runs";
    made.append(spanOf(`${name}:`), spanOf(endText(one.vmin, one.unit).replace(/ rad$/, "")), bar, spanOf(endText(one.vmax, one.unit)));
    return made;
  }));
}

function spanOf(content) {
  const made = document.createElement("span");
  made.textContent = content;
  return made;
}

function showCaptions(frames) {
  const wanted = state.epochs[state.index];
  for (const { figure, panel, part, column } of state.panels.values()) {
    const entry = frames[column];
    const score = entry && state.mode ? `, ${numberText(valueOf(entry, state.mode) ?? NaN)}` : "";
    const role = state.reference === String(column) ? ", the reference" : "";
    const running = numbers(column) && DATA.runs[column].status === "RUNNING" ? ", running" : "";
    const text = (entry ? `epoch ${entry.epoch}${score}${running}` : "of all runs") + role;
    figure.querySelector("small").textContent = text;
    figure.classList.toggle("other", Boolean(entry) && !state.mode && entry.epoch !== wanted);
    panel.canvas.setAttribute("aria-label", `${PARTS[part]}, ${numbers(column) ? NAMES[column] : "truth"}, ${text}`);
  }
}

/** Show the values at the pointed-at pixel in every picture. */
function showValues() {
  const point = state.space.point;
  const pointed = point && point.x >= 0 && point.x < 1 && point.y >= 0 && point.y < 1;
  for (const { figure, panel } of state.panels.values()) {
    figure.querySelector("output").textContent = pointed && panel.picture ? textAt(panel) : "";
  }
  $("readout").textContent = pointed ? positionText() : "Point at a picture to read its values. Zoom with the wheel or by pinching.";
}

function positionText() {
  const { x, y } = [...state.panels.values()][0].panel.pixel();
  const block = viewOf(shownFrames()[0]).pictures.amp_pred.block_px;
  return `x ${x * block}, y ${y * block} px` + (block > 1 ? `, mean of ${block} \u00d7 ${block} px` : "");
}

/** Explain the reserved colours that the pictures have. */
function showSpecial() {
  const shown = [...state.panels.values()].map((one) => one.panel.picture);
  const present = new Set(shown.flatMap((one) => [...one.special]));
  $("special").replaceChildren(...[...present].sort().map((index) => {
    const made = spanOf(SPECIAL[index - LEVELS]);
    made.className = "special";
    const colour = document.createElement("span");
    colour.className = "swatch";
    colour.style.background = `rgb(${shown[0].palette.subarray(3 * index, 3 * index + 3).join(",")})`;
    made.prepend(colour);
    return made;
  }));
}

function showNotes(frames) {
  const pictures = frames.map((entry) => viewOf(entry).pictures);
  const { block_px: block, full_size: [height, width] } = pictures[0].amp_pred;
  const truths = pictures.filter((one) => one.amp_gt).length;
  const thinned = DATA.runs.some((run) => framesOf(run).length < run.entries.length);
  $("notes").textContent = [
    `Full size is ${width} \u00d7 ${height} px${block > 1 ? `, shown here averaged over ${block} \u00d7 ${block} px` : ""}.`,
    truths && "Predictions are aligned with the truth.",
    truths && !state.truth && "The runs have different truths.",
    truths < frames.length && "Without a truth, global phase and amplitude scale are arbitrary; before a difference is taken they are fitted to the reference.",
    thinned && `Not every logged epoch has pictures: each run shows its ${state.mode ? "best one that has" : "latest one that is not after the chosen epoch"}.`,
  ].filter(Boolean).join(" ");
}
