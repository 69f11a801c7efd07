// Pictures of several runs in one colour range, and their differences. All work on decoded palette entries.

const NOT_SCANNED = LEVELS + 3;

const bytesOf = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

function levelsOf({ vmin, vmax }) {
  return Float64Array.from({ length: LEVELS }, (_, index) => vmin + (index * (vmax - vmin)) / (LEVELS - 1));
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

/** Complex factor, as {scale, phase}, that fits one object to another best: no diffraction pattern determines it. */
function globalFit(one, other) {
  const [a, p, b, q] = [one.amp, one.phase, other.amp, other.phase].map(levelsOf);
  let [real, imaginary, power] = [0, 0, 0];
  for (let at = 0; at < one.amp.indices.length; at++) {
    const [i, j] = [one.amp.indices[at], other.amp.indices[at]];
    const [k, l] = [one.phase.indices[at], other.phase.indices[at]];
    if (Math.max(i, j, k, l) >= LEVELS) continue;
    const product = a[i] * b[j];
    real += product * Math.cos(q[l] - p[k]);
    imaginary += product * Math.sin(q[l] - p[k]);
    power += a[i] ** 2;
  }
  return { scale: power ? Math.hypot(real, imaginary) / power : 1, phase: Math.atan2(imaginary, real) };
}

/** Values of one object minus those of another, NaN where either has none. `part` is "amp" or "phase". */
function differences(part, one, other, { scale, phase }) {
  const cyclic = part === "phase";
  const from = levelsOf(one[part]).map((value) => (cyclic ? value + phase : value * scale));
  const minus = levelsOf(other[part]);
  const [indices, others] = [one[part].indices, other[part].indices];
  const values = new Float32Array(indices.length);
  for (let at = 0; at < values.length; at++) {
    const known = indices[at] < LEVELS && others[at] < LEVELS;
    const value = known ? from[indices[at]] - minus[others[at]] : NaN;
    values[at] = cyclic ? value - 2 * Math.PI * Math.round(value / (2 * Math.PI)) : value;
  }
  return values;
}

/** End of a symmetric range that covers 99.5 % of all values, with two digits; a phase is at most pi. */
function symmetricLimit(part, arrays) {
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
function differencePicture(part, { width, height, unit }, values, limit, palette) {
  const range = [-limit, limit];
  const indices = new Uint8Array(values.length);
  for (let at = 0; at < indices.length; at++) {
    indices[at] = Number.isNaN(values[at]) ? NOT_SCANNED : entryOf(values[at], range);
  }
  const quantity = part === "amp" ? "amplitude difference" : "phase difference";
  const special = new Set(indices.includes(NOT_SCANNED) ? [NOT_SCANNED] : []);
  return { width, height, indices, palette, quantity, unit, special, vmin: -limit, vmax: limit };
}
