// Drawing. Everything that comes from the manifest becomes text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

function add(node, properties, children) {
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of [children ?? []].flat(2)) {
    if (child !== null && child !== undefined) node.append(child); // strings become text nodes
  }
  return node;
}

const el = (tag, properties, children) => add(document.createElement(tag), properties, children);
const svg = (tag, properties, children) => add(document.createElementNS(SVG, tag), properties, children);

// ---- numbers and names

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const count = (n) => whole.format(n);

function short(x) {
  if (x === null || x === undefined) return "–";
  if (x === Infinity) return "∞";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1000) return count(x);
  if (size < 0.001) return x.toExponential(1);
  return size < 0.995 ? x.toPrecision(2) : size < 1 ? x.toFixed(2) : x.toPrecision(3);
}

const tick = (x) => (x >= 1000 ? compact(x) : String(x));

const percent = (share) => (share > 0 && share < 0.001 ? "<0.1 %" : `${Number((100 * share).toPrecision(share < 0.1 ? 2 : 3))} %`);

// Control characters, line ends and marks that turn the direction of text are written out, as Python writes them.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
function visible(text) {
  const named = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };
  const written = (c) => named[c] || "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0");
  return String(text).replace(UNSEEN, written);
}

const name = (text) => el("bdi", { class: "name", title: visible(text) }, visible(text));

// ---- the axis of noise levels: ln sigma, from the lowest to the highest level

class Axis {
  constructor(grid) {
    this.grid = grid;
    this.low = Math.log(grid[0]);
    this.span = Math.log(grid[grid.length - 1]) - this.low;
    const middle = (a, b) => Math.sqrt(a * b);
    const inner = grid.slice(1).map((s, i) => middle(grid[i], s));
    this.edges = [grid[0], ...inner, grid[grid.length - 1]]; // of the cells around the levels
  }

  at(sigma) { // in [0, 1]
    return Math.min(1, Math.max(0, (Math.log(sigma) - this.low) / this.span));
  }

  ticks() {
    const first = Math.ceil(this.low / Math.LN10 - 1e-9), last = Math.floor((this.low + this.span) / Math.LN10 + 1e-9);
    return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => 10 ** (first + i)).map((s) => Number(s.toPrecision(1)));
  }

  labels() { // an HTML axis, whose text does not shrink with a drawing
    const mark = (s) => el("span", { style: `left:${100 * this.at(s)}%` }, tick(s));
    return el("div", { class: "axis", "aria-hidden": "true" }, this.ticks().map(mark));
  }
}

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

// Draw again whenever the place that a chart has gets another width: text keeps its size on a phone.
function responsive(place, draw) {
  let last = 0;
  const redraw = () => {
    const width = Math.round(place.clientWidth);
    if (width > 0 && width !== last) {
      last = width;
      place.replaceChildren(...[draw(width)].flat());
    }
  };
  new ResizeObserver(redraw).observe(place);
  redraw();
  return () => { last = 0; redraw(); };
}

// ---- one row of a table: a histogram, or a strip of shares

function histogram(bins, top, says) { // top: what fills the height
  const width = 100 / bins.length, height = (n) => (n ? Math.max(1.2, 30 * n / top) : 0);
  const bars = bins.map((n, i) => n > 0 && svg("rect", {
    x: (i * width + 0.1).toFixed(2), y: (30 - height(n)).toFixed(2), width: (width - 0.2).toFixed(2), height: height(n).toFixed(2),
  }));
  return svg("svg", { class: "bars", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": says }, bars.filter(Boolean));
}

// Hard stops of one gradient: cells side by side would show their seams.
function strip(shares, axis, says) {
  const percentAt = (k) => `${(100 * axis.at(axis.edges[k])).toFixed(2)}%`;
  const stops = shares.map((share, k) => `color-mix(in srgb, var(--accent) ${(share > 0 ? 6 + 94 * share : 0).toFixed(1)}%, var(--grid)) ${percentAt(k)} ${percentAt(k + 1)}`);
  return el("div", { class: "strip", role: "img", "aria-label": says, style: `background:linear-gradient(to right,${stops.join(",")})` });
}

// ---- frames

function frame(width, height, axis, { left = 44, right = 14, top = 12, bottom = 30, highest, ticks, says, name: title = "σ" }) {
  const x = (sigma) => left + axis.at(sigma) * (width - left - right);
  const y = (value) => top + (1 - value / highest) * (height - top - bottom);
  const out = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": says });
  for (const t of ticks) {
    out.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(t), y2: y(t) }));
    out.append(svg("text", { class: "tick", x: left - 6, y: y(t) + 4, "text-anchor": "end" }, tick(t)));
  }
  for (const s of axis.ticks()) {
    out.append(svg("line", { class: "grid", x1: x(s), x2: x(s), y1: top, y2: height - bottom }));
    out.append(svg("text", { class: "tick", x: x(s), y: height - bottom + 16, "text-anchor": "middle" }, tick(s)));
  }
  if (title) out.append(svg("text", { class: "tick", x: width - right, y: height - 1, "text-anchor": "end" }, title));
  return { out, x, y, left, right, top, bottom, width, height };
}

const compact = (n) => new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 }).format(n);

function niceTicks(highest, about) { // of counts
  const raw = Math.max(1, highest / about), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  return Array.from({ length: Math.floor(highest / step + 1e-9) + 1 }, (_, i) => i * step);
}

// ---- the charts

function coverageChart(width, axis, usable, clean, all, level) {
  const height = width < 560 ? 260 : 340;
  const f = frame(width, height, axis, {
    highest: all * 1.06 || 1, ticks: niceTicks(all || 1, 5), top: 16, right: width < 560 ? 14 : 20, name: "noise level σ",
    says: `Pictures usable at each noise level, from ${count(usable[0])} at ${short(axis.grid[0])} to ${count(usable[usable.length - 1])} at ${short(axis.grid[axis.grid.length - 1])}; the clean set has ${count(clean)}, all usable are ${count(all)}.`,
  });
  const points = axis.grid.map((s, k) => [f.x(s), f.y(usable[k])]);
  const ends = [[points[points.length - 1][0], f.y(0)], [points[0][0], f.y(0)]];
  f.out.append(svg("path", { class: "area", d: path([...points, ...ends]) + "Z" }));
  const line = (value, kind, text, below) => {
    f.out.append(svg("line", { class: `line ${kind}`, x1: f.left, x2: width - f.right, y1: f.y(value), y2: f.y(value) }));
    f.out.append(svg("text", { class: `mark ${kind}`, x: below ? width - f.right - 4 : f.left + 8, y: f.y(value) + (below ? 15 : -6), "text-anchor": below ? "end" : "start" }, text));
  };
  line(all, "all", `all ${count(all)}`);
  line(clean, "clean", `clean set ${count(clean)}`, true);
  f.out.append(svg("path", { class: "line", d: path(points) }));
  const s = axis.grid[level];
  f.out.append(svg("line", { class: "cursor", x1: f.x(s), x2: f.x(s), y1: f.top, y2: height - f.bottom }));
  f.out.append(svg("circle", { class: "dot", cx: f.x(s), cy: f.y(usable[level]), r: 4.5 }));
  return f.out;
}

function curveChart(width, height, axis, curve, says) {
  const f = frame(width, height, axis, { highest: 1, ticks: [0, 0.5, 1], left: 30, right: 10, top: 8, says, name: null });
  const at = (values) => axis.grid.map((s, k) => [f.x(s), f.y(values[k])]);
  if (curve.p10) f.out.append(svg("path", { class: `band ${curve.kind || ""}`, d: path([...at(curve.p90), ...at(curve.p10).reverse()]) + "Z" }));
  f.out.append(svg("line", { class: "tau", x1: f.left, x2: width - f.right, y1: f.y(curve.tau), y2: f.y(curve.tau) }));
  if (curve.reference) f.out.append(svg("path", { class: "line reference", d: path(at(curve.reference)) }));
  for (const [x, y] of curve.points ? at(curve.points) : []) f.out.append(svg("circle", { class: "point", cx: x, cy: y, r: 2 }));
  if (curve.line) f.out.append(svg("path", { class: `line ${curve.kind || ""}`, d: path(at(curve.line)) }));
  const sigma = curve.crossing;
  if (curve.interval && curve.interval[1] > 0) {
    const [a, b] = curve.interval.map((s) => f.x(s || axis.grid[0]));
    f.out.append(svg("rect", { class: "interval", x: a, y: f.top, width: Math.max(1, b - a), height: height - f.top - f.bottom }));
  }
  if (sigma > 0 && sigma < Infinity) {
    const right = f.x(sigma) > width * 0.7;
    f.out.append(svg("line", { class: "cursor", x1: f.x(sigma), x2: f.x(sigma), y1: f.top, y2: height - f.bottom }));
    f.out.append(svg("text", { class: "mark", x: f.x(sigma) + (right ? -5 : 5), y: height - f.bottom - 6, "text-anchor": right ? "end" : "start" }, ["σ", svg("tspan", { dy: 3, "font-size": 9 }, "min"), svg("tspan", { dy: -3 }, ` ${short(sigma)}`)]));
  }
  return f.out;
}
