// Misfit of the diffraction at each scan position: the sample nearest to a click, its numbers, and its patterns.

const MOST_NAMED = 8;
let chosenSample = null; // dataset index

/** The misfits of an epoch, as arrays of equal length; null if it has none. */
function misfitOf(entry) {
  const names = viewOf(entry)?.misfit;
  if (!names) return null;
  const [places, values] = names.map((name) => bytesOf(DATA.pictures[name]).buffer);
  const n = places.byteLength / 12;
  const part = (at) => new Float32Array(places, 4 * n * at, n);
  const value = (at) => new Float32Array(values, 4 * n * at, n);
  return { samples: new Int32Array(places, 0, n), x: part(1), y: part(2), rFactor: value(0), deviance: value(1) };
}

/** Width and height of the full-size picture, up to whole squares, pixels. */
function sides() {
  const { picture } = state.panels.get("misfit").panel;
  const { block_px: block } = viewOf(shown()).pictures.misfit;
  return { width: picture.width * block, height: picture.height * block };
}

/** Choose the sample nearest to a click on an object; none where the map shows nothing. */
function chooseSample(event) {
  const panel = state.panels.get("misfit")?.panel;
  const misfit = misfitOf(shown());
  const clicked = [...state.panels.values()].find((one) => one.panel.canvas === event.target);
  if (!misfit || !panel.picture || clicked?.panel.space !== panel.space || !panel.space.point) return;
  chosenSample = null;
  if (inside(panel.space.point) && panel.index() !== LEVELS + 3) {
    const { width, height } = sides();
    const { x, y } = panel.space.point;
    const distance = (at) => Math.hypot(misfit.x[at] + 0.5 - x * width, misfit.y[at] + 0.5 - y * height);
    const nearest = misfit.samples.reduce((best, _, at) => (distance(at) < distance(best) ? at : best), 0);
    chosenSample = misfit.samples[nearest];
  }
  showMisfit();
}

/** Show the numbers of the chosen sample at the current epoch, and name the samples with the largest misfit. */
function showMisfit() {
  const misfit = state.panels.has("misfit") ? misfitOf(shown()) : null; // a comparison of epochs has no map
  const table = !misfit && state.panels.has("misfit") && viewOf(shown())?.pictures.misfit; // kept for the newest epochs
  $("misfit").hidden = !misfit && !table;
  if (table) $("misfit").textContent = `The numbers of the samples are in ${shown().folder}/${viewOf(shown()).name}/misfit.csv.`;
  if (!misfit) return;
  const at = misfit.samples.indexOf(chosenSample);
  const size = (row) => (Number.isFinite(misfit.rFactor[row]) ? misfit.rFactor[row] : Infinity);
  const worst = [...misfit.samples.keys()].sort((a, b) => size(b) - size(a) || a - b).slice(0, MOST_NAMED);
  const named = worst.map((row) => button(misfit.samples[row], `R-factor ${value(misfit.rFactor[row])}`, () => pointAt(misfit, row)));
  const chosen = at < 0 ? ["Click on the object to name a sample."] : [...numbers(misfit, at), patterns()];
  $("misfit").replaceChildren(...chosen, " Largest misfit: ", ...named.flatMap((one) => [one, " "]));
}

const value = (number) => (Number.isFinite(number) ? numberText(number) : "not defined");

function numbers(misfit, at) {
  const name = document.createElement("b");
  name.textContent = `Sample ${misfit.samples[at]}`;
  const place = `x ${misfit.x[at].toFixed(1)}, y ${misfit.y[at].toFixed(1)} px`;
  return [name, ` at ${place}: R-factor ${value(misfit.rFactor[at])}, deviance per photon ${value(misfit.deviance[at])}. `];
}

/** A button that shows the patterns of the chosen sample, if it is a fixed patch. */
function patterns() {
  const name = [...$("view").options].map((one) => one.value).find((one) => one.startsWith("patch_") && Number(one.slice(6)) === chosenSample);
  if (!name) return "Its patterns are not logged.";
  return button("Show its patterns", "", () => {
    $("view").value = name;
    chooseView(name);
  });
}

function pointAt(misfit, row) {
  chosenSample = misfit.samples[row];
  const { width, height } = sides();
  state.panels.get("misfit").panel.space.pointAt({ x: (misfit.x[row] + 0.5) / width, y: (misfit.y[row] + 0.5) / height });
  showMisfit();
}

function button(text, title, act) {
  const found = document.createElement("button");
  found.type = "button";
  found.textContent = text;
  found.title = title;
  found.addEventListener("click", act);
  return found;
}
