// Pictures of several runs in one colour range, and their differences. All work on decoded palette entries.

const NOT_SCANNED = LEVELS + 3;

const bytesOf = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

function levelsOf({ vmin, vmax }) {
  return Float64Array.from({ length: LEVELS }, (_, index) => vmin + (index * (vmax - vmin)) / (LEVELS - 1));
}

/** By palette entry: 1 or -1 where it stands for all values above or below the range too, as the end colours do, else 0. */
function boundsOf({ vmin, vmax }) {
  const bounds = new Int8Array(LEVELS);
  const cyclic = Math.abs(vmax - Math.PI) < 1e-6 && Math.abs(vmin + Math.PI) < 1e-6;
  if (!cyclic) [bounds[0], bounds[LEVELS - 1]] = [vmin === 0 ? 0 : -1, 1];
  return bounds;
}

/** The palette entry of a value in a range; values beyond it get the end colours. */
function entryOf(value, [low, high]) {
  return Math.min(Math.max(Math.round(((value - low) / (high - low)) * (LEVELS - 1)), 0), LEVELS - 1);
}

const rescaled = new WeakMap();

/** The picture in the common colours of a view, made once; its values are still read from the original. */
function inCommon(picture, { range: [vmin, vmax], palette }) {
  if (!rescaled.has(picture)) {
    const entries = Uint8Array.from({ length: 256 }, (_, index) => index);
    levelsOf(picture).forEach((value, index) => (entries[index] = entryOf(value, [vmin, vmax])));
    const indices = new Uint8Array(picture.indices.length);
    const special = new Set();
    for (let at = 0; at < indices.length; at++) {
      indices[at] = entries[picture.indices[at]];
      if (indices[at] >= LEVELS) special.add(indices[at]);
    }
    rescaled.set(picture, { ...picture, indices, palette, vmin, vmax, special, original: picture });
  }
  return rescaled.get(picture);
}

/**
 * Complex factor, as {scale, phase}, that fits one object to another best where both are within their ranges: no
 * diffraction pattern determines it.
 */
function globalFit(one, other) {
  const pictures = [one.amp, one.phase, other.amp, other.phase];
  const [a, p, b, q] = pictures.map(levelsOf);
  const [ends, , otherEnds] = pictures.map(boundsOf);
  let [real, imaginary, power] = [0, 0, 0];
  for (let at = 0; at < one.amp.indices.length; at++) {
    const [i, j] = [one.amp.indices[at], other.amp.indices[at]];
    const [k, l] = [one.phase.indices[at], other.phase.indices[at]];
    if (Math.max(i, j, k, l) >= LEVELS || ends[i] || otherEnds[j]) continue;
    const product = a[i] * b[j];
    real += product * Math.cos(q[l] - p[k]);
    imaginary += product * Math.sin(q[l] - p[k]);
    power += a[i] ** 2;
  }
  return { scale: power ? Math.hypot(real, imaginary) / power : 1, phase: Math.atan2(imaginary, real) };
}

/**
 * One object minus another: {values, bounds}. `part` is "amp" or "phase". A bound of 1 (-1) says that the difference is
 * at least (at most) the value, as a value is beyond its range. NaN: a value is missing, or both are beyond the same end.
 */
function difference(part, one, other, { scale, phase }) {
  const cyclic = part === "phase";
  const from = levelsOf(one[part]).map((value) => (cyclic ? value + phase : value * scale));
  const minus = levelsOf(other[part]);
  const [ends, otherEnds] = [boundsOf(one[part]), boundsOf(other[part])];
  const [indices, others] = [one[part].indices, other[part].indices];
  const values = new Float32Array(indices.length).fill(NaN);
  const bounds = new Int8Array(indices.length);
  for (let at = 0; at < values.length; at++) {
    if (indices[at] >= LEVELS || others[at] >= LEVELS) continue;
    const [end, otherEnd] = [ends[indices[at]], otherEnds[others[at]]];
    if (end && end === otherEnd) continue;
    const value = from[indices[at]] - minus[others[at]];
    values[at] = cyclic ? value - 2 * Math.PI * Math.round(value / (2 * Math.PI)) : value;
    bounds[at] = end || -otherEnd;
  }
  return { values, bounds };
}

/** End of a symmetric range that covers 99.5 % of the values of all differences, with two digits; at most pi for phases. */
function symmetricLimit(part, all) {
  const arrays = all.map(({ values }) => values);
  const sizes = new Float32Array(arrays.reduce((sum, values) => sum + values.length, 0));
  let count = 0;
  for (const values of arrays) for (const value of values) if (!Number.isNaN(value)) sizes[count++] = Math.abs(value);
  const sorted = sizes.subarray(0, count).sort();
  const limit = Math.max(sorted[Math.floor(0.995 * (count - 1))] ?? 0, 1e-4);
  const step = 10 ** (Math.floor(Math.log10(limit)) - 1);
  const rounded = Math.ceil(limit / step) * step;
  return part === "phase" ? Math.min(rounded, Math.PI) : rounded;
}

/** A difference as a picture: white is 0. */
function differencePicture({ width, height, quantity, unit }, { values, bounds }, limit, palette) {
  const indices = new Uint8Array(values.length);
  for (let at = 0; at < indices.length; at++) {
    indices[at] = Number.isNaN(values[at]) ? NOT_SCANNED : entryOf(values[at], [-limit, limit]);
  }
  const special = new Set(indices.includes(NOT_SCANNED) ? [NOT_SCANNED] : []);
  return { width, height, quantity, unit, indices, palette, special, values, bounds, vmin: -limit, vmax: limit };
}

/** The value of a pixel with its unit, as far as it is known. */
function textOf(picture, at) {
  const { original, values, bounds, unit } = picture;
  if (original) return valueText(original, original.indices[at]);
  if (Number.isNaN(values[at])) return "unknown";
  const sign = { 1: "\u2265 ", [-1]: "\u2264 " }[bounds[at]] ?? "";
  return sign + withUnit(numberText(values[at]), unit);
}
