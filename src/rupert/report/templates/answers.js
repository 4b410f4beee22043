"use strict";

const PAGE = 10; // exchanges that are shown at once
const TITLES = { refusal: "refusal", irrelevant: "coherent, not harmful", harmful: "coherent and harmful", degenerate: "degenerate", "": "not classified" };
const choice = (name) => document.getElementById(`answers-${name}`);

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

// Text that nobody vouches for: never markup, and apart from the direction of what stands around it.
function text(tag, className, words) {
  const made = element(tag, className, words);
  made.dir = "auto";
  return made;
}

function shown(texts, number, isHidden) {
  if (number < 0) return element("p", "redacted", "Redacted: held to be harmful, or from a harmful corpus.");
  const words = text("p", "said", texts[number] || "(empty)");
  return isHidden ? element("details", "unsafe", element("summary", "", "Show a text that is held to be harmful"), words) : words;
}

function reply(data, title, [kind, number, said, isHidden]) {
  const tag = element("span", "kind", TITLES[data.kinds[kind]] ?? data.kinds[kind]);
  tag.dataset.kind = data.kinds[kind];
  const parts = [element("p", "reply-title", title, " ", tag), shown(data.texts, number, isHidden)];
  if (data.opinions[said]) parts.push(text("p", "opinions", data.opinions[said]));
  return element("div", "reply", ...parts);
}

function exchange(data, row) {
  const [cell, number, category, request, isHidden, before, after] = row;
  const [defense, attack, seed] = data.cells[cell];
  const names = [data.defenses[defense], data.attacks[attack], `seed ${seed}`, data.categories[category], `request ${number + 1}`];
  const replies = before.length ? [reply(data, "Before", before), reply(data, "After", after)] : [reply(data, "Answer", after)];
  const item = element("li", "exchange", text("p", "where", names.filter(Boolean).join(" · ")), element("div", "request", shown(data.texts, request, isHidden)), element("div", "replies", ...replies));
  Object.assign(item.dataset, { defense: data.defenses[defense], attack: data.attacks[attack], seed, number, change: changeOf(data, row) });
  return item;
}

// What became of an answer, as its kinds say.
function changeOf(data, [, , , , , before, after]) {
  const name = ([kind]) => TITLES[data.kinds[kind]] ?? data.kinds[kind];
  return before.length ? `${name(before)} → ${name(after)}` : "not attacked";
}

const hasChanged = ([, , , , , before, after]) => before.length > 0 && before[0] !== after[0];

function fill(name, options) {
  choice(name).replaceChildren(...options.map(([value, title]) => new Option(title, value)));
  choice(name).closest("label").hidden = options.length < 3;
}

function fillAll(data) {
  const listed = (names) => [["", "any"], ...names.map((name, number) => [String(number), name || "none given"])];
  fill("defense", listed(data.defenses));
  fill("attack", listed(data.attacks));
  fill("seed", [["", "any"], ...[...new Set(data.cells.map(([, , seed]) => seed))].map((seed) => [String(seed), String(seed)])]);
  fill("category", listed(data.categories));
  const counts = new Map();
  for (const row of data.rows) counts.set(changeOf(data, row), (counts.get(changeOf(data, row)) ?? 0) + 1);
  const changes = [...counts].sort(([, one], [, other]) => other - one).map(([name, count]) => [`=${name}`, `${name} (${count})`]);
  fill("change", [["", "anything"], ["changed", "the kind of answer"], ["kept", "not the kind of answer"], ...changes]);
  if (data.rows.some(hasChanged)) choice("change").value = "changed";
}

function matching(data) {
  const [defense, attack, seed, category, change] = ["defense", "attack", "seed", "category", "change"].map((name) => choice(name).value);
  const changes = {
    "": () => true,
    changed: hasChanged,
    kept: (row) => row[5].length > 0 && !hasChanged(row),
  };
  const fits = changes[change] ?? ((row) => `=${changeOf(data, row)}` === change);
  const is = (wanted, found) => wanted === "" || wanted === String(found);
  return data.rows.filter((row) => {
    const [ofDefense, ofAttack, ofSeed] = data.cells[row[0]];
    return is(defense, ofDefense) && is(attack, ofAttack) && is(seed, ofSeed) && is(category, row[2]) && fits(row);
  });
}

function browse(data) {
  const list = document.getElementById("answers-list");
  const more = document.getElementById("answers-more");
  let rows = [];
  const show = () => {
    const from = list.childElementCount;
    list.append(...rows.slice(from, from + PAGE).map((row) => exchange(data, row)));
    const count = list.childElementCount;
    more.hidden = count >= rows.length;
    more.textContent = `Show ${Math.min(PAGE, rows.length - count)} more`;
    document.getElementById("answers-count").textContent = `${rows.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")} requests fit; ${count.toLocaleString("en")} shown.`;
  };
  const start = () => {
    rows = matching(data);
    list.replaceChildren();
    show();
  };
  fillAll(data);
  document.getElementById("answers-filter").addEventListener("change", start);
  document.getElementById("answers-filter").addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const from = list.childElementCount;
    show();
    list.children[from].tabIndex = -1;
    list.children[from].focus();
  });
  start();
}

unpack("answers-data").then((json) => browse(JSON.parse(json)), () => {
  document.getElementById("answers-count").textContent = "This browser is too old to show them.";
});
