// A chart of several curves, drawn at the width of its place, with a key below it.

const PLOT = { height: 170, left: 58, right: 10, top: 8, bottom: 20 };

/**
 * @param series [{name, text, points: [[x, y], ...]}]; a point whose y is not finite interrupts the curve
 * @param x [first, last]; y [lowest, highest]: values of the ends of the axes; xEnds, yEnds: their texts
 * @param marks values of x with a vertical line
 */
function plot(host, { series, x: [first, last], y: [lowest, highest], xEnds, yEnds, marks = [], label }) {
  const width = Math.max(260, host.clientWidth);
  const [left, right, top, bottom] = [PLOT.left, width - PLOT.right, PLOT.top, PLOT.height - PLOT.bottom];
  const [x, y] = [scale(first, last, left, right), scale(lowest, highest, bottom, top)];
  const svg = element("svg", { viewBox: `0 0 ${width} ${PLOT.height}`, role: "img", "aria-label": label });
  for (const height of [bottom, top]) svg.append(element("line", { class: "axis", x1: left, x2: right, y1: height, y2: height }));
  svg.append(text(left - 5, bottom + 4, yEnds[0], "end"), text(left - 5, top + 8, yEnds[1], "end"));
  svg.append(text(left, PLOT.height - 4, xEnds[0], "start"), text(right, PLOT.height - 4, xEnds[1], "end"));
  for (const mark of marks) svg.append(element("line", { class: "now", x1: x(mark), x2: x(mark), y1: top, y2: bottom }));
  series.forEach(({ points }, at) => svg.append(element("path", { class: `line s${at}`, d: pathOf(points, x, y) })));
  host.replaceChildren(svg, keyOf(series));
}

function pathOf(points, x, y) {
  let command = "M";
  return points.map(([across, up]) => {
    const part = Number.isFinite(up) ? `${command}${x(across).toFixed(2)} ${y(up).toFixed(2)}` : "";
    command = part ? "L" : "M";
    return part;
  }).join("");
}

function keyOf(series) {
  const key = document.createElement("ul");
  key.className = "key";
  key.append(...series.map(({ name, text: more }, at) => {
    const item = document.createElement("li");
    const sample = element("svg", { viewBox: "0 0 24 8", "aria-hidden": "true" });
    sample.append(element("path", { class: `line s${at}`, d: "M0 4H24" }));
    item.append(sample, more ? `${name}: ${more}` : name);
    return item;
  }));
  return key;
}
