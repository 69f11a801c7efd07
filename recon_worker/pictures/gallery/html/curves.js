// One small chart per metric over the epochs. A click selects the nearest epoch.

const CHART = { width: 300, height: 110, left: 54, right: 8, top: 8, bottom: 18 };

class Curve {
  /** @param points [{epoch, value}], finite values only */
  constructor(name, label, points, epochs, onEpoch) {
    this.points = points;
    this.unit = label.unit;
    this.element = document.createElement("div");
    this.element.className = "curve";
    this.element.dataset.metric = name;
    const hint = { low: "lower is better", high: "higher is better" }[label.better] ?? "";
    this.element.innerHTML = "<h3><b></b><output></output></h3>";
    this.element.querySelector("b").textContent = label.label;
    this.element.title = hint;
    this.output = this.element.querySelector("output");
    this.svg = this.draw(epochs);
    this.svg.setAttribute("aria-label", `${label.label} over epochs`);
    this.element.append(this.svg);
    this.svg.addEventListener("click", (event) => onEpoch(this.epochAt(event)));
  }

  draw(epochs) {
    const svg = element("svg", { viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img" });
    const values = this.points.map((point) => point.value);
    this.x = scale(Math.min(...epochs), Math.max(...epochs), CHART.left, CHART.width - CHART.right);
    this.y = scale(Math.min(...values), Math.max(...values), CHART.height - CHART.bottom, CHART.top);
    const [left, right] = [CHART.left, CHART.width - CHART.right];
    for (const value of new Set([Math.min(...values), Math.max(...values)])) {
      svg.append(element("line", { class: "axis", x1: left, x2: right, y1: this.y(value), y2: this.y(value) }));
      svg.append(text(left - 5, this.y(value) + 4, numberText(value), "end"));
    }
    for (const epoch of new Set([Math.min(...epochs), Math.max(...epochs)])) {
      const anchor = epoch === Math.min(...epochs) ? "start" : "end";
      svg.append(text(this.x(epoch), CHART.height - 4, `epoch ${epoch}`, anchor));
    }
    const path = this.points.map(({ epoch, value }) => `${this.x(epoch)},${this.y(value)}`).join(" ");
    svg.append(element("polyline", { class: "line", points: path }));
    for (const { epoch, value } of this.points.length <= 40 ? this.points : []) {
      svg.append(element("circle", { class: "dot", cx: this.x(epoch), cy: this.y(value), r: 2 }));
    }
    this.now = element("line", { class: "now", y1: CHART.top, y2: CHART.height - CHART.bottom });
    this.dot = element("circle", { class: "dot now", r: 4 });
    svg.append(this.now, this.dot);
    return svg;
  }

  mark(epoch) {
    const point = this.points.find((one) => one.epoch === epoch);
    this.now.setAttribute("x1", this.x(epoch));
    this.now.setAttribute("x2", this.x(epoch));
    this.dot.style.visibility = point ? "visible" : "hidden";
    this.output.textContent = point ? `${numberText(point.value)} ${this.unit}`.trim() : "not defined";
    if (!point) return;
    this.dot.setAttribute("cx", this.x(epoch));
    this.dot.setAttribute("cy", this.y(point.value));
  }

  epochAt(event) {
    const box = this.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * CHART.width;
    return this.x.inverse(x);
  }
}

function scale(from, to, start, end) {
  const span = to - from;
  const map = (value) => (span ? start + ((value - from) / span) * (end - start) : (start + end) / 2);
  map.inverse = (position) => from + ((position - start) / (end - start)) * span;
  return map;
}

function element(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function text(x, y, content, anchor) {
  const made = element("text", { x, y, "text-anchor": anchor });
  made.textContent = content;
  return made;
}
