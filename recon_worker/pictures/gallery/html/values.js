// Values of pictures as numbers, their statistics, and the difference of two epochs.

const NOTHING = LEVELS + 3; // palette entry: not scanned, or nothing to compare

const isCyclic = ({ vmin, vmax }) => Math.abs(vmax - Math.PI) < 1e-6 && Math.abs(vmin + Math.PI) < 1e-6;

/** Values of a picture, row by row. NaN: not scanned, nothing to compare, or not a number. */
function valuesOf(picture) {
  if (!picture.values) {
    const step = (picture.vmax - picture.vmin) / (LEVELS - 1);
    const table = Float64Array.from({ length: LEVELS }, (_, index) => picture.vmin + index * step);
    picture.values = Float32Array.from(picture.indices, (index) => table[index] ?? [-Infinity, Infinity, NaN, NaN][index - LEVELS]);
  }
  return picture.values;
}

/** Whether a palette entry stands for values above (1) or below (-1) the range, as the end colours do, or not (0). */
function beyondRange(picture, index) {
  if (isCyclic(picture)) return 0;
  if (index === LEVELS - 1) return 1;
  return index === 0 && picture.vmin !== 0 ? -1 : 0;
}

/**
 * Picture of one epoch minus another; null if their sizes differ. Phases are subtracted modulo 2 pi. Where both values
 * are beyond the same end of the range, the difference is unknown.
 */
function difference(one, other) {
  if (one.width !== other.width || one.height !== other.height) return null;
  const [first, second] = [valuesOf(one), valuesOf(other)];
  const values = new Float32Array(first.length);
  const bounds = new Int8Array(first.length); // 1: at least this value, -1: at most
  for (let at = 0; at < values.length; at++) {
    const [up, down] = [beyondRange(one, one.indices[at]), -beyondRange(other, other.indices[at])];
    bounds[at] = up || down;
    values[at] = up && down && up !== down ? NaN : wrapped(first[at] - second[at], one.unit);
  }
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

function differenceIndex(value, vmax) {
  if (Number.isNaN(value)) return NOTHING;
  if (Math.abs(value) === Infinity) return value < 0 ? LEVELS : LEVELS + 1;
  return Math.round(((value + vmax) / (2 * vmax)) * (LEVELS - 1));
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
  const { picture } = panel;
  if (!picture.bounds) return valueText(picture, panel.index());
  const { x, y } = panel.pixel();
  const at = y * picture.width + x;
  if (Number.isNaN(picture.values[at])) return "unknown";
  const sign = { 1: "\u2265 ", [-1]: "\u2264 " }[picture.bounds[at]] ?? "";
  return sign + withUnit(numberText(picture.values[at]), picture.unit);
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
