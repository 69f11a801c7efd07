// Pictures on canvases with shared zoom and position. Pixels are drawn as squares.

const ZOOM_STEPS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
const SHARP_FROM = 4;

/** Zoom, centre and pointed-at pixel, shared by all pictures of one kind (object or diffraction). */
class Space {
  constructor(onPoint) {
    this.panels = [];
    this.onPoint = onPoint;
    this.point = null; // {x, y} in fractions of the picture's sides
    this.reset();
  }

  reset() {
    this.zoom = 1; // 1: the whole picture fits
    this.centre = { x: 0.5, y: 0.5 };
    this.draw();
  }

  draw() {
    for (const panel of this.panels) panel.draw();
  }

  pointAt(point) {
    this.point = point;
    this.draw();
    this.onPoint();
  }

  /** Zoom by a factor about a fixed point of the picture, in fractions of its sides. */
  zoomBy(factor, anchor = this.centre) {
    const most = ZOOM_STEPS.at(-1) / Math.max(1e-6, this.fitScale());
    const zoom = Math.min(Math.max(1, this.zoom * factor), Math.max(1, most));
    const shrink = this.zoom / zoom;
    this.moveTo({
      x: anchor.x + (this.centre.x - anchor.x) * shrink,
      y: anchor.y + (this.centre.y - anchor.y) * shrink,
    }, zoom);
  }

  /** Zoom to the next whole number of screen pixels per pixel, up or down. */
  step(direction) {
    const scale = this.fitScale() * this.zoom;
    const next = direction > 0
      ? ZOOM_STEPS.find((one) => one > scale * 1.01)
      : ZOOM_STEPS.findLast((one) => one < scale * 0.99);
    this.zoomBy(next ? next / scale : direction > 0 ? 1 : 0);
  }

  moveTo(centre, zoom = this.zoom) {
    const half = 0.5 / zoom;
    const inside = (value) => Math.min(Math.max(value, half), 1 - half);
    this.zoom = zoom;
    this.centre = { x: inside(centre.x), y: inside(centre.y) };
    this.draw();
  }

  fitScale() {
    return this.panels.length ? this.panels[0].fitScale() : 1;
  }
}

class PicturePanel {
  constructor(canvas, space) {
    this.canvas = canvas;
    this.space = space;
    this.picture = null;
    this.centreOnly = false; // whether only the central half is compared; the rest is dimmed
    this.enlarged = new Map();
    space.panels.push(this);
    listen(this);
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  show(picture) {
    this.picture = picture;
    this.enlarged.clear();
    this.canvas.style.aspectRatio = `${picture.width} / ${picture.height}`;
    this.draw();
  }

  /** Screen pixels per pixel at which the whole picture fits. */
  fitScale() {
    return this.picture ? (this.canvas.clientWidth * window.devicePixelRatio) / this.picture.width : 1;
  }

  draw() {
    const { canvas, picture, space } = this;
    if (!picture || !canvas.clientWidth) return;
    canvas.width = Math.round(canvas.clientWidth * window.devicePixelRatio);
    canvas.height = Math.round(canvas.clientHeight * window.devicePixelRatio);
    canvas.classList.toggle("zoomed", space.zoom > 1);
    const scale = this.fitScale() * space.zoom;
    const left = Math.round(canvas.width / 2 - space.centre.x * picture.width * scale);
    const top = Math.round(canvas.height / 2 - space.centre.y * picture.height * scale);
    const context = canvas.getContext("2d");
    const whole = Math.abs(scale - Math.round(scale)) < 1e-3;
    // Between whole factors, repeat pixels by the next whole factor, then average down: all keep the same size.
    const factor = whole || scale >= SHARP_FROM ? 1 : Math.ceil(scale);
    context.imageSmoothingEnabled = !whole && scale < SHARP_FROM;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.atFactor(factor), left, top, picture.width * scale, picture.height * scale);
    if (this.centreOnly) this.dimBorder(context, left, top, scale);
    if (space.point) this.mark(context, left, top, scale);
  }

  /** The picture with each pixel repeated a whole number of times. */
  atFactor(factor) {
    if (!this.enlarged.has(factor)) {
      const { width, height } = this.picture;
      const canvas = new OffscreenCanvas(width * factor, height * factor);
      const context = canvas.getContext("2d");
      if (factor === 1) context.putImageData(coloured(this.picture), 0, 0);
      else {
        context.imageSmoothingEnabled = false;
        context.drawImage(this.atFactor(1), 0, 0, canvas.width, canvas.height);
      }
      this.enlarged.set(factor, canvas);
    }
    return this.enlarged.get(factor);
  }

  /** Fade all but the central half of each axis to the colour of the page. */
  dimBorder(context, left, top, scale) {
    const { width, height } = this.picture;
    const [x, y] = [Math.floor(width / 4), Math.floor(height / 4)];
    context.beginPath();
    context.rect(left, top, width * scale, height * scale);
    context.rect(left + x * scale, top + y * scale, Math.floor(width / 2) * scale, Math.floor(height / 2) * scale);
    context.globalAlpha = 0.6;
    context.fillStyle = getComputedStyle(document.body).backgroundColor;
    context.fill("evenodd");
    context.globalAlpha = 1;
  }

  mark(context, left, top, scale) {
    const { x, y } = this.pixel();
    const side = Math.max(scale, 5);
    const corner = [left + (x + 0.5) * scale - side / 2, top + (y + 0.5) * scale - side / 2];
    context.lineWidth = 3;
    context.strokeStyle = "#000";
    context.strokeRect(...corner, side, side);
    context.lineWidth = 1;
    context.strokeStyle = "#fff";
    context.strokeRect(...corner, side, side);
  }

  /** Column and row of the pointed-at pixel. */
  pixel() {
    const { width, height } = this.picture;
    const within = (share, count) => Math.min(Math.floor(share * count), count - 1);
    return { x: within(this.space.point.x, width), y: within(this.space.point.y, height) };
  }

  index() {
    const { x, y } = this.pixel();
    return this.picture.indices[y * this.picture.width + x];
  }

  /** Position of an event in fractions of the picture's sides; outside 0 ... 1 it misses the picture. */
  share(event) {
    const box = this.canvas.getBoundingClientRect();
    const { zoom, centre } = this.space;
    return {
      x: centre.x + ((event.clientX - box.left) / box.width - 0.5) / zoom,
      y: centre.y + ((event.clientY - box.top) / box.height - 0.5) / zoom,
    };
  }
}

function coloured({ width, height, indices, palette }) {
  const image = new ImageData(width, height);
  for (let at = 0; at < indices.length; at++) {
    const from = 3 * indices[at];
    image.data.set([palette[from], palette[from + 1], palette[from + 2], 255], 4 * at);
  }
  return image;
}

/** Handle pointing, dragging, wheel and pinch on a panel. */
function listen(panel) {
  const { canvas, space } = panel;
  const held = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, event);
    space.pointAt(panel.share(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = held.get(event.pointerId);
    if (held.size === 2 && before) pinch(panel, held, event);
    else if (before && space.zoom > 1) drag(panel, before, event);
    if (before) held.set(event.pointerId, event);
    if (held.size < 2) space.pointAt(panel.share(event));
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => held.delete(event.pointerId));
  }
  canvas.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse" && !held.size) space.pointAt(null);
  });
  canvas.addEventListener("wheel", (event) => {
    const out = event.deltaY > 0;
    if (out && space.zoom === 1) return; // the page scrolls
    event.preventDefault();
    space.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), panel.share(event));
  }, { passive: false });
}

function drag(panel, before, event) {
  const [from, to] = [panel.share(before), panel.share(event)];
  const { centre } = panel.space;
  panel.space.moveTo({ x: centre.x + from.x - to.x, y: centre.y + from.y - to.y });
}

function pinch(panel, held, event) {
  const other = [...held.values()].find((one) => one.pointerId !== event.pointerId);
  const distance = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
  const middle = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
  panel.space.zoomBy(distance(event) / Math.max(1, distance(held.get(event.pointerId))), panel.share(middle));
}

/** Draw a colour bar: the map from its first to its last colour. */
function drawBar(canvas, { palette }) {
  canvas.width = LEVELS;
  canvas.height = 1;
  const indices = Uint8Array.from({ length: LEVELS }, (_, level) => level);
  canvas.getContext("2d").putImageData(coloured({ width: LEVELS, height: 1, indices, palette }), 0, 0);
}
