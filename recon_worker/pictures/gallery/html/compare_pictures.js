// Pictures of several runs in one colour range, and their differences. All work on decoded palette entries.

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
  let [real, imaginary, power] = [0, 0, 0];
  for (let at = 0; at < one.amp.indices.length; at++) {
    const [i, j] = [one.amp.indices[at], other.amp.indices[at]];
    const [k, l] = [one.phase.indices[at], other.phase.indices[at]];
    if (Math.max(i, j, k, l) >= LEVELS || beyondRange(one.amp, i) || beyondRange(other.amp, j)) continue;
    const product = a[i] * b[j];
    real += product * Math.cos(q[l] - p[k]);
    imaginary += product * Math.sin(q[l] - p[k]);
    power += a[i] ** 2;
  }
  return { scale: power ? Math.hypot(real, imaginary) / power : 1, phase: Math.atan2(imaginary, real) };
}

/** One object minus another after a global fit, as `subtracted`. `part` is "amp" or "phase". */
function objectDifference(part, one, other, { scale, phase }) {
  return subtracted(one[part], other[part], part === "phase" ? (value) => value + phase : (value) => value * scale);
}

/** End of a symmetric range that covers 99.5 % of the values of all differences, with two digits; at most pi for phases. */
function symmetricLimit(part, all) {
  const arrays = all.map(({ values }) => values);
  const sizes = new Float32Array(arrays.reduce((sum, values) => sum + values.length, 0));
  let count = 0;
  for (const values of arrays) for (const value of values) if (Number.isFinite(value)) sizes[count++] = Math.abs(value);
  const sorted = sizes.subarray(0, count).sort();
  const limit = Math.max(sorted[Math.floor(0.995 * (count - 1))] ?? 0, 1e-4);
  const step = 10 ** (Math.floor(Math.log10(limit)) - 1);
  const rounded = Math.ceil(limit / step) * step;
  return part === "phase" ? Math.min(rounded, Math.PI) : rounded;
}

/** A difference as a picture: white is 0. */
function differencePicture({ width, height, quantity, unit }, { values, bounds }, limit, palette) {
  const indices = Uint8Array.from(values, (value) => differenceIndex(value, limit));
  const special = new Set(indices.filter((index) => index >= LEVELS));
  return { width, height, quantity, unit, indices, palette, special, values, bounds, vmin: -limit, vmax: limit };
}
