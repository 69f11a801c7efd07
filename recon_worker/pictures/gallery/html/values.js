// Values of pictures as numbers, their statistics, and the difference of two pictures.

const NOTHING = LEVELS + 3; // palette entry: not scanned, or nothing to compare

/** Values of the palette entries within the range. */
function levelsOf({ vmin, vmax }) {
  return Float64Array.from({ length: LEVELS }, (_, index) => vmin + (index * (vmax - vmin)) / (LEVELS - 1));
}

/** Values of a picture, row by row. NaN: not scanned, nothing to compare, or not a number. */
function valuesOf(picture) {
  if (!picture.values) {
    const table = levelsOf(picture);
    picture.values = Float32Array.from(picture.indices, (index) => table[index] ?? [-Infinity, Infinity, NaN, NaN][index - LEVELS]);
  }
  return picture.values;
}

/**
 * One picture minus another of the same size: {values, bounds}. Phases are subtracted modulo 2 pi. A bound of 1 (-1)
 * says that the difference is at least (at most) the value, as a value is beyond its range. NaN: a value is missing, or
 * both are beyond the same end. `fitted` maps the values of the first picture before.
 */
function subtracted(one, other, fitted = (value) => value) {
  const [first, second] = [valuesOf(one), valuesOf(other)];
  const values = new Float32Array(first.length);
  const bounds = new Int8Array(first.length); // 1: at least this value, -1: at most
  for (let at = 0; at < values.length; at++) {
    const [up, down] = [beyondRange(one, one.indices[at]), -beyondRange(other, other.indices[at])];
    bounds[at] = up || down;
    values[at] = up && down && up !== down ? NaN : wrapped(fitted(first[at]) - second[at], one.unit);
  }
  return { values, bounds };
}

/** Picture of one epoch minus another; null if their sizes differ. */
function difference(one, other) {
  if (one.width !== other.width || one.height !== other.height) return null;
  const { values, bounds } = subtracted(one, other);
  const levels = [one, other].map((picture) => (picture.vmax - picture.vmin) / (LEVELS - 1));
  const most = values.reduce((found, value) => (Math.abs(value) > found && Math.abs(value) < Infinity ? Math.abs(value) : found), 0);
  const vmax = Math.max(most, ...levels);
  const indices = Uint8Array.from(values, (value) => differenceIndex(value, vmax));
  const { width, height, quantity, unit } = one;
  return { width, height, quantity, unit, vmin: -vmax, vmax, values, bounds, indices, palette: DIVERGING };
}

function wrapped(value, unit) {
  return unit === "rad" ? value - 2 * Math.PI * Math.round(value / (2 * Math.PI)) : value;
}

/** Palette entry of a difference in the range from -vmax to vmax; finite values beyond it get the end colours. */
function differenceIndex(value, vmax) {
  if (Number.isNaN(value)) return NOTHING;
  if (Math.abs(value) === Infinity) return value < 0 ? LEVELS : LEVELS + 1;
  return entryOf(value, [-vmax, vmax]);
}

/** The palette entry of a value in a range; values beyond it get the end colours. */
function entryOf(value, [low, high]) {
  return Math.min(Math.max(Math.round(((value - low) / (high - low)) * (LEVELS - 1)), 0), LEVELS - 1);
}

/** Blue, white, red, then the reserved colours of recon_worker/pictures/png.py. */
const DIVERGING = (() => {
  const [low, middle, high] = [[33, 102, 172], [247, 247, 247], [178, 24, 43]];
  const mix = (from, to, share) => from.map((value, at) => Math.round(value + (to[at] - value) * share));
  const colours = Array.from({ length: LEVELS }, (_, index) => {
    const place = (2 * index) / (LEVELS - 1);
    return place < 1 ? mix(low, middle, place) : mix(middle, high, place - 1);
  });
  return Uint8Array.from([...colours, [0, 139, 139], [0, 255, 255], [0, 255, 0], [127, 160, 136]].flat());
})();

/** The value at the pointed-at pixel, with its unit, as far as it is known. */
function textAt(panel) {
  const picture = panel.picture.original ?? panel.picture; // of a picture in another range: as logged
  const { x, y } = panel.pixel();
  const at = y * picture.width + x;
  if (!picture.bounds) return valueText(picture, picture.indices[at]);
  if (Number.isNaN(picture.values[at])) return "unknown";
  return bound(picture.bounds[at]) + withUnit(numberText(picture.values[at]), picture.unit);
}

/**
 * Mean, standard deviation, least and largest of the finite values; null if there are none. The mean of phases that
 * cover a whole turn is the circular one.
 */
function statistics(picture) {
  if (picture.statistics === undefined) picture.statistics = statisticsOf(picture);
  return picture.statistics;
}

function statisticsOf(picture) {
  const finite = valuesOf(picture).filter(Number.isFinite);
  if (!finite.length) return null;
  const total = (of) => finite.reduce((sum, value) => sum + of(value), 0);
  const cyclic = isCyclic(picture);
  const mean = cyclic ? Math.atan2(total(Math.sin), total(Math.cos)) : total((value) => value) / finite.length;
  const deviation = Math.sqrt(total((value) => wrapped(value - mean, cyclic ? "rad" : "") ** 2) / finite.length);
  return { mean, deviation, least: finite.reduce((a, b) => Math.min(a, b)), largest: finite.reduce((a, b) => Math.max(a, b)) };
}

/** Texts of the ends of a range; the unit follows the second. */
function endTexts(vmin, vmax, unit) {
  return [endText(vmin, unit).replace(" rad", ""), endText(vmax, unit)];
}
