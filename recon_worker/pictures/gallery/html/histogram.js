// Histogram of the pictures of one quantity, such as the amplitude, and contrast, which changes only their colours.

const BIN = 4; // palette entries per bar
const quantityOf = (kind) => kind.match(/^[a-z]+(_error|_change)?/)[0];
const isOpen = () => $("inspect").open;

const titleOfQuantity = (quantity) => quantity.replace(/^[a-z]+/, (group) => GROUPS[group])
  .replace("_error", " error").replace("_change", " difference");

/** Pictures of the chosen quantity: [{kind, name, picture}]. */
function chosenPictures() {
  const chosen = [...state.panels].filter(([kind, { picture: one }]) => one && quantityOf(kind) === state.quantity);
  return chosen.map(([kind, { picture: one }]) => ({ kind, name: nameInKey(kind), picture: one }));
}

function nameInKey(kind) {
  const role = kind.split("_")[1];
  if (role === "error" || role === "change") return titleOfQuantity(quantityOf(kind)).toLowerCase();
  return titleOfPicture(kind).split(", ").at(-1);
}

/** Offer the quantities that have pictures. */
function listQuantities() {
  const quantities = [...new Set([...state.panels.keys()].map(quantityOf))];
  $("quantity").replaceChildren(...quantities.map((one) => new Option(titleOfQuantity(one), one)));
  if (!quantities.includes(state.quantity)) [state.quantity] = quantities;
  $("quantity").value = state.quantity;
}

function showHistogram() {
  const pictures = chosenPictures();
  $("histogram").hidden = $("contrast").hidden = !pictures.length;
  if (!pictures.length) return;
  const [vmin, vmax] = [Math.min(...pictures.map((one) => one.picture.vmin)), Math.max(...pictures.map((one) => one.picture.vmax))];
  const counts = pictures.map((one) => binCounts(one.picture));
  const most = Math.max(1, ...counts.flat());
  const series = pictures.map(({ name, picture: one }, at) => ({ name, text: statisticsText(one), points: stairs(counts[at], one) }));
  const { unit } = pictures[0].picture;
  const [low, high] = windowOf(state.quantity, vmin, vmax);
  plot($("histogram"), {
    series, x: [vmin, vmax], y: [0, Math.log10(1 + most)], marks: [low, high].filter((one) => one >= vmin && one <= vmax),
    xEnds: endTexts(vmin, vmax, unit), yEnds: ["0 px", `${most} px`],
    label: `Histogram of ${titleOfQuantity(state.quantity).toLowerCase()}, logarithmic. ${series.map((one) => `${one.name}: ${one.text}`).join(". ")}`,
  });
  showContrast(vmin, vmax, unit);
}

function binCounts({ indices }) {
  const counts = Array(LEVELS / BIN).fill(0);
  for (const index of indices) if (index < LEVELS) counts[Math.floor(index / BIN)]++;
  return counts;
}

function stairs(counts, { vmin, vmax }) {
  const edge = (at) => vmin + ((vmax - vmin) * at) / counts.length;
  return counts.flatMap((count, at) => [at, at + 1].map((side) => [edge(side), Math.log10(1 + count)]));
}

function statisticsText(picture) {
  const found = statistics(picture);
  if (!found) return "no values";
  const [mean, deviation, least, largest] = [found.mean, found.deviation, found.least, found.largest].map(numberText);
  const beyond = picture.indices.filter((index) => beyondRange(picture, index)).length / picture.indices.length;
  const clipped = beyond && !picture.bounds ? `; ${numberText(100 * beyond)} % in the end colours` : "";
  return `mean ${withUnit(mean, picture.unit)}, standard deviation ${deviation}, from ${least} to ${largest}${clipped}`;
}

/** Values shown in the first and the last colour. */
const windowOf = (quantity, vmin, vmax) => state.contrast.get(quantity) ?? [vmin, vmax];

/** The picture with the contrast of its quantity. */
function contrasted(kind, picture) {
  const chosen = state.contrast.get(quantityOf(kind));
  if (!chosen) return picture;
  const palette = Uint8Array.from(picture.palette);
  levelsOf(picture).forEach((value, index) => {
    const share = Math.min(Math.max((value - chosen[0]) / (chosen[1] - chosen[0]), 0), 1);
    const from = 3 * Math.round(share * (LEVELS - 1));
    palette.set(picture.palette.subarray(from, from + 3), 3 * index);
  });
  return { ...picture, palette };
}

function showContrast(vmin, vmax, unit) {
  const place = (value) => Math.min(Math.max(((value - vmin) / (vmax - vmin)) * (LEVELS - 1), 0), LEVELS - 1);
  windowOf(state.quantity, vmin, vmax).forEach((value, at) => {
    const slider = $(["low", "high"][at]);
    slider.value = Math.round(place(value));
    slider.setAttribute("aria-valuetext", withUnit(numberText(value), unit));
    slider.nextElementSibling.textContent = withUnit(numberText(value), unit);
  });
  $("contrast-reset").disabled = !state.contrast.has(state.quantity);
}

/** Take the contrast from the sliders; the one that moves stops short of the other. */
function changeContrast(moved) {
  const pictures = chosenPictures().map((one) => one.picture);
  const [vmin, vmax] = [Math.min(...pictures.map((one) => one.vmin)), Math.max(...pictures.map((one) => one.vmax))];
  let [low, high] = [Number($("low").value), Number($("high").value)];
  if (low >= high && moved === "low") low = high - 1;
  if (low >= high) high = low + 1;
  const whole = low === 0 && high === LEVELS - 1;
  if (whole) state.contrast.delete(state.quantity);
  else state.contrast.set(state.quantity, [low, high].map((one) => vmin + (one * (vmax - vmin)) / (LEVELS - 1)));
  recolour();
}

function recolour() {
  for (const [kind, one] of state.panels) if (one.picture && quantityOf(kind) === state.quantity) paint(kind, one);
  showHistogram();
  showNotes(shown());
}
