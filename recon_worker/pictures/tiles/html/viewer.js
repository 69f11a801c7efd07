// The view of one picture: zoom, position, pointed-at pixel and its value.

const PARTS = { amp: "Amplitude", phase: "Phase" };
const ROLES = { pred: "predicted", gt: "truth", error: "error" };
const MOST_ZOOM = 64; // screen pixels per pixel
const canvas = $("view");

const state = { object: "", kind: "", index: 0, scale: 0, centre: null, point: null, pyramid: null, overview: null,
  overviewIsThis: false };

const epoch = () => DATA.epochs[state.index];
const titleOfObject = (name) => `Object ${name.split("_object_")[1] ?? ""}`.trim();
const titleOfKind = (kind) => {
  const [part, role] = kind.split("_");
  return `${PARTS[part]}, ${ROLES[role]}`;
};

/** Show a picture of an epoch; the place stays the same. */
async function show() {
  const known = Object.keys(DATA.pictures[state.object]);
  if (!known.includes(state.kind)) [state.kind] = known;
  $("picture").replaceChildren(...known.map((kind) => new Option(titleOfKind(kind), kind)));
  $("picture").value = state.kind;
  $("slider").value = state.index;
  $("epoch").textContent = `Epoch ${epoch().epoch}${epoch().epoch ? "" : " (untrained)"}, step ${epoch().step}`;
  $("slider").setAttribute("aria-valuetext", $("epoch").textContent);
  $("previous").disabled = state.index === 0;
  $("next").disabled = state.index === DATA.epochs.length - 1;
  const { folder, size, png } = DATA.pictures[state.object][state.kind];
  const before = state.pyramid;
  const pyramid = new Pyramid(epoch().tiles[state.object]?.[state.kind] ?? "", state.kind, size, draw);
  state.pyramid = pyramid;
  state.overviewIsThis = false;
  if (!before || before.width !== pyramid.width || before.height !== pyramid.height) fit();
  const overview = await decodePicture(png);
  if (pyramid !== state.pyramid) return; // another picture was chosen
  state.overview = overview; // of the newest epoch: its range and colours are those of all epochs
  state.overviewIsThis = folder === pyramid.folder;
  state.thumbnail = coloured(overview);
  showScale(overview);
  draw();
  showValue();
  document.documentElement.dataset.shown = `${epoch().epoch} ${state.object} ${state.kind}`;
}

function coloured({ width, height, indices, palette }) {
  const image = new ImageData(width, height);
  for (let at = 0; at < indices.length; at++) {
    image.data.set(palette.subarray(3 * indices[at], 3 * indices[at] + 3), 4 * at);
    image.data[4 * at + 3] = 255;
  }
  const made = new OffscreenCanvas(width, height);
  made.getContext("2d").putImageData(image, 0, 0);
  return made;
}

function showScale(one) {
  const indices = Uint8Array.from({ length: LEVELS }, (_, level) => level);
  $("bar").width = LEVELS;
  $("bar").height = 1;
  $("bar").getContext("2d").drawImage(coloured({ width: LEVELS, height: 1, indices, palette: one.palette }), 0, 0);
  $("low").textContent = endText(one.vmin, one.unit);
  $("high").textContent = endText(one.vmax, one.unit);
  const { width, height, folder, kind } = state.pyramid;
  $("facts").textContent = `${one.quantity}. ${width} \u00d7 ${height} px, ${folder}/${kind}.dzi`;
}

// --- drawing ---------------------------------------------------------------------------------------------------------

const fitScale = () => Math.min(canvas.width / state.pyramid.width, canvas.height / state.pyramid.height);

function fit() {
  sizeCanvas();
  state.centre = { x: state.pyramid.width / 2, y: state.pyramid.height / 2 };
  state.scale = fitScale();
  draw();
}

function sizeCanvas() {
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio));
}

/** The visible part, in full-size pixels. */
function box() {
  const [half, tall] = [canvas.width / 2 / state.scale, canvas.height / 2 / state.scale];
  const { x, y } = state.centre;
  return { left: x - half, right: x + half, top: y - tall, bottom: y + tall };
}

function draw() {
  const { pyramid, scale } = state;
  const context = canvas.getContext("2d");
  const seen = box();
  const at = (x, y) => [Math.round((x - seen.left) * scale), Math.round((y - seen.top) * scale)];
  const put = (image, left, top, right, bottom) => {
    const [x, y] = at(left, top);
    const [endX, endY] = at(right, bottom);
    context.drawImage(image, x, y, endX - x, endY - y);
  };
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.save();
  context.beginPath();
  const [x, y] = at(0, 0);
  const [endX, endY] = at(pyramid.width, pyramid.height);
  context.rect(x, y, endX - x, endY - y);
  context.clip(); // squares at the edge may reach beyond the picture
  context.imageSmoothingQuality = "high";
  if (state.overviewIsThis) {
    const block = blockOf(state.overview);
    context.imageSmoothingEnabled = scale * block < 1;
    put(state.thumbnail, 0, 0, state.overview.width * block, state.overview.height * block);
  }
  const finest = pyramid.levelFor(scale);
  for (let level = pyramid.coarsest; level >= finest; level--) {
    const wanted = level === finest || level === pyramid.coarsest;
    const step = 2 ** level;
    context.imageSmoothingEnabled = scale * step < 1;
    for (const { column, row, left, top } of pyramid.within(level, seen)) {
      const image = pyramid.image(level, column, row, wanted);
      if (image) put(image, left, top, left + image.naturalWidth * step, top + image.naturalHeight * step);
    }
  }
  context.restore();
  if (state.point) mark(context, at);
  describe(seen);
}

/** Side of the squares of full-size pixels that an overview averages. */
const blockOf = (overview) => 2 ** Math.round(Math.log2(Math.max(state.pyramid.width, state.pyramid.height)
  / Math.max(overview.width, overview.height)));

function mark(context, at) {
  const { x, y } = state.point;
  const [left, top] = at(x, y);
  const side = Math.max(Math.round(state.scale), 7);
  const shift = Math.round((state.scale - side) / 2);
  for (const [width, colour] of [[3, "#000"], [1, "#fff"]]) {
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.strokeRect(left + shift + 0.5, top + shift + 0.5, side - 1, side - 1);
  }
}

function describe(seen) {
  const { pyramid, scale } = state;
  const within = (value, most) => Math.min(Math.max(Math.round(value), 0), most);
  const span = (from, to, size) => `${within(from, size)} to ${within(to - 1, size - 1)}`;
  const part = `x ${span(seen.left, seen.right, pyramid.width)}, y ${span(seen.top, seen.bottom, pyramid.height)}`;
  const zoom = scale >= 1 ? `${Number(scale.toPrecision(3))} screen pixels per pixel` : `${numberText(100 * scale)} %`;
  canvas.setAttribute("aria-label", `${titleOfKind(state.kind)}, epoch ${epoch().epoch}: ${part}, zoom ${zoom}`);
  notice();
}

/** Explain what cannot be shown if the page is opened in this way, and what to do. */
function notice() {
  const run = RUN_ID || "RUN_ID";
  const page = ["run", ...FIT, "recon_log", "tiles.html"].join("/");
  const download = `mlflow artifacts download --run-id ${run} --dst-path run`;
  const shown = state.overview ? `averages over ${blockOf(state.overview)} \u00d7 ${blockOf(state.overview)} px` : "";
  const fails = state.pyramid.failed || !state.pyramid.url(0, 0, 0);
  const values = state.overviewIsThis ? `Values are ${shown}` : "Only the newest epoch has values here";
  const parts = [];
  if (fails) {
    const what = state.overviewIsThis ? `shown are ${shown}` : "there is nothing to show of this epoch";
    parts.push(IN_PREVIEW
      ? `This preview gets no tiles from the server: ${what}. For every pixel, download the run, `
      : `The tiles are not beside this page: ${what}. Download the whole run, `, code(download), `, and open ${page}.`);
  } else if (IN_PREVIEW) {
    parts.push(`${values}: a preview cannot read single pixels. For those, `, code(download), " and ",
      code("python -m http.server --bind 127.0.0.1 -d run"), `, then open ${page.replace("run/", "http://localhost:8000/")}.`);
  } else if (!CAN_READ) {
    parts.push(`${values}: browsers do not read single pixels of files. For those, run `,
      code("python -m http.server --bind 127.0.0.1"), " in the folder above this one and open the page there.");
  }
  const text = parts.map((one) => one.textContent ?? one).join("");
  if ($("notice").textContent !== text) $("notice").replaceChildren(...parts);
}

function code(text) {
  const made = document.createElement("code");
  made.textContent = text;
  return made;
}

// --- values ----------------------------------------------------------------------------------------------------------

async function showValue() {
  const { point, pyramid, overview } = state;
  if (!point || point.x < 0 || point.y < 0 || point.x >= pyramid.width || point.y >= pyramid.height) {
    $("readout").textContent = "Point at the picture to read its values. Zoom with the wheel or by pinching.";
    return;
  }
  const place = `x ${point.x}, y ${point.y} px`;
  const block = blockOf(overview);
  const mean = () => textAt(overview, Math.floor(point.x / block), Math.floor(point.y / block));
  let text = state.overviewIsThis ? `${mean()}, mean of ${block} \u00d7 ${block} px` : "";
  if (CAN_READ) text = await pyramid.valueAt(point.x, point.y).catch(() => text);
  if (point === state.point && pyramid === state.pyramid) $("readout").textContent = [place, text].filter(Boolean).join(": ");
}

function pointAt(x, y) {
  state.point = { x: Math.floor(x), y: Math.floor(y) };
  draw();
  showValue();
}
