"use strict";
// Curves over shared iterations: hover or arrow keys read values, a drag zooms, a double click shows all again,
// the legend shows and hides runs.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const COLOURS = 7, DASHES = 10;
  const LEFT = 60, RIGHT = 14, TOP = 18, BOTTOM = 26;
  const data = JSON.parse(document.getElementById("curves").textContent);
  const host = document.getElementById("panels");
  const spoken = document.getElementById("spoken");
  const reset = document.getElementById("reset");
  const average = document.getElementById("average");
  const hidden = new Set();
  let shownX = null; // [low, high] of a zoom, or null for all
  let cursor = null; // {panel, x} of what is being read

  const make = (name, attributes, ...content) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...content);
    return node;
  };
  const html = (name, className, ...content) => {
    const node = document.createElement(name);
    node.className = className;
    node.append(...content);
    return node;
  };
  const colour = (run) => `run${run % COLOURS}`;
  const dash = (run, output) => `dash${(Math.floor(run / COLOURS) + output) % DASHES}`;
  const swatch = (run, output) => {
    const line = make("line", {x1: 1, y1: 5, x2: 21, y2: 5, class: `stroke ${colour(run)} ${dash(run, output)}`});
    return make("svg", {viewBox: "0 0 22 10", width: 22, height: 10, class: "swatch", "aria-hidden": "true"}, line);
  };
  const finite = (y) => typeof y === "number";
  // The place of the first value that is not below x.
  const search = (values, x) => {
    let low = 0, high = values.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] < x) low = middle + 1; else high = middle;
    }
    return low;
  };
  const nearest = (values, x) => {
    const at = search(values, x);
    if (at === 0) return 0;
    if (at === values.length) return at - 1;
    return x - values[at - 1] < values[at] - x ? at - 1 : at;
  };
  const quantile = (sorted, share) => sorted[Math.round(share * (sorted.length - 1))];

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
  const firstX = Math.min(...every.map((curve) => curve.x[0]));
  const lastX = Math.max(...every.map((curve) => curve.x[curve.x.length - 1]));
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
  const short = (value) => String(Number(value.toPrecision(4)));
  const ticks = (low, high, most) => {
    const rough = (high - low) / Math.max(most, 1), power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999) || 10 * power;
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const found = [];
    for (let count = Math.ceil(low / step - 1e-9); count * step <= high + step * 1e-9; count++) {
      found.push([count * step, digits > 8 ? (count * step).toPrecision(4) : (count * step).toFixed(digits)]);
    }
    return found;
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
})();
