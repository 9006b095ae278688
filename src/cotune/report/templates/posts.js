"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const grid = document.getElementById("posts");
const detail = document.getElementById("detail");
const PAGE = 60;
const continuous = data.kind === "continuous";
let shown = [];
let page = 0;
let at = 0;

const names = value => value === null ? [] : Array.isArray(value) ? value : [value];
const said = value => value === null ? "none" : continuous ? value.toPrecision(4) : names(value).join(" | ") || "no label";
const same = (a, b) => names(a).length === names(b).length && names(a).every(name => names(b).includes(name));
const percent = value => value > 0.995 && value < 1 ? "over 99%" : `${Math.round(100 * value)}%`;
for (const post of data.posts) {
  post.confidence = continuous ? null : post.outputs[0][1];
  post.wrong = !continuous && post.true !== null && !same(post.true, post.label);
  post.gap = continuous && post.true !== null ? post.label - post.true : null;
  post.words = `${post.id} ${post.texts.join(" ")}`.toLowerCase();
}

function element(tag, words, kind) {
  const made = document.createElement(tag);
  if (words !== undefined) made.textContent = words;
  if (kind) made.className = kind;
  return made;
}

function picture(post) {
  if (!post.image) { const none = element("span", "", "thumb none"); none.setAttribute("aria-hidden", "true"); return none; }
  const made = element("img", undefined, "thumb");
  made.src = post.image;
  made.alt = "";
  return made;
}

function verdict(post) {
  if (continuous) {
    const gap = post.gap === null ? "" : `, ${post.gap < 0 ? "−" : "+"}${Math.abs(post.gap).toPrecision(3)}`;
    return [`predicted ${said(post.label)}${gap}`, post.true === null ? "no label" : `labelled ${said(post.true)}`];
  }
  const of = post.true === null ? "no label" : post.wrong ? `labelled ${said(post.true)}` : "as labelled";
  return [`${said(post.label)} ${percent(post.confidence)}`, of];
}

function shares(post) {
  const known = data.shares ? post.shares : [];
  return known.map((share, i) => share === null ? "" : `${data.fields[i]} ${percent(share)}`).filter(Boolean).join(", ");
}

function card(post, i) {
  const item = document.createElement("li");
  const button = element("button", undefined, post.wrong ? "wrong" : "");
  button.type = "button";
  button.dataset.at = i;
  button.tabIndex = i === at ? 0 : -1;
  const what = element("span", undefined, "what");
  const [predicted, labelled] = verdict(post);
  what.append(element("b", predicted), element("span", labelled, post.wrong ? "bad" : ""), element("span", post.id, "fine"), element("span", shares(post), "fine"));
  const text = element("span", post.texts.join("  "), "text");
  text.dir = "auto";
  button.append(picture(post), what, text);
  item.append(button);
  return item;
}

function matches(post, want) {
  if (want.true && !names(post.true).includes(want.true)) return false;
  if (want.label && !names(post.label).includes(want.label)) return false;
  if (want.outcome === "errors" && !post.wrong) return false;
  if (want.outcome === "right" && (post.wrong || post.true === null)) return false;
  if (!continuous && (post.confidence * 100 < want.least || post.confidence * 100 > want.most)) return false;
  if (want.field !== "" && !post.shares.every(share => share === null || share <= post.shares[want.field])) return false;
  return !want.words || post.words.includes(want.words.toLowerCase());
}

const orders = {
  confidence: (a, b) => b.confidence - a.confidence,
  doubt: (a, b) => a.confidence - b.confidence,
  gap: (a, b) => Math.abs(b.gap ?? 0) - Math.abs(a.gap ?? 0),
  value: (a, b) => b.label - a.label,
  row: (a, b) => a.row - b.row,
};

function wanted() {
  const of = new FormData(form);
  const one = (name, other) => of.get(name) ?? other;
  return { true: one("true", ""), label: one("label", ""), outcome: one("outcome", ""), least: Number(one("least", 0)),
    most: Number(one("most", 100)), field: one("field", ""), sort: one("sort", "row"), words: one("words", "").trim() };
}

function filter() {
  const want = wanted();
  for (const range of form.querySelectorAll("input[type=range]")) range.nextElementSibling.value = `${range.value}%`;
  shown = data.posts.filter(post => matches(post, want)).sort(orders[want.sort]);
  page = at = 0;
  const errors = shown.filter(post => post.wrong).length;
  const all = data.posts.length.toLocaleString("en");
  const tail = continuous ? "" : `, ${errors.toLocaleString("en")} ${errors === 1 ? "error" : "errors"}`;
  document.getElementById("found").textContent = `${shown.length.toLocaleString("en")} of ${all} ${data.posts.length === 1 ? "post" : "posts"}${tail}`;
  draw();
}

function draw() {
  const pages = Math.max(1, Math.ceil(shown.length / PAGE));
  grid.replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map((post, i) => card(post, page * PAGE + i)));
  if (!shown.length) grid.append(element("li", "No post fits these filters.", "nothing"));
  document.getElementById("place").textContent = `${page + 1} of ${pages}`;
  document.getElementById("previous").disabled = page === 0;
  document.getElementById("next").disabled = page + 1 >= pages;
}

function turn(by) {
  const to = page + by;
  if (to < 0 || to * PAGE >= shown.length) return;
  page = to;
  at = page * PAGE;
  draw();
  scrollTo({ top: 0 });
  focus();
}

function focus() {
  for (const button of grid.querySelectorAll("button")) button.tabIndex = Number(button.dataset.at) === at ? 0 : -1;
  grid.querySelector(`[data-at="${at}"]`)?.focus();
}

function move(by) {
  const to = at + by;
  if (to < 0 || to >= shown.length) return;
  at = to;
  if (Math.floor(at / PAGE) !== page) { page = Math.floor(at / PAGE); draw(); }
  focus();
}

function columns() {
  return getComputedStyle(grid).gridTemplateColumns.split(" ").length;
}

function open() {
  const post = shown[at];
  if (!post) return;
  const body = document.getElementById("detail-body");
  const [predicted, labelled] = verdict(post);
  document.getElementById("detail-title").textContent = predicted;
  const table = document.createElement("table");
  table.className = "bars";
  if (!continuous) for (const [i, value] of post.outputs) {
    const row = table.insertRow();
    const name = element("th", data.outputs[i]);
    name.scope = "row";
    const cell = element("td", undefined, "barcell");
    const bar = element("span", undefined, "bar");
    bar.style.width = `${100 * value}%`;
    cell.append(bar);
    row.append(name, cell, element("td", percent(value), "num"));
  }
  const texts = post.texts.map(words => { const made = element("p", words); made.dir = "auto"; return made; });
  const line = [`${labelled}`, `id ${post.id}`, `row ${post.row}`, shares(post) && `share of ${shares(post)}`].filter(Boolean).join(" · ");
  body.replaceChildren(element("p", line, "fine"), picture(post), ...texts, table);
  document.getElementById("back").disabled = at === 0;
  document.getElementById("forth").disabled = at + 1 === shown.length;
  if (!detail.open) detail.showModal();
}

function step(by) {
  if (at + by < 0 || at + by >= shown.length) return;
  at += by;
  if (Math.floor(at / PAGE) !== page) { page = Math.floor(at / PAGE); draw(); }
  open();
}

/* An address such as posts.html#true=sad&label=happy opens with these filters. */
function read() {
  form.reset();
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) if (form.elements[name]) form.elements[name].value = value;
  filter();
}

form.addEventListener("input", filter);
form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("reset", () => setTimeout(filter));
grid.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (button) { at = Number(button.dataset.at); open(); }
});
document.getElementById("previous").addEventListener("click", () => turn(-1));
document.getElementById("next").addEventListener("click", () => turn(1));
document.getElementById("back").addEventListener("click", () => step(-1));
document.getElementById("forth").addEventListener("click", () => step(1));
document.getElementById("close").addEventListener("click", () => detail.close());
detail.addEventListener("close", focus);
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
  const keys = detail.open
    ? { ArrowLeft: () => step(-1), ArrowRight: () => step(1) }
    : { ArrowLeft: () => move(-1), ArrowRight: () => move(1), ArrowUp: () => move(-columns()), ArrowDown: () => move(columns()), n: () => turn(1), p: () => turn(-1),
        e: () => { if (form.elements.outcome) { form.elements.outcome.value = form.elements.outcome.value === "errors" ? "" : "errors"; filter(); } },
        "/": () => form.elements.words.focus() };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});
addEventListener("hashchange", read);
read();
