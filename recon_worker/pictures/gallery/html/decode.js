// Decodes the program's PNGs to palette entries and their values. The browser's own decoder returns colours, some of
// which occur twice in a colour map; the entries are exact. Their meaning is defined in recon_worker/pictures/png.py.

const LEVELS = 252;
const SPECIAL = ["\u2212infinity", "+infinity", "not a number", "not scanned, or nothing to compare"];

const bytesOf = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

/** Decode a base64 PNG; see decodePng. */
const decodePicture = (base64) => decodePng(bytesOf(base64));

/** Decode the bytes of a PNG to {width, height, indices, palette, vmin, vmax, quantity, unit}. */
async function decodePng(bytes) {
  const picture = { facts: {} };
  const packed = [];
  for (const { type, body } of chunks(bytes)) {
    if (type === "IHDR") Object.assign(picture, size(body));
    else if (type === "PLTE") picture.palette = body;
    else if (type === "IDAT") packed.push(body);
    else if (type === "iTXt") Object.assign(picture.facts, internationalText(body));
  }
  const { quantity, unit, vmin, vmax } = picture.facts;
  const indices = unfiltered(await inflated(packed), picture.width, picture.height);
  return { ...picture, indices, quantity, unit, vmin: Number(vmin), vmax: Number(vmax) };
}

function* chunks(bytes) {
  const view = new DataView(bytes.buffer);
  for (let at = 8; at < bytes.length; ) {
    const length = view.getUint32(at);
    yield { type: String.fromCharCode(...bytes.subarray(at + 4, at + 8)), body: bytes.subarray(at + 8, at + 8 + length) };
    at += length + 12;
  }
}

function size(body) {
  const view = new DataView(body.buffer, body.byteOffset);
  if (body[8] !== 8 || body[9] !== 3) throw new Error("not an 8-bit palette PNG");
  return { width: view.getUint32(0), height: view.getUint32(4) };
}

function internationalText(body) {
  const keyEnd = body.indexOf(0);
  const languageEnd = body.indexOf(0, keyEnd + 3);
  const textStart = body.indexOf(0, languageEnd + 1) + 1;
  const text = new TextDecoder();
  return { [text.decode(body.subarray(0, keyEnd))]: text.decode(body.subarray(textStart)) };
}

async function inflated(parts) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Reverse the PNG row filters (PNG specification, 9.2) at one byte per pixel. */
function unfiltered(rows, width, height) {
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const filter = rows[y * (width + 1)];
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      const left = x ? out[at - 1] : 0;
      const up = y ? out[at - width] : 0;
      const corner = x && y ? out[at - width - 1] : 0;
      out[at] = rows[y * (width + 1) + 1 + x] + predictor(filter, left, up, corner);
    }
  }
  return out;
}

function predictor(filter, left, up, corner) {
  switch (filter) {
    case 0: return 0;
    case 1: return left;
    case 2: return up;
    case 3: return (left + up) >> 1;
    case 4: return paeth(left, up, corner);
    default: throw new Error(`unknown PNG filter ${filter}`);
  }
}

function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [a, b, c] = [left, up, corner].map((value) => Math.abs(guess - value));
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}

/** Whether the range of a picture is a whole turn: it has no ends. */
const isCyclic = ({ vmin, vmax }) => Math.abs(vmax - Math.PI) < 1e-6 && Math.abs(vmin + Math.PI) < 1e-6;

/** Whether a palette entry stands for values above (1) or below (-1) the range, as the end colours do, or not (0). */
function beyondRange(picture, index) {
  if (isCyclic(picture)) return 0;
  if (index === LEVELS - 1) return 1;
  return index === 0 && picture.vmin !== 0 ? -1 : 0;
}

const bound = (sign) => ({ 1: "\u2265 ", [-1]: "\u2264 " })[sign] ?? "";

/** The value of a palette entry, with its unit. The end colours also represent values beyond the range. */
function valueText(picture, index) {
  if (index >= LEVELS) return SPECIAL[index - LEVELS].split(",")[0];
  return bound(beyondRange(picture, index)) + levelText(picture, index);
}

function levelText(picture, index) {
  const span = picture.vmax - picture.vmin;
  const value = picture.vmin + (index * span) / (LEVELS - 1);
  const decimals = Math.ceil(-Math.log10(span / 500));
  const text = decimals >= 0 && decimals <= 6 ? value.toFixed(decimals) : value.toPrecision(4);
  return withUnit(minus(text), picture.unit);
}

function withUnit(text, unit) {
  return unit === "rad" ? `${text} rad` : text;
}

function minus(text) {
  return text.replace(/^-(?=[0.]*$)/, "").replace("-", "\u2212");
}

/** Label an end of a colour bar: few digits; multiples of pi as fractions of pi. */
function endText(value, unit) {
  const quarters = (value / Math.PI) * 4;
  const names = { "-4": "\u2212π", "-2": "\u2212π/2", 1: "π/4", 2: "π/2", 3: "3π/4", 4: "π" };
  const name = names[Math.round(quarters)];
  if (unit === "rad" && name && Math.abs(quarters - Math.round(quarters)) < 1e-5) return `${name} rad`;
  return withUnit(numberText(value), unit);
}

function numberText(value) {
  const size = Math.abs(value);
  const text = size && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(3)));
  return minus(text);
}
