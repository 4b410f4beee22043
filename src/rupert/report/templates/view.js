"use strict";

// Text of the study only ever becomes text: nothing here reads markup.

const $ = (id) => document.getElementById(id);
const spoken = { every: 10000, words: [], timer: 0 };
const METRICS = ["harm", "ability"];
let before = null;

function element(name, classes, ...children) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

// What did not change stays in place, with its focus, its selection and its scrolling.
function fill(parent, children) {
  const old = [...parent.children];
  children.forEach((child, number) => {
    if (!old[number]) parent.append(child);
    else if (!old[number].isEqualNode(child)) old[number].replaceWith(child);
  });
  old.slice(children.length).forEach((child) => child.remove());
}

function show(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function duration(seconds) {
  if (seconds === null) return "";
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

const number = (value) => String(Math.round(value * 100) / 100);
const sum = (values) => values.reduce((total, value) => total + value, 0);
const count = (state, name) => sum(state.kinds.map((kind) => kind[name]));
const all = (state) => state.stages.length;
const plural = (many, one) => `${many} ${one}${many === 1 ? "" : "s"}`;

function far(progress) {
  if (!progress) return "starting";
  const of = progress.total === null ? "" : ` of ${number(progress.total)}`;
  return [`${progress.title} ${number(progress.done ?? 0)}${of}`, progress.note].filter(Boolean).join(", ");
}

function share(progress) {
  return progress && progress.total > 0 ? Math.min(1, Math.max(0, (progress.done ?? 0) / progress.total)) : null;
}

const percent = (value) => `${Math.floor(100 * value)} %`;

function part(classes, value) {
  const made = element("span", classes);
  made.style.width = `${100 * Math.min(1, Math.max(0, value))}%`;
  return made;
}

// The sections, from top to bottom.

function drawHeader(state) {
  show("study", state.study ?? "A study");
  show("model", state.model ? `${state.model}, ${state.seeds.length === 1 ? "seed" : "seeds"} ${state.seeds.join(", ")}` : "");
  show("folder", `Folder: ${state.folder}`);
  $("trouble").hidden = !state.trouble;
  show("trouble", state.trouble ? `The folder cannot be read now, and is tried again: ${state.trouble}` : "");
  const done = state.stages ? `${count(state, "done")}/${all(state)} · ` : "";
  document.title = `${done}${state.study ?? "rupert view"}`;
}

const EXPLAINED = {
  reading: "What stands in it is read for the first time; large models take a while.",
  waiting: "There is no study in the folder yet. This page shows it as soon as rupert run begins.",
  paused: "No stage is being worked on. To go on, repeat the rupert run command of this study.",
};

function drawProgress(state) {
  $("far").hidden = !state.stages;
  $("report").hidden = !state.report;
  if (state.report) show("written", `written ${new Date(1000 * state.report).toLocaleString()}`);
  const took = state.seconds ? `The stages that are done took ${duration(state.seconds)} altogether.` : "";
  const running = state.stages ? count(state, "running") : 0;
  const works = running ? `${plural(running, "stage")} ${running === 1 ? "is" : "are"} being worked on.` : "";
  const others = state.others
    ? `The folder also holds ${plural(state.others, "finished stage")} of another study, of other settings, or of another version of rupert.`
    : "";
  show("explained", [EXPLAINED[state.phase], works, took, others].filter(Boolean).join(" "));
  if (!state.stages) {
    show("headline", state.phase === "waiting" ? "Waiting for the study to begin." : "Looking at the folder.");
    return;
  }
  const done = count(state, "done");
  show("headline", state.phase === "ended" ? `All ${plural(done, "stage")} are done.` : `${done} of ${plural(all(state), "stage")} are done.`);
  const parts = ["done", "running", "failed"].map((name) => part(name, count(state, name) / all(state)));
  if (!$("all").firstChild) $("all").append(...parts);
  parts.forEach((fresh, place) => { $("all").children[place].style.width = fresh.style.width; });
  $("all").setAttribute("aria-valuemax", all(state));
  $("all").setAttribute("aria-valuenow", done);
  drawKinds(state);
}

function drawKinds(state) {
  const shown = state.states.filter((name) => name === "done" || count(state, name));
  const heading = (text) => {
    const made = element("th", "number", text);
    made.scope = "col";
    return made;
  };
  fill($("kinds-head"), [element("tr", "", element("td"), heading("stages"), ...shown.map(heading))]);
  const row = (name, counts, classes) => {
    const first = element("th", "", name);
    first.scope = "row";
    const many = [sum(counts.all), ...counts.shown];
    return element("tr", classes, first, ...many.map((one) => element("td", one ? "number" : "number none", one ? String(one) : "–")));
  };
  const rows = state.kinds.map((kind) =>
    row(kind.kind, { all: state.states.map((name) => kind[name]), shown: shown.map((name) => kind[name]) }, ""));
  const total = { all: state.states.map((name) => count(state, name)), shown: shown.map((name) => count(state, name)) };
  fill($("kinds"), [...rows, row("all", total, "total")]);
}

function drawWorks(state) {
  const running = state.stages.filter((stage) => stage.state === "running");
  const failed = state.stages.filter((stage) => stage.state === "failed");
  $("now-section").hidden = !running.length;
  $("failures-section").hidden = !failed.length;
  fill($("works"), running.map(work));
  fill($("failed"), failed.map((stage) => element("li", "", named(stage), element("div", "said", stage.message || "no message"))));
}

function named(stage) {
  return element("div", "name", element("span", "", stage.label), element("span", "kind", stage.kind));
}

function work(stage) {
  const value = share(stage.progress);
  const meter = element("div", value === null ? "meter unknown" : "meter", ...(value === null ? [] : [part("running", value)]));
  meter.setAttribute("role", "progressbar");
  meter.setAttribute("aria-label", `${stage.kind} ${stage.label}`);
  meter.setAttribute("aria-valuemin", "0");
  meter.setAttribute("aria-valuemax", "100");
  if (value !== null) meter.setAttribute("aria-valuenow", String(Math.floor(100 * value)));
  return element("li", "", named(stage), meter, element("div", "said", far(stage.progress)));
}

function drawGrid(state) {
  const heads = state.attacks.map((attack) => {
    const made = element("th", "", attack.title);
    made.scope = "col";
    return made;
  });
  fill($("attacks"), [element("tr", "", element("td"), ...heads)]);
  const counts = Object.fromEntries(METRICS.map((metric) => [metric, common(metric, state.cells)]));
  for (const metric of METRICS) show(`${metric}-n`, counts[metric] === null ? "" : `, n = ${counts[metric]}`);
  show("intervals", state.seeds.length > 1
    ? "Means over the seeds that are done; each range spans their 95 % intervals. Times are of these seeds together."
    : "Ranges are 95 % intervals.");
  fill($("cells"), state.defenses.map((defense) => {
    const first = element("th", "", defense.title);
    first.scope = "row";
    const own = new Map(state.cells.filter((one) => one.defense === defense.name).map((one) => [one.attack, one]));
    return element("tr", "", first, ...state.attacks.map((attack) => cell(own.get(attack.name), state, counts)));
  }));
}

function cell(found, state, counts) {
  if (!found) return element("td", "waiting", element("span", "more", "not in the study"));
  const stage = found.stage === null ? null : state.stages[found.stage];
  const lines = METRICS.flatMap((metric) => measured(metric, found[metric], counts[metric]));
  const seeds = found.done && found.done < found.seeds ? `${found.done} of ${found.seeds} seeds` : "";
  const more = [seeds, duration(found.seconds)].filter(Boolean).flatMap((text) => [element("span", "", text), " "]);
  const says = !lines.length || !["done", "waiting"].includes(found.state);
  const going = says ? element("span", "state", goingOn(found, stage)) : null;
  const made = element("td", found.state, ...lines, going, more.length ? element("span", "more", ...more) : null);
  if (stage) made.title = `${stage.kind} ${stage.label}: ${stage.message || far(stage.progress)}`;
  return made;
}

function goingOn(found, stage) {
  if (found.state === "done") return "done";
  const value = stage ? share(stage.progress) : null;
  const said = { running: stage && stage.kind, failed: "failed", interrupted: "left off", waiting: "waiting" }[found.state];
  return value === null || found.state !== "running" ? said : `${said} ${percent(value)}`;
}

// The number that every cell of a metric was measured on; null where they differ.
function common(metric, cells) {
  const counts = new Set(cells.filter((one) => one[metric]).map((one) => one[metric].n));
  return counts.size === 1 ? [...counts][0] : null;
}

function measured(metric, estimate, counted) {
  if (!estimate) return [];
  const value = element("span", "", element("span", "unseen", `${metric} `), estimate.text);
  const own = estimate.n !== null && counted === null ? `n = ${estimate.n}` : "";
  const line = element("div", "line", value, element("span", "interval", estimate.interval, own && element("br"), own));
  const bar = element("div", `bar ${metric}`, part("", estimate.value));
  bar.setAttribute("aria-hidden", "true");
  return [line, bar];
}

function drawStages(state) {
  const present = state.states.filter((name) => count(state, name));
  const chosen = $("filter").value || "all";
  fill($("filter"), ["all", ...present].map((name) => {
    const option = element("option", "", name === "all" ? "all states" : name);
    option.value = name;
    return option;
  }));
  $("filter").value = chosen === "all" || present.includes(chosen) ? chosen : "all";
  const shown = state.stages.filter((stage) => $("filter").value === "all" || stage.state === $("filter").value);
  show("filtered", `${shown.length} of ${plural(all(state), "stage")}`);
  fill($("stages"), shown.map((stage) => {
    const first = element("th", "", stage.label);
    first.scope = "row";
    const said = ["running", "interrupted"].includes(stage.state) ? far(stage.progress) : stage.message;
    const told = element("td", "state", stage.state, said ? `: ${said}` : "");
    return element("tr", stage.state.replace(" ", "-"), first, element("td", "", stage.kind), told, element("td", "number", duration(stage.seconds)));
  }));
}

// What a screen reader says: what was measured, failed or ended, gathered so that it does not talk all the time.

function announce(words) {
  spoken.words.push(...words);
  if (!spoken.words.length || spoken.timer) return;
  const say = () => {
    spoken.timer = 0;
    if (!spoken.words.length) return;
    const few = spoken.words.length > 4 ? [`${spoken.words.length} changes, the last: `, spoken.words.at(-1)] : spoken.words;
    $("news").textContent = few.join(" ");
    spoken.words = [];
    spoken.timer = setTimeout(say, spoken.every);
  };
  say();
}

function changes(state) {
  if (!before || !state.stages) return [];
  const words = [];
  if (!before.stages || before.study !== state.study) return [`The study ${state.study} is there: ${plural(all(state), "stage")}.`];
  const key = (one) => `${one.defense}\n${one.attack}`;
  const old = new Map(before.cells.map((one) => [key(one), one]));
  for (const now of state.cells) {
    const was = old.get(key(now));
    if (!was || (was.state === now.state && was.done === now.done)) continue;
    const name = `${title(state.defenses, now.defense)}, ${title(state.attacks, now.attack)}`;
    if (now.done > was.done && now.harm) words.push(`${name}: harm ${now.harm.text}, ability ${now.ability ? now.ability.text : "not measured"}.`);
    else if (now.state === "failed" && was.state !== "failed") words.push(`${name}: failed.`);
  }
  if (state.phase === "ended" && before.phase !== "ended") words.push("All stages are done.");
  return words;
}

const title = (entries, name) => entries.find((entry) => entry.name === name)?.title ?? name;

function draw(state) {
  drawHeader(state);
  drawProgress(state);
  for (const id of ["grid-section", "stages-section"]) $(id).hidden = !state.stages;
  if (!state.stages) {
    for (const id of ["now-section", "failures-section"]) $(id).hidden = true;
  } else {
    drawWorks(state);
    drawGrid(state);
    drawStages(state);
  }
  announce(changes(state));
  before = state;
}

function connected(name, text) {
  $("connection").dataset.state = name;
  show("connection", text);
}

const events = new EventSource("/events");
events.addEventListener("open", () => connected("open", "connected"));
events.addEventListener("message", (event) => draw(JSON.parse(event.data)));
events.addEventListener("error", () => {
  const known = $("connection").dataset.state === "lost"; // each attempt to come back fails anew
  if (!known) connected("lost", `not connected since ${new Date().toLocaleTimeString()}; is rupert view still running?`);
  // After a refusal the browser gives up by itself.
  if (events.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 5000);
});
$("filter").addEventListener("change", () => before && before.stages && drawStages(before));
