// Curves over shared iterations: a panel for each quantity, what of it is visible, and its drawing.
const LEFT = 60, RIGHT = 14, TOP = 18, BOTTOM = 26;
const data = JSON.parse(document.getElementById("curves").textContent);
const host = document.getElementById("panels");
// What page.events.js changes: the runs that are hidden, and [low, high] of a zoom, or null for all.
const hidden = new Set();
let shownX = null;

const panels = data.panels.map((source) => {
  const outputs = [...new Set(source.curves.map((curve) => curve.output))];
  const panel = {
    title: source.title, several: outputs.length > 1, shownY: null, about: "",
    curves: source.curves.map((curve) => ({...curve, style: outputs.indexOf(curve.output), mean: null})),
    plot: make("svg", {class: "plot", tabindex: 0, role: "group"}),
    note: html("small", ""), tip: html("div", "tip"),
  };
  const thinned = source.curves.filter((curve) => curve.of > curve.x.length);
  const longest = thinned.sort((a, b) => b.of - a.of)[0];
  panel.thinned = longest ? `lowest and highest of each bunch: ${longest.x.length} of ${longest.of} values` : "";
  panel.tip.hidden = true;
  panel.plot.setAttribute("aria-label", `${panel.title}: arrow keys read values, plus and minus zoom, 0 shows all`);
  panel.box = html("div", "panel", html("h3", "", panel.title, panel.note), panel.plot, panel.tip);
  panel.box.dataset.panel = panel.title;
  host.append(panel.box);
  return panel;
});
const every = panels.flatMap((panel) => panel.curves);
// The star of a best that a later run has replaced may stand behind the end of its curve.
const ends = every.flatMap((curve) => [curve.x[0], curve.x[curve.x.length - 1], ...(curve.star ? [curve.star[0]] : [])]);
const firstX = Math.min(...ends), lastX = Math.max(...ends);
const whole = [firstX, lastX > firstX ? lastX : firstX + 1];
const visible = (panel) => panel.curves.filter((curve) => !hidden.has(curve.run));

// What is drawn of a curve: the values, or the mean of the last so many displays of the train loss.
const drawn = (curve) => curve.mean || curve.y;
const setAverage = (count) => {
  for (const panel of panels) {
    if (panel.title !== "train loss") continue;
    for (const curve of panel.curves) {
      curve.mean = count < 2 ? null : curve.y.map((y, at) => {
        if (!finite(y)) return y;
        const some = curve.y.slice(Math.max(0, at + 1 - count), at + 1).filter(finite);
        return some.reduce((sum, value) => sum + value, 0) / some.length;
      });
    }
    panel.about = count < 2 ? "" : `mean of ${count} ${panel.thinned ? "of the values drawn" : "displays"}`;
  }
};

const rangeX = () => {
  if (shownX) return shownX;
  const room = (whole[1] - whole[0]) * 0.02;
  return [whole[0] - room, whole[1] + room];
};
// Where the best of a curve stands: on it, or at a value that a later run of the log has replaced.
const star = (curve, values) => curve.star || (curve.best === null ? null : [curve.x[curve.best], values[curve.best]]);
// The values to show, and whether some lie outside: where first or a few wild ones would press all others flat.
const rangeY = (panel) => {
  if (panel.shownY) return {low: panel.shownY[0], high: panel.shownY[1], outside: ""};
  const [from, to] = rangeX();
  let low = Infinity, high = -Infinity;
  const late = [], bests = [];
  for (const curve of visible(panel)) {
    const values = drawn(curve);
    for (let at = search(curve.x, from); at < curve.x.length && curve.x[at] <= to; at++) {
      const y = values[at];
      if (!finite(y)) continue;
      if (y < low) low = y;
      if (y > high) high = y;
      if (curve.x[at] >= whole[0] + (whole[1] - whole[0]) / 20) late.push(y);
    }
    const best = star(curve, values);
    if (best) bests.push(best[1]);
    if (curve.star && from <= best[0] && best[0] <= to) [low, high] = [Math.min(low, best[1]), Math.max(high, best[1])];
  }
  if (low > high) return {low: 0, high: 1, outside: ""};
  let outside = "";
  if (!shownX && late.length >= 8) {
    late.sort((a, b) => a - b);
    const near = Math.min(quantile(late, 0.01), ...bests), far = Math.max(quantile(late, 0.99), ...bests);
    if (far > near && high - low > 4 * (far - near)) {
      outside = `some values outside: ${short(low)} to ${short(high)} in all`;
      [low, high] = [near, far];
    }
  }
  const room = high > low ? (high - low) * 0.08 : Math.abs(high) * 0.1 || 1;
  return {low: low - room, high: high + room, outside};
};

const draw = (panel) => {
  const width = Math.max(panel.plot.clientWidth, 200), height = width < 520 ? 200 : 250;
  const [x0, x1] = rangeX(), {low, high, outside} = rangeY(panel);
  const inner = {left: LEFT, right: width - RIGHT, top: TOP, bottom: height - BOTTOM};
  const X = (x) => inner.left + (inner.right - inner.left) * (x - x0) / (x1 - x0);
  const Y = (y) => inner.bottom - (inner.bottom - inner.top) * (y - low) / (high - low);
  panel.scale = {
    ...inner, X, Y,
    x: (px) => x0 + (px - inner.left) / (inner.right - inner.left) * (x1 - x0),
    y: (py) => low + (inner.bottom - py) / (inner.bottom - inner.top) * (high - low),
  };
  panel.plot.setAttribute("height", height);
  panel.plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const clip = `clip${panels.indexOf(panel)}`;
  const frame = {x: inner.left, y: inner.top, width: inner.right - inner.left, height: inner.bottom - inner.top};
  const back = make("g", {}), xAxis = make("g", {class: "x-axis"}), yAxis = make("g", {class: "y-axis"});
  for (const [value, text] of ticks(x0, x1, (inner.right - inner.left) / 90)) {
    if (value < whole[0] && !shownX) continue;
    back.append(make("line", {class: "grid", x1: X(value), x2: X(value), y1: inner.top, y2: inner.bottom}));
    xAxis.append(make("text", {x: X(value), y: inner.bottom + 15, "text-anchor": "middle"}, text));
  }
  for (const [value, text] of ticks(low, high, (inner.bottom - inner.top) / 45)) {
    back.append(make("line", {class: "grid", x1: inner.left, x2: inner.right, y1: Y(value), y2: Y(value)}));
    yAxis.append(make("text", {x: inner.left - 6, y: Y(value) + 4, "text-anchor": "end"}, text));
  }
  back.append(make("line", {class: "frame", x1: inner.left, x2: inner.right, y1: inner.bottom, y2: inner.bottom}));
  let free = -Infinity;
  for (const step of data.steps) {
    if (step.x < x0 || step.x > x1 || step.runs.every((run) => hidden.has(run))) continue;
    back.append(make("line", {class: "step", x1: X(step.x), x2: X(step.x), y1: inner.top, y2: inner.bottom}));
    const size = step.text.length * 6.2, at = Math.min(X(step.x) + 2, inner.right - size);
    if (panel === panels[0] && at > free) {
      back.append(make("text", {x: at, y: inner.top - 5}, step.text));
      free = at + size + 8;
    }
  }
  panel.note.textContent = [panel.thinned, panel.about, outside].filter(Boolean).join("; ");
  xAxis.append(make("text", {x: inner.left - 6, y: inner.bottom + 15, "text-anchor": "end", class: "label"}, data.xLabel));
  const lines = make("g", {"clip-path": `url(#${clip})`}), marks = make("g", {"clip-path": `url(#${clip})`});
  for (const curve of visible(panel)) {
    const from = Math.max(0, search(curve.x, x0) - 1), to = Math.min(curve.x.length, search(curve.x, x1) + 2);
    const shape = (values) => {
      let text = "", pen = false;
      for (let at = from; at < to; at++) {
        if (!finite(values[at])) { pen = false; continue; }
        text += `${pen ? "L" : "M"}${X(curve.x[at]).toFixed(1)} ${Y(values[at]).toFixed(1)}`;
        pen = true;
      }
      return text;
    };
    const style = `${colour(curve.run)} ${dash(curve.run, curve.style)}`;
    const about = {"data-run": curve.run, "data-output": curve.output};
    if (curve.mean) lines.append(make("path", {class: `curve raw ${style}`, d: shape(curve.y)}));
    lines.append(make("path", {class: `curve ${style}`, d: shape(drawn(curve)), ...about}));
    if (curve.x.length <= 40) {
      for (let at = from; at < to; at++) {
        if (finite(curve.y[at])) {
          marks.append(make("circle", {class: `point ${style}`, cx: X(curve.x[at]), cy: Y(drawn(curve)[at]), r: 3}));
        }
      }
    }
    const best = star(curve, curve.y);
    if (best) {
      const x = X(best[0]), y = Y(best[1]);
      const points = Array.from({length: 10}, (_, k) => {
        const radius = k % 2 ? 3 : 7, angle = Math.PI * (k / 5 - 0.5);
        return `${(x + radius * Math.cos(angle)).toFixed(1)},${(y + radius * Math.sin(angle)).toFixed(1)}`;
      });
      marks.append(make("polygon", {class: `best ${colour(curve.run)}`, points: points.join(" ")}));
    }
  }
  panel.reading = make("g", {});
  panel.area = make("rect", {class: "area", visibility: "hidden"});
  panel.plot.replaceChildren(
    make("clipPath", {id: clip}, make("rect", frame)), back, xAxis, yAxis, lines, marks, panel.reading, panel.area,
  );
};
