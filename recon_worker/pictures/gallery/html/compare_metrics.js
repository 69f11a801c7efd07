// Metrics of several runs: one chart per metric with a line per run, and tables with a column per run.

const SOLID_LINES = 5; // the lines of further runs are dashed

/** Colour and dash of a run, on an element. */
function dress(made, run) {
  made.style.setProperty("--run", `var(--run-${run})`);
  made.classList.add("run");
  made.classList.toggle("dashed", run >= SOLID_LINES);
  return made;
}

function swatch(run) {
  const made = document.createElement("span");
  made.className = "swatch";
  return dress(made, run);
}

/** The chart of one metric. `points` are [{run, epoch, value}]. */
class RunCurves extends Curve {
  draw(epochs) {
    const svg = super.draw(epochs);
    for (const old of svg.querySelectorAll(".line, .dot")) old.remove();
    this.dots = new Map();
    for (const run of new Set(this.points.map((point) => point.run))) {
      const points = this.points.filter((point) => point.run === run);
      const path = points.map(({ epoch, value }) => `${this.x(epoch)},${this.y(value)}`).join(" ");
      this.dots.set(run, dress(element("circle", { class: "dot", r: 4 }), run));
      svg.append(dress(element("polyline", { class: "line", points: path }), run));
    }
    svg.append(...this.dots.values());
    return svg;
  }

  /** Mark the epoch of each run, by run, and the common one, if there is one. */
  mark(epochs, common) {
    for (const [run, dot] of this.dots) {
      const point = this.points.find((one) => one.run === run && one.epoch === epochs[run]);
      dot.style.visibility = point ? "visible" : "hidden";
      if (!point) continue;
      dot.setAttribute("cx", this.x(point.epoch));
      dot.setAttribute("cy", this.y(point.value));
    }
    this.now.style.visibility = common === null ? "hidden" : "visible";
    if (common === null) return;
    for (const end of ["x1", "x2"]) this.now.setAttribute(end, this.x(common));
  }
}

/** Indices of the best values; none if all are equal, or if no direction is better. */
function bestOf(values, better) {
  const finite = values.filter((value) => value !== null);
  if (!better || new Set(finite).size < 2) return [];
  const best = better === "low" ? Math.min(...finite) : Math.max(...finite);
  return values.flatMap((value, index) => (value === best ? [index] : []));
}

/** Fill a table: `rows` are [label, texts by run, indices in bold]. */
function fillTable(table, names, rows) {
  const line = (cells) => {
    const made = document.createElement("tr");
    made.append(...cells);
    return made;
  };
  const cell = (kind, content, best = false) => {
    const made = document.createElement(kind);
    made.append(content);
    made.classList.toggle("best", best);
    return made;
  };
  const head = line([cell("th", ""), ...names.map((name) => cell("th", name))]);
  table.replaceChildren(head, ...rows.map(([label, texts, best = []]) =>
    line([cell("th", label), ...texts.map((text, index) => cell("td", text, best.includes(index)))])));
}
