"use strict";

const { panels, templates } = JSON.parse(document.getElementById("drawings").textContent);
const panelOf = new Map(panels.map((panel) => [panel.id, panel]));
const dark = matchMedia("(prefers-color-scheme: dark)");
const config = { responsive: true, displayModeBar: false };
const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;" };
const drawn = new Set();
const left = new Set(); // defenses that are not shown
const gone = new Set(); // the same, as figures write them

// What a script element of letters holds, once unpacked.
async function unpack(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

function draw(id, theme, size = {}) {
  const { data, layout } = panelOf.get(id);
  const traces = data.map((trace) => (gone.has(trace.meta?.defense) ? { ...trace, visible: false } : trace));
  const screen = { ...layout, ...layout.meta?.screen, ...size, template: templates[theme] };
  Plotly.react(id, traces, screen, config);
  drawn.add(id);
}

const theme = () => (dark.matches ? "dark" : "light");
const redraw = () => drawn.forEach((id) => draw(id, theme()));

// Drawn when it comes near the window: a page may have a hundred.
const near = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting && !drawn.has(target.id)) draw(target.id, theme());
    }
  },
  { rootMargin: "600px" },
);

// Paper is white and narrower than a window; plotly does not measure it by itself.
function drawForPaper() {
  for (const { id } of panels) {
    const place = document.getElementById(id);
    if (place.offsetParent) draw(id, "light", { width: place.closest(".wide") ? 660 : 320 });
  }
}

function showDefenses() {
  for (const { value, checked } of document.querySelectorAll("#defense-filter input")) {
    const written = value.replace(/[&<>"']/g, (letter) => ENTITIES[letter]);
    for (const [names, name] of [[left, value], [gone, written]]) names[checked ? "delete" : "add"](name);
  }
  for (const one of document.querySelectorAll("main [data-defense]")) one.classList.toggle("left-out", left.has(one.dataset.defense));
  redraw();
}

function showPanelsOf({ dataset, value }) {
  const figure = document.querySelector(`figure[data-figure="${dataset.figure}"]`);
  for (const panel of figure.querySelectorAll(".panel")) panel.toggleAttribute("data-other", value !== "" && panel.dataset.defense !== value);
}

// Plotly's texts are markup, in which everything that is a name is escaped.
function plain(text) {
  return new DOMParser().parseFromString(String(text ?? "").replaceAll("<br>", " "), "text/html").body.textContent;
}

const ended = (y, off, sign) => (off === undefined ? "" : y + sign * off);

function* pointsOf(trace) {
  if (trace.hoverinfo === "skip") return;
  if (trace.type === "heatmap") {
    for (const [row, name] of trace.y.entries()) {
      for (const [column, value] of trace.z[row].entries()) yield [name, value, trace.customdata[row][column]];
    }
    return;
  }
  for (const [at, y] of trace.y.entries()) {
    const bars = trace.error_y ?? {};
    const known = trace.customdata?.[at] ?? [trace.x[at], ended(y, bars.arrayminus?.[at], -1), ended(y, bars.array?.[at], 1), ""];
    yield [trace.name, y, known];
  }
}

// A text that a spreadsheet would take for a formula is made a text.
function field(value) {
  const text = typeof value === "number" ? String(value) : plain(value).replace(/^[=+\-@\t\r]/, "'$&");
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function csvOf({ data, layout }) {
  const rows = [["panel", "series", "at", "value", "low", "high", "n"]];
  for (const trace of data) {
    for (const [name, value, [at, low, high, n]] of pointsOf(trace)) rows.push([layout.title.text, name, at, value, low, high, n]);
  }
  return rows.map((row) => row.map(field).join(",") + "\n").join("");
}

function save(text, name, kind) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function download({ panel, format }) {
  const { data, layout } = panelOf.get(panel);
  if (format === "csv") return save(csvOf({ data, layout }), `${panel}.csv`, "text/csv");
  const look = { ...layout, template: templates.light, paper_bgcolor: "#fff" };
  const width = document.getElementById(panel).closest(".wide") ? 1000 : 720;
  return Plotly.downloadImage({ data, layout: look }, { format, width, height: layout.height, scale: format === "png" ? 2 : 1, filename: panel });
}

// A link into what is folded unfolds it.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  if (target?.matches("details")) target.scrollIntoView();
}

document.addEventListener("click", ({ target }) => {
  if (target.matches("button[data-format]")) download(target.dataset);
});
document.getElementById("defense-filter")?.addEventListener("change", showDefenses);
document.getElementById("defense-filter-all")?.addEventListener("click", () => {
  for (const box of document.querySelectorAll("#defense-filter input")) box.checked = true;
  showDefenses();
});
for (const choice of document.querySelectorAll("select[data-figure]")) choice.addEventListener("change", () => showPanelsOf(choice));
addEventListener("hashchange", reveal);

unpack("plotly").then((source) => {
  const script = document.createElement("script");
  script.textContent = source;
  document.head.append(script);
  for (const { id } of panels) near.observe(document.getElementById(id));
  dark.addEventListener("change", redraw);
  addEventListener("beforeprint", drawForPaper);
  addEventListener("afterprint", redraw);
  reveal();
}, () => {
  document.getElementById("undrawn").hidden = false;
});
