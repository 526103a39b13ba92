// What the page is drawn with: SVG and HTML nodes, colours and dashes of runs, places in sorted values, ticks.
const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 7, DASHES = 10;

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
