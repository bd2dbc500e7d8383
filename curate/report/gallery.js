// The galleries, and one picture in full. Before page.js, which defines what both use and starts everything.

const FIRST_CARDS = 24;
const shownPictures = []; // what the dialog walks through

function galleries() {
  const option = (value, text) => el("option", { value }, visible(text));
  $("gallery").append(...data.galleries.map((g, i) => option(i, g.title)));
  if (!data.galleries.length) {
    $("gallery-note").textContent = "No picture can be shown.";
    return;
  }
  let everything = false;
  const sorts = [["", "as listed"], ["sigma_min", "σ_min"], ...data.scores.map((s) => [s, s]), ["uri", "name"]];
  $("sort").append(...sorts.map(([value, text]) => option(value, text)), ...sorts.slice(1).map(([value, text]) => option(`-${value}`, `${text}, falling`)));
  $("gallery").addEventListener("change", () => { everything = false; sources(); fill(); });
  $("more").addEventListener("click", () => { everything = true; fill(); });
  for (const id of ["source", "sort"]) $(id).addEventListener("change", fill);
  $("find").addEventListener("input", fill);
  sources();
  fill();

  function sources() {
    const here = new Set(data.galleries[$("gallery").value].pictures.map((i) => pictures[i].row.source));
    const before = $("source").selectedOptions[0]?.textContent;
    $("source").replaceChildren(option("", "all"), ...[...here].sort().map((s, i) => el("option", { value: `s${i}`, "data-source": s }, visible(s))));
    const same = [...$("source").options].find((o) => o.textContent === before);
    if (same) same.selected = true;
  }

  function fill() {
    const gallery = data.galleries[$("gallery").value], all = gallery.pictures.map((i) => pictures[i]);
    const source = $("source").selectedOptions[0].dataset.source, sort = $("sort").value, words = $("find").value.toLowerCase();
    const found = all.filter(({ row }) => (source === undefined || row.source === source)
      && [row.uri, row.caption, row.reason, row.id].some((text) => text && (text + visible(text)).toLowerCase().includes(words)));
    if (sort) {
      const column = sort.replace(/^-/, "");
      found.sort((a, b) => compare(a.row[column], b.row[column], sort.startsWith("-")));
    }
    shownPictures.splice(0, Infinity, ...found);
    const first = everything ? found.length : FIRST_CARDS;
    $("gallery-note").textContent = visible(gallery.note) + (gallery.key === "trust" && data.crop ? ` Shown is the central ${data.crop} pixels square, 1:1.` : "");
    $("gallery-count").textContent = found.length === all.length ? `${count(all.length)} pictures` : `${count(found.length)} of ${count(all.length)} pictures`;
    $("cards").classList.toggle("triples", gallery.key === "trust");
    $("cards").replaceChildren(...found.slice(0, first).map((picture, i) => el("li", {}, [card(picture, i, gallery)])));
    $("more").hidden = found.length <= first;
    $("more").textContent = `Show all ${found.length}`;
  }
}

function image(source, alt, problem) {
  if (!source) return el("span", { class: "missing", role: "img", "aria-label": alt }, problem || "not there");
  return el("img", { src: source, alt });
}

function card(picture, i, gallery) {
  const { row } = picture, { score } = gallery, title = visible(row.uri);
  const views = [image(picture.image, title, "not there")];
  if (gallery.key === "trust" && picture.image) {
    views.push(image(picture.noisy, `with noise at ${short(row.sigma_min)}`), image(picture.clean, "a clean picture with the same noise", "no clean picture"));
  }
  return el("button", { type: "button", class: "card", onclick: () => detail(i) }, [
    el("span", { class: "views" }, views),
    el("span", { class: "text" }, [
      el("span", { class: "value" }, score ? [`${visible(score)} ${short(row[score])}`] : row.role === "clean" ? ["clean"] : [sigmaMin(), ` ${short(row.sigma_min)}`]),
      name(row.source), el("span", { class: "muted file" }, [name(row.uri)]),
    ]),
  ]);
}

// ---- one picture

let current = 0;

function detail(i) {
  current = i;
  const picture = shownPictures[i], { row } = picture;
  $("detail-name").replaceChildren(name(row.uri));
  $("previous").disabled = i === 0;
  $("next").disabled = i === shownPictures.length - 1;
  const figure = (source, caption, problem) => el("figure", {}, [image(source, caption, problem), el("figcaption", {}, caption)]);
  const views = [figure(picture.image, data.crop ? `as trained on, central ${data.crop} pixels` : "as trained on", picture.problem && visible(picture.problem))];
  if (picture.noisy) views.push(figure(picture.noisy, [`noise at σ`, el("sub", {}, "min"), ` = ${short(row.sigma_min)}`]));
  if (picture.clean) views.push(figure(picture.clean, ["clean, same noise: ", name(picture.clean_uri)]));
  const place = el("div", { class: "chart" });
  $("detail-body").replaceChildren(el("p", { class: "says" }, useOf(row)), el("div", { class: "views" }, views), place,
    picture.noisy ? el("p", { class: "muted small" }, "Noisy pictures are shown at the contrast at which the network sees them.") : "",
    el("dl", { class: "facts" }, Object.entries(row).filter(([, value]) => value !== null).map(([key, value]) => [el("dt", {}, visible(key)), el("dd", {}, [fact(value)])])));
  if (!$("detail").open) $("detail").showModal();
  if (picture.curve) {
    const curve = { points: picture.curve, line: picture.fit, tau: data.tau, crossing: row.sigma_min, interval: [row.sigma_min_lo, Math.min(row.sigma_min_hi, grid[grid.length - 1])] };
    responsive(place, (width) => [curveChart(width, 200, axis, curve, `p_clean rises to the threshold at ${short(row.sigma_min)}`),
      el("p", { class: "muted small" }, "Dots: p_clean at each noise level. Line: what fits them best and rises until the threshold is decided. Shaded: the 90 % interval.")]);
  }
  $("detail").scrollTop = 0;
}

function useOf({ status, reason, sigma_min: low, sigma_max: high }) {
  if (status !== "ok") return `Not used: ${visible(reason ?? status)}`;
  const above = data.beta * low;
  if (above === 0 || high > above) return "Used at every noise level.";
  const below = high > 0 ? `below noise level ${short(high)}` : null;
  return above === Infinity ? (below ? `Used ${below} only.` : "Not used at any noise level: noise cannot fix it.")
    : `Used above noise level ${short(above)}${below ? ` and ${below}` : ""}.`;
}

function fact(value) {
  return typeof value === "number" ? (Number.isInteger(value) ? count(value) : short(value)) : el("bdi", {}, visible(typeof value === "object" ? JSON.stringify(value) : value));
}

function dialog() {
  const step = (by) => shownPictures[current + by] && detail(current + by);
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => $("detail").close());
  $("detail").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      step(event.key === "ArrowLeft" ? -1 : 1);
      event.preventDefault();
    }
  });
  $("detail").addEventListener("click", (event) => event.target === $("detail") && $("detail").close());
  $("detail").addEventListener("close", () => $("cards").querySelectorAll("button")[current]?.focus());
}
