// Reading and choosing: hover or arrow keys read values, a drag zooms, a double click shows all again, the legend shows
// and hides runs.
const spoken = document.getElementById("spoken");
const reset = document.getElementById("reset");
const average = document.getElementById("average");
let cursor = null; // {panel, x} of what is being read

const redraw = () => {
  panels.forEach(draw);
  reset.disabled = !shownX && panels.every((panel) => !panel.shownY);
  if (cursor) read(cursor.panel, cursor.x); else clear();
};

const clear = () => {
  cursor = null;
  for (const panel of panels) {
    panel.reading.replaceChildren();
    panel.tip.hidden = true;
  }
};
// Show the values of a panel at the iteration nearest to x: every curve at its own place nearest to that one.
const read = (panel, x) => {
  const [x0, x1] = rangeX();
  const found = visible(panel).map((curve) => ({curve, at: nearest(curve.x, x)}))
    .filter(({curve, at}) => curve.x[at] >= x0 && curve.x[at] <= x1);
  clear();
  if (!found.length) return "";
  const main = found.map(({curve, at}) => curve.x[at]).reduce((a, b) => (Math.abs(b - x) < Math.abs(a - x) ? b : a));
  cursor = {panel, x: main};
  for (const other of panels) {
    const {X, top, bottom} = other.scale;
    other.reading.append(make("line", {class: "cross", x1: X(main), x2: X(main), y1: top, y2: bottom}));
  }
  const words = [`iteration ${main}`], rows = [html("div", "", `iteration ${main}`)];
  rows[0].dataset.iteration = main;
  for (const {curve} of found) {
    const at = nearest(curve.x, main), y = curve.y[at], elsewhere = curve.x[at] === main ? "" : ` (at ${curve.x[at]})`;
    const name = data.runs[curve.run] + (panel.several ? ` ${curve.output}` : "");
    const row = html("div", "", swatch(curve.run, curve.style), html("span", "", name + elsewhere), html("b", "", String(y)));
    Object.assign(row.dataset, {run: curve.run, output: curve.output, at: curve.x[at], value: y});
    rows.push(row);
    words.push(`${name}${elsewhere} ${y}`);
    if (finite(y)) {
      const point = {cx: panel.scale.X(curve.x[at]), cy: panel.scale.Y(drawn(curve)[at]), r: 4};
      if (point.cy >= panel.scale.top - 1 && point.cy <= panel.scale.bottom + 1) {
        panel.reading.append(make("circle", {class: `point ${colour(curve.run)}`, ...point}));
      }
    }
  }
  panel.tip.replaceChildren(...rows);
  panel.tip.hidden = false;
  const at = panel.scale.X(main), wide = panel.tip.offsetWidth, space = panel.box.clientWidth;
  const left = at + 14 + wide <= space ? at + 14 : Math.max(0, at - 14 - wide);
  const above = panel.plot.getBoundingClientRect().top - panel.box.getBoundingClientRect().top;
  panel.tip.style.transform = `translate(${left}px, ${above + TOP + 6}px)`;
  return words.join(", ");
};

const zoomX = (low, high) => {
  const least = Math.min(2, whole[1] - whole[0]);
  if (high - low < least) [low, high] = [(low + high - least) / 2, (low + high + least) / 2];
  const all = high - low >= (whole[1] - whole[0]) * 1.04;
  shownX = all ? null : [low, high];
};
const showAll = () => {
  shownX = null;
  for (const panel of panels) panel.shownY = null;
  redraw();
};

for (const panel of panels) {
  const place = (event) => {
    const box = panel.plot.getBoundingClientRect(), {left, right, top, bottom} = panel.scale;
    const within = (value, low, high) => Math.min(Math.max(value, low), high);
    return [within(event.clientX - box.left, left, right), within(event.clientY - box.top, top, bottom)];
  };
  let start = null;
  const area = (from, to) => {
    const {left, right, top, bottom} = panel.scale;
    const flat = Math.abs(to[1] - from[1]) < 24;
    return {
      x: [Math.min(from[0], to[0]), Math.max(from[0], to[0])],
      y: flat ? [top, bottom] : [Math.min(from[1], to[1]), Math.max(from[1], to[1])],
      flat, some: Math.abs(to[0] - from[0]) > 8 && right > left,
    };
  };
  panel.plot.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !event.isPrimary) return;
    start = place(event);
    panel.plot.setPointerCapture(event.pointerId);
    if (event.pointerType !== "mouse") read(panel, panel.scale.x(start[0]));
  });
  panel.plot.addEventListener("pointermove", (event) => {
    const here = place(event);
    const chosen = start && area(start, here);
    if (chosen && chosen.some) {
      clear();
      const [x, right] = chosen.x, [y, bottom] = chosen.y;
      for (const [key, value] of Object.entries({x, y, width: right - x, height: bottom - y, visibility: "visible"})) {
        panel.area.setAttribute(key, value);
      }
    } else {
      panel.area.setAttribute("visibility", "hidden");
      read(panel, panel.scale.x(here[0]));
    }
  });
  const end = (event, done) => {
    const chosen = start && area(start, place(event));
    start = null;
    panel.area.setAttribute("visibility", "hidden");
    if (!done || !chosen || !chosen.some) return;
    const {x, y} = panel.scale;
    const heights = chosen.flat ? null : [y(chosen.y[1]), y(chosen.y[0])];
    zoomX(x(chosen.x[0]), x(chosen.x[1]));
    if (heights) panel.shownY = heights;
    redraw();
  };
  panel.plot.addEventListener("pointerup", (event) => end(event, true));
  panel.plot.addEventListener("pointercancel", (event) => end(event, false));
  panel.plot.addEventListener("pointerleave", (event) => { if (!start && event.pointerType === "mouse") clear(); });
  panel.plot.addEventListener("dblclick", showAll);
  panel.plot.addEventListener("blur", clear);

  // The iterations at which some curve of the panel has a value, within the view.
  const stops = () => {
    const [x0, x1] = rangeX(), all = new Set();
    for (const curve of visible(panel)) {
      for (let at = search(curve.x, x0); at < curve.x.length && curve.x[at] <= x1; at++) all.add(curve.x[at]);
    }
    return [...all].sort((a, b) => a - b);
  };
  const step = (by) => {
    const all = stops();
    if (!all.length) return;
    const at = cursor && cursor.panel === panel ? nearest(all, cursor.x) + by : by > 0 ? 0 : all.length - 1;
    spoken.textContent = read(panel, all[Math.min(Math.max(at, 0), all.length - 1)]);
  };
  const scaleBy = (factor) => {
    const [x0, x1] = rangeX(), middle = cursor ? cursor.x : (x0 + x1) / 2;
    const low = middle - (middle - x0) * factor, high = middle + (x1 - middle) * factor;
    zoomX(Math.max(low, whole[0] - (whole[1] - whole[0]) * 0.02), Math.min(high, whole[1] + (whole[1] - whole[0]) * 0.02));
    redraw();
  };
  const keys = {
    ArrowRight: (event) => step(event.shiftKey ? 10 : 1), ArrowLeft: (event) => step(event.shiftKey ? -10 : -1),
    Home: () => step(-1e9), End: () => step(1e9),
    "+": () => scaleBy(0.5), "=": () => scaleBy(0.5), "-": () => scaleBy(2), "0": showAll, Escape: showAll,
  };
  panel.plot.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key](event);
  });
}

const legend = document.getElementById("legend");
data.runs.forEach((name, run) => {
  const button = html("button", "", swatch(run, 0), name);
  button.type = "button";
  button.dataset.run = run;
  button.setAttribute("aria-pressed", "true");
  button.addEventListener("click", () => {
    if (!hidden.delete(run)) hidden.add(run);
    button.setAttribute("aria-pressed", String(!hidden.has(run)));
    redraw();
  });
  legend.append(button);
});
reset.addEventListener("click", showAll);
average.addEventListener("input", () => {
  setAverage(Math.max(1, Math.floor(Number(average.value)) || 1));
  redraw();
});
new ResizeObserver(redraw).observe(host);
redraw();
