"use strict";
// One post at a time. What is decided stays in the browser until it is saved as a file; posts are known by their rows.
(() => {
  const found = document.getElementById("data");
  if (!found) return;
  const {key, task, separator, labels, posts} = JSON.parse(found.textContent);
  const at = id => document.getElementById(id);
  const several = task === "multi-label", amount = task === "regression";
  const past = [];
  let place = 0, chosen = new Set(), decisions = {}, lasting = true, unsaved = false;

  const make = (name, text, style) => {
    const part = document.createElement(name);
    if (text !== undefined) part.textContent = text;
    if (style) part.className = style;
    return part;
  };
  const percent = p => p > 0 && p < 0.01 ? "<1%" : p > 0.99 && p < 1 ? ">99%" : `${Math.round(100 * p)}%`;
  const names = label => label.split(separator).filter(name => name);
  const shown = label => several ? names(label).join(", ") || "none of the labels" : label;
  const word = made => !made ? "" : made.decision === "change" ? `changed to ${shown(made.label)}`
    : made.decision === "keep" ? "kept" : "excluded";

  function read() {
    try {
      decisions = JSON.parse(localStorage.getItem(key) || "{}");
      if (typeof decisions !== "object" || decisions === null || Array.isArray(decisions)) decisions = {};
    } catch { decisions = {}; lasting = false; }
  }
  function keep() {
    try { localStorage.setItem(key, JSON.stringify(decisions)); } catch { lasting = false; }
  }

  const buttons = amount ? [] : labels.map((label, i) => {
    const button = make("button");
    button.type = "button";
    const name = make("span", label);
    if (i < 9) name.append(" ", make("kbd", String(i + 1)));
    const track = make("span", undefined, "track");
    track.append(make("span"));
    button.append(name, make("span", "", "p"), track, make("span", "", "tag"));
    button.addEventListener("click", () => choose(i));
    at("labels").append(button);
    return button;
  });
  const rows = [...at("rows").rows];
  rows.forEach((row, i) => {
    const jump = make("button", row.cells[0].textContent);
    jump.type = "button";
    jump.setAttribute("aria-label", `Go to row ${row.cells[0].textContent}`);
    jump.addEventListener("click", () => { go(i); at("review").scrollIntoView({block: "start"}); });
    row.cells[0].replaceChildren(jump);
  });

  function images(post) {
    return post.images.map(image => {
      const figure = make("figure");
      if (image.uri) {
        const drawn = make("img");
        drawn.setAttribute("src", image.uri);
        drawn.alt = post.images.length > 1 ? `${image.name} of post ${post.id}` : `Image of post ${post.id}`;
        figure.append(drawn);
      } else figure.append(make("div", "The image cannot be shown here.", "none"));
      if (post.images.length > 1) figure.append(make("figcaption", image.name));
      return figure;
    });
  }
  function texts(post) {
    return post.texts.length ? post.texts.map(([name, text]) => {
      const part = make("p");
      part.dir = "auto";
      if (post.texts.length > 1) part.append(make("span", name, "fieldname"));
      part.append(text);
      return part;
    }) : [make("p", "No text.", "sub")];
  }

  function draw() {
    const post = posts[place], made = decisions[post.row];
    at("where").textContent = `Post ${place + 1} of ${posts.length}`;
    at("where").append(" ", make("span", `row ${post.row}, id ${post.id}`, "sub inline"));
    at("images").replaceChildren(...images(post));
    at("images").parentElement.classList.toggle("words-only", !post.images.length);
    at("texts").replaceChildren(...texts(post));
    at("given").textContent = shown(post.given);
    const best = several || amount ? "" : ` ${percent(post.p[labels.indexOf(post.suggested)])}`;
    at("suggested").replaceChildren(shown(post.suggested), make("span", best, "sub"));
    at("decision").textContent = word(made) || "none yet";
    chosen = new Set(names(made && made.decision === "change" ? made.label : post.given));
    if (amount) at("value").value = made && made.decision === "change" ? made.label : "";
    marks();
    progress();
  }
  function marks() {
    const post = posts[place], made = decisions[post.row];
    const now = made && made.decision === "exclude" ? null : made ? made.label : several ? post.given : null;
    buttons.forEach((button, i) => {
      const label = labels[i], given = several ? names(post.given) : [post.given];
      const suggested = several ? names(post.suggested) : [post.suggested];
      button.setAttribute("aria-pressed", String(several ? chosen.has(label) : now === label));
      button.querySelector(".p").textContent = percent(post.p[i]);
      button.querySelector(".track span").style.width = `${100 * post.p[i]}%`;
      const tags = [given.includes(label) && "given", suggested.includes(label) && "suggested"].filter(tag => tag);
      button.querySelector(".tag").textContent = tags.join(", ");
    });
  }
  function progress() {
    const done = posts.filter(post => decisions[post.row]).length, all = Object.keys(decisions).length;
    at("bar").value = done;
    at("count").textContent = `${done} reviewed`;
    at("save").disabled = at("restart").disabled = !all;
    at("undo").disabled = !past.length;
    at("back").disabled = !place;
    at("on").disabled = place === posts.length - 1;
    at("kept").textContent = lasting ? "Until then decisions stay in this browser."
      : "This browser keeps nothing: save before you close the page.";
    rows.forEach((row, i) => {
      row.querySelector(".done").textContent = word(decisions[posts[i].row]);
      row.classList.toggle("here", i === place);
    });
  }
  function say(line) { at("status").textContent = line; }

  function go(to, line = "") {
    place = Math.max(0, Math.min(posts.length - 1, to));
    draw();
    at("where").focus({preventScroll: true});
    say(line);
  }
  function next() {
    for (let step = 1; step < posts.length; step++) {
      const to = (place + step) % posts.length;
      if (!decisions[posts[to].row]) return to;
    }
    return null;
  }
  function decide(decision, label) {
    const post = posts[place];
    past.push([place, decisions[post.row]]);
    decisions[post.row] = {id: post.id, row: post.row, label, decision, given: post.given};
    unsaved = true;
    keep();
    const line = `Row ${post.row} ${word(decisions[post.row])}.`, to = next();
    go(to === null ? place : to, to === null ? `${line} All posts are reviewed: save your decisions.` : line);
  }
  function settle(label) {
    if (label === posts[place].given) decide("keep", label);
    else decide("change", label);
  }
  function choose(i) {
    if (i >= labels.length) return;
    if (!several) return settle(labels[i]);
    if (!chosen.delete(labels[i])) chosen.add(labels[i]);
    marks();
    say(`${labels[i]} ${chosen.has(labels[i]) ? "added" : "removed"}; Enter saves.`);
  }
  function same(a, b) { return a.size === b.size && [...a].every(name => b.has(name)); }
  function finish() {
    const given = posts[place].given;
    if (!several || same(chosen, new Set(names(given)))) decide("keep", given);
    else decide("change", labels.filter(label => chosen.has(label)).join(separator) || separator);
  }
  function change() {
    const typed = at("value").value.trim().replace(",", ".");
    if (typed === "" || !Number.isFinite(Number(typed))) { say("Type a number as the new value."); at("value").focus(); }
    else decide("change", typed);
  }
  function skip() {
    const to = next();
    go(to === null ? place : to, to === null ? "No other post is left." : `Row ${posts[place].row} skipped.`);
  }
  function undo() {
    const last = past.pop();
    if (!last) return;
    const [to, before] = last;
    if (before) decisions[posts[to].row] = before; else delete decisions[posts[to].row];
    keep();
    go(to, `The decision on row ${posts[to].row} is undone.`);
  }
  function cell(value) {
    const text = String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }
  function save() {
    const made = Object.values(decisions).sort((a, b) => a.row - b.row);
    const lines = made.map(d => [d.id, d.row, d.decision === "exclude" ? "" : d.label, d.decision, d.given].map(cell).join(","));
    const file = new Blob([["id,row,label,decision,given", ...lines, ""].join("\n")], {type: "text/csv"});
    const link = make("a"), place = URL.createObjectURL(file);
    link.setAttribute("href", place);
    link.download = "decisions.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(place), 10000);
    unsaved = false;
    say(`${made.length} decision${made.length === 1 ? "" : "s"} saved to decisions.csv.`);
  }
  function restart() {
    if (!confirm("Discard all decisions of this review?")) return;
    decisions = {};
    past.length = 0;
    unsaved = false;
    keep();
    go(0, "All decisions are discarded.");
  }

  const does = {s: skip, x: () => decide("exclude", ""), u: undo, ArrowLeft: () => go(place - 1),
    ArrowRight: () => go(place + 1)};
  if (amount) does.t = () => decide("change", posts[place].suggested);
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    const on = event.target, typing = on instanceof HTMLInputElement && on.type === "text";
    if (typing && event.key === "Enter") { event.preventDefault(); change(); }
    if (typing || !at("keys").checked) return;
    if (event.key === "Enter") {
      if (on instanceof HTMLButtonElement || on instanceof HTMLInputElement) return;
      event.preventDefault();
      if (!event.repeat) finish();
    } else if (!amount && /^[1-9]$/.test(event.key)) {
      if (!event.repeat) choose(Number(event.key) - 1);
    } else if (does[event.key]) {
      if (event.key.startsWith("Arrow") && on.closest(".scroll")) return;
      event.preventDefault();
      if (!event.repeat || event.key.startsWith("Arrow")) does[event.key]();
    }
  });
  for (const [id, act] of Object.entries({keep: finish, skip, exclude: does.x, undo, back: does.ArrowLeft,
    on: does.ArrowRight, save, restart})) at(id).addEventListener("click", act);
  if (amount) { at("change").addEventListener("click", change); at("take").addEventListener("click", does.t); }
  at("keys").addEventListener("change", () => document.body.classList.toggle("no-keys", !at("keys").checked));
  addEventListener("beforeunload", event => { if (unsaved && !lasting) event.preventDefault(); });

  read();
  at("review").hidden = false;
  const before = posts.filter(post => decisions[post.row]).length;
  place = Math.max(0, posts.findIndex(post => !decisions[post.row]));
  draw();
  if (before) say(`${before} decision${before === 1 ? "" : "s"} of an earlier visit ${before === 1 ? "is" : "are"} still here.`);
})();
