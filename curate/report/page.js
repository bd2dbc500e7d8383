// The page: tables, galleries and the dialog, from the JSON in #data (curate/report/page.py: contents).

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const { grid, totals, metadata } = data;
const axis = new Axis(grid);
const pictures = data.pictures;
const sigmaMin = () => el("span", { class: "symbol" }, ["σ", el("sub", {}, "min")]);
const sourceName = (group) => (group.name === null ? "other sources" : group.name);

// ---- tables

// columns: head, value (to sort by), cell, and number, wide (left out on a phone), plain (cannot be sorted by)
function table({ caption, columns, rows, shown = 12, order, empty }) {
  if (!rows.length) return el("p", { class: "muted" }, empty);
  const body = el("tbody"), state = { column: order?.[0] ?? -1, down: order?.[1] ?? false, all: rows.length <= shown + 3 };
  const kind = (c) => [c.number && "number", c.wide && "wide", c.kind].filter(Boolean).join(" ") || null;
  const heads = columns.map((c, i) => {
    const sortable = !c.plain;
    const inside = sortable ? el("button", { type: "button", onclick: () => sort(i) }, c.head) : c.head;
    return el("th", { scope: "col", class: kind(c), "aria-sort": sortable ? "none" : null }, [inside, c.under]);
  });
  const more = el("button", { type: "button", class: "more", onclick: () => { state.all = true; fill(); } });

  function sort(i) {
    state.down = state.column === i ? !state.down : Boolean(columns[i].number);
    state.column = i;
    fill();
  }
  function fill() {
    const by = columns[state.column];
    const sorted = by ? [...rows].sort((a, b) => compare(by.value(a), by.value(b), state.down)) : rows;
    heads.forEach((head, i) => {
      if (!columns[i].plain) head.setAttribute("aria-sort", i === state.column ? (state.down ? "descending" : "ascending") : "none");
    });
    body.replaceChildren(...sorted.slice(0, state.all ? undefined : shown).map((row) => el("tr", {}, columns.map((c, i) =>
      el(i ? "td" : "th", { class: kind(c), scope: i ? null : "row" }, [c.cell ? c.cell(row) : String(c.value(row))])))));
    more.hidden = state.all;
    more.textContent = `Show all ${rows.length}`;
  }
  fill();
  return el("div", { class: "scroll" }, [el("table", {}, [el("caption", { class: "unseen" }, caption), el("thead", {}, [el("tr", {}, heads)]), body]), more]);
}

function compare(a, b, down) { // what is missing comes last, either way
  const missing = (v) => v === null || v === undefined;
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  const order = typeof a === "number" ? a - b || 0 : String(a).localeCompare(String(b), "en", { numeric: true });
  return down ? -order : order;
}

// ---- the head of the page

function head() {
  const others = totals.ok - totals.clean, [low, median, high] = totals.quantiles || [];
  document.body.classList.toggle("coarse", metadata.space.resolution <= 64); // larger ones are shown smaller in the cards
  document.title = `${visible(data.name)} – ambient report`;
  $("name").append(name(data.name));
  $("about").append(`${data.space} · written ${data.written} · `, name(data.roots.map((r) => r.path).join(", ")));
  const from = median === undefined ? null : median * data.beta;
  $("lead").append(others === 0 ? "No picture outside the clean set can be used."
    : from === Infinity ? `Noise cannot fix more than half of the ${count(others)} usable pictures outside the clean set.`
      : from === 0 ? `Half or more of the ${count(others)} usable pictures outside the clean set can be trusted at every noise level.`
        : `Half of the ${count(others)} usable pictures outside the clean set can be trained on from noise level ${short(from)} up.`);
  const figure = (value, label, note) => el("div", {}, [el("dt", {}, label), el("dd", {}, [el("b", {}, value), note && el("span", {}, note)])]);
  $("figures").append(
    figure(count(totals.pictures), "pictures found", `${count(totals.pictures - totals.ok)} not usable`),
    figure(count(totals.clean), "clean set", totals.ok ? `${percent(totals.clean / totals.ok)} of the usable` : null),
    figure(short(median), ["median ", sigmaMin()], median === undefined ? null : `80 % in ${short(low)} … ${short(high)}`),
    figure(count(totals.zero), "trusted anywhere", others ? `${percent(totals.zero / others)} of the others` : null),
    figure(count(totals.never), "never trusted", others ? `${percent(totals.never / others)} of the others` : null),
  );
  notices();
}

function notices() {
  const notice = (...text) => $("notices").append(el("p", { class: "notice" }, text));
  for (const root of data.roots.filter((r) => !r.there)) {
    notice("The pictures of ", name(root.name), " are not at ", name(root.path), ` any more. Say where they are: ambient report … --root ${visible(root.name)}=/new/place`);
  }
  const gone = pictures.filter((p) => p.problem);
  if (gone.length) notice(`${count(gone.length)} of the ${count(pictures.length)} pictures shown here could not be read, such as `, name(gone[0].row.uri), `: ${visible(gone[0].problem)}.`);
  if (!data.curves) notice("This manifest has thresholds but no measured curves: the levels drawn here are the usual ones.");
}

// ---- trust by source

function trust() {
  const others = (g) => g.ok - g.clean;
  const top = Math.max(...data.sources.map((g) => Math.max(...g.bins) / (others(g) || 1)), 1e-9); // of the shares: large and small sources compare
  const bars = (g) => (others(g) === 0 ? el("span", { class: "muted" }, g.clean ? "clean set" : "none usable")
    : el("div", { class: "onaxis" }, [histogram(g.bins, top * others(g), `σ_min of ${visible(sourceName(g))}: half of them below ${short(g.quantiles[1])}`)]));
  $("trust-table").append(table({
    caption: "Trust levels by source",
    rows: data.sources,
    order: null,
    columns: [
      { head: "Source", value: sourceName, cell: (g) => name(sourceName(g)) },
      { head: "Pictures", value: (g) => g.pictures, cell: (g) => count(g.pictures), number: true, wide: true },
      { head: "Usable", value: (g) => g.ok, cell: (g) => count(g.ok), number: true, wide: true },
      { head: "Clean", value: (g) => g.clean, cell: (g) => count(g.clean), number: true, wide: true },
      { head: "Anywhere", value: (g) => g.zero, cell: (g) => count(g.zero), number: true, wide: true },
      { head: sigmaMin(), under: axis.labels(), value: (g) => g.quantiles?.[1], cell: bars, plain: true, kind: "drawn" },
      { head: "Never", value: (g) => g.never, cell: (g) => count(g.never), number: true, wide: true },
      { head: "Median", value: (g) => g.quantiles?.[1], cell: (g) => short(g.quantiles?.[1]), number: true },
      { head: "90 %", value: (g) => g.quantiles?.[2], cell: (g) => short(g.quantiles?.[2]), number: true, wide: true },
    ],
  }));
}

// ---- coverage

const usable = grid.map((_, k) => data.sources.reduce((sum, g) => sum + g.usable[k], 0));

function coverage() {
  const slider = $("level");
  slider.max = grid.length - 1;
  const start = usable.findIndex((n) => n >= totals.ok / 2);
  slider.value = Math.max(0, start);
  const redraw = responsive($("coverage-chart"), (width) => coverageChart(width, axis, usable, totals.clean, totals.ok, Number(slider.value)));
  const say = () => {
    const k = Number(slider.value), n = usable[k];
    const text = `at ${short(grid[k])}: ${count(n)} usable, ${percent(n / (totals.ok || 1))}` + (totals.clean ? `, ${short(n / totals.clean)} times the clean set` : "");
    $("level-says").textContent = text;
    slider.setAttribute("aria-valuetext", text);
    document.documentElement.style.setProperty("--level", axis.at(grid[k]));
    redraw();
  };
  slider.addEventListener("input", say);
  say();
  $("coverage-table").append(table({
    caption: "Pictures usable at each noise level",
    rows: grid.map((s, k) => ({ s, n: usable[k] })),
    shown: 100,
    columns: [
      { head: "Noise level", value: (r) => r.s, cell: (r) => short(r.s), number: true },
      { head: "Usable", value: (r) => r.n, cell: (r) => count(r.n), number: true },
      { head: "Share", value: (r) => r.n, cell: (r) => percent(r.n / (totals.ok || 1)), number: true },
    ],
  }));
}

// ---- how often each picture is drawn

// Share of the training levels (ln sigma normal, arXiv 2206.00364, table 1) around each level of the grid; those at
// which nothing is usable are left out, as the sampler leaves them out.
function density(mean, std) {
  const cdf = (s) => normal((Math.log(s) - mean) / std);
  const parts = grid.map((_, k) => (k === grid.length - 1 ? 1 : cdf(axis.edges[k + 1])) - (k === 0 ? 0 : cdf(axis.edges[k])));
  const covered = parts.map((p, k) => (usable[k] > 0 ? p : 0)), sum = covered.reduce((a, b) => a + b, 0);
  return covered.map((p) => (sum > 0 ? p / sum : 0));
}

function normal(x) { // Abramowitz and Stegun 7.1.26; error below 2e-7
  const z = Math.abs(x) / Math.SQRT2, t = 1 / (1 + 0.3275911 * z);
  const tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))) * Math.exp(-z * z);
  return x > 0 ? 1 - tail / 2 : tail / 2;
}

// Draws per usable picture, as by train/sampler.py with keep_composition: one of the others that are usable as often as
// pool_share says (without it, one of all that are usable as often as the others are usable), and else one of the clean set,
// or that somebody said to be usable everywhere.
function drawsOf(group, levels, length) {
  if (!group.ok) return null;
  const free = totals.clean + totals.said, others = totals.ok - free, kept = free > 0 && others > 0;
  const mine = group.clean + group.said;
  return length * levels.reduce((sum, p, k) => {
    if (!usable[k]) return sum;
    const here = usable[k] - free;
    const share = !kept ? 1 : !data.pool_share.length ? here / others
      : here > 0 ? Math.min(1, data.pool_share[k] * usable[k] / here) : 0;
    return sum + p * (share * group.usable[k] / usable[k] + (kept ? (1 - share) * mine / free : 0));
  }, 0) / group.ok;
}

function use() {
  const labels = data.labels.length > 0;
  $("by-label").hidden = !labels;
  const power = 10 ** Math.floor(Math.log10(Math.max(1, 100 * totals.ok)));
  $("length").value = [1, 2, 5, 10].map((m) => m * power).findLast((n) => n <= Math.max(1, 100 * totals.ok));
  const one = { ok: 1, clean: 1, said: 0, usable: grid.map(() => 1) }; // usable everywhere
  const redraw = () => {
    const [length, mean, std] = ["length", "p-mean", "p-std"].map((id) => Number($(id).value));
    if (!(length > 0) || !(std > 0) || !Number.isFinite(mean)) {
      $("use-says").textContent = "The length and P_std must be above 0.";
      return;
    }
    const levels = density(mean, std), average = totals.ok ? length / totals.ok : 0, always = drawsOf(one, levels, length);
    $("use-says").textContent = totals.ok === 0 ? "No picture can be used."
      : Math.max(...usable) === 0 ? "No picture can be used at any noise level."
      : `${totals.clean + totals.said ? "A clean picture" : "A picture that may be used everywhere"} is drawn ${short(always)} times, the average usable picture ${short(average)} times.`
        + (totals.clean ? ` On the clean set alone each would be drawn ${short(length / totals.clean)} times.` : "");
    const groups = (labels && $("by").value === "labels" ? data.labels : data.sources).map((g) => ({ ...g, draws: drawsOf(g, levels, length) }));
    const by = labels && $("by").value === "labels" ? "label" : "source";
    const title = (g) => (g.name === null ? (by === "label" ? "other, or none" : "other sources") : g.name);
    $("use-table").replaceChildren(table({
      caption: `Use by ${by}`,
      rows: groups,
      columns: [
        { head: by === "label" ? "Label" : "Source", value: title, cell: (g) => name(title(g)) },
        { head: "Usable", value: (g) => g.ok, cell: (g) => count(g.ok), number: true, wide: true },
        { head: "Share usable at each level", under: axis.labels(), plain: true, kind: "drawn", value: () => 0,
          cell: (g) => el("div", { class: "onaxis" }, [strip(g.usable.map((n) => (g.ok ? n / g.ok : 0)), axis, `Share of ${visible(title(g))} usable: ${percent(g.ok ? g.usable[0] / g.ok : 0)} at the lowest level`)]) },
        { head: "Draws per picture", value: (g) => g.draws, cell: (g) => short(g.draws), number: true },
        { head: "Of the average", value: (g) => g.draws, cell: (g) => (g.draws === null ? "–" : `${short(g.draws / average)} ×`), number: true, wide: true },
      ],
    }));
  };
  for (const id of ["length", "p-mean", "p-std", "by"]) $(id).addEventListener("input", redraw);
  redraw();
}

// ---- curves

function curves() {
  const found = data.curves;
  if (!found || !found.panels.length) {
    $("curves-intro").textContent = "This manifest has no curves: its thresholds were given, not measured.";
    return;
  }
  const both = found.clean && found.other;
  const balance = both && found.clean.map((c, k) => (c + found.other[k]) / 2);
  $("curves-intro").append("Probability that a noisy picture is clean, against the noise level: mean (line) and the middle 80 % of pictures (band). ",
    `Above the dashed line at ${short(data.tau)} a level is trusted; the mean crosses it elsewhere than half of its pictures do.`,
    both ? " The grey line is the clean set." : "",
    balance ? ` Half-and-half, both sets average ${short(Math.min(...balance))} to ${short(Math.max(...balance))} over the levels; of a calibrated classifier that is 0.5.` : "");
  for (const panel of found.panels) {
    const clean = panel.role === "clean", title = clean ? "clean set" : sourceName(panel);
    const place = el("div", { class: "chart" });
    $("panels").append(el("figure", { class: "panel" }, [
      el("figcaption", {}, [name(title), el("span", { class: "muted" }, ` ${count(panel.pictures)}`)]), place]));
    const curve = { ...panel, line: panel.mean, tau: data.tau, kind: clean ? "clean" : "", reference: clean ? null : found.clean, crossing: clean ? 0 : panel.crossing };
    const says = `p_clean of ${visible(title)}: ${short(panel.mean[0])} at the lowest level, ${short(panel.mean[panel.mean.length - 1])} at the highest` + (clean ? "" : `; its mean crosses the threshold at ${short(panel.crossing)}`);
    responsive(place, (width) => curveChart(width, 150, axis, curve, says));
  }
}

// ---- status, and how it was made

function status() {
  $("status-table").append(table({
    caption: "Pictures by status and reason",
    rows: data.statuses,
    columns: [
      { head: "Status", value: (s) => s.status, cell: (s) => el("span", { class: s.status === "ok" ? "ok" : "bad" }, s.status.replace("_", " ")) },
      { head: "Reason", value: (s) => s.reason, cell: (s) => (s.reason === null ? "" : el("bdi", {}, visible(s.reason))), kind: "long" },
      { head: "Pictures", value: (s) => s.pictures, cell: (s) => count(s.pictures), number: true },
      { head: "Such as", value: (s) => s.example, cell: (s) => name(s.example), wide: true, kind: "long" },
    ],
  }));
}

function made() {
  $("command").textContent = visible(metadata.command);
  const methods = Object.entries(totals.methods).map(([method, n]) => `${method} ${count(n)}`).join(", ");
  const facts = [
    ["Space", data.space],
    ["Pictures", data.roots.map((r) => [name(r.name), ": ", name(r.path), r.there ? "" : " (not there now)", el("br")])],
    ["Thresholds by", methods],
    ["Trusted when", `${metadata.classifier ? `p_clean > ${short(data.tau)} (epsilon ${metadata.epsilon}); ` : ""}used above ${short(data.beta)} × σ_min`],
    ["Noise levels", metadata.sigma_grid.length ? `${metadata.sigma_grid.length}, ${tick(grid[0])} to ${tick(grid[grid.length - 1])}, ${metadata.draws} draws at each on average` : "none measured"],
    ["Classifier", metadata.classifier ?? "none"],
    ["Calibration error", metadata.calibration.length ? metadata.calibration.map(([low, high, before, after]) => `σ ${tick(low)} to ${tick(high)}: ${before.toFixed(3)} → ${after.toFixed(3)}`).join(", ") : "not measured"],
    ["Contents", metadata.fingerprint],
    ["Written", `${data.written} by ambient-omni ${visible(metadata.package_version)}; this page by ${data.version}`],
  ];
  $("facts").append(...facts.flatMap(([term, value]) => [el("dt", {}, term), el("dd", {}, value)]));
  $("metadata").textContent = visible(JSON.stringify(metadata, null, 1)).replaceAll("\\n", "\n");
}

for (const part of [head, trust, coverage, use, curves, galleries, dialog, status, made]) part();
