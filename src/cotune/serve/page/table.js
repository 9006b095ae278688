// A table of posts: pasted or chosen, matched with image files, sent in batches, downloaded as CSV.

import { base64, bytesOf, call } from "./api.js";
import { confidenceOf, isPredicted, knownImage, labelOf } from "./answer.js";
import { byId, capital, el, listed, percent, plural, problem } from "./dom.js";
import { readTable, writeTable } from "./csv.js";
import { isImage } from "./fields.js";

const SHOWN = 500;
const TRIES = 8;
/** Return a path as it is compared: as Windows and macOS do, without regard to case. */
const plain = (path) => path.trim().replaceAll("\\", "/").toLowerCase();
const fileName = (path) => plain(path).split("/").at(-1);

export class PostTable {
  constructor(limits, locked) {
    Object.assign(this, { limits, locked, header: [], posts: [], answers: [], running: null });
    const form = byId("table");
    byId("pasted").addEventListener("input", () => this.read());
    byId("images").addEventListener("change", () => this.match());
    byId("table-file").addEventListener("change", ({ target }) => this.take([...target.files]));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.predict();
    });
    form.addEventListener("reset", () => setTimeout(() => this.clear()));
    byId("stop").addEventListener("click", () => this.running?.abort());
    byId("download").addEventListener("click", () => this.download());
  }

  use(model) {
    this.model = model;
    byId("images-part").hidden = !model.fields.some(({ kind }) => kind === "image");
    this.clear();
  }

  clear() {
    this.running?.abort();
    this.answers = [];
    byId("results").hidden = true;
    problem("");
    this.read();
  }

  /** Take chosen, dropped or pasted files: a table, images beside those that are there. */
  async take(files) {
    const images = files.filter(isImage);
    const table = files.find((file) => !isImage(file));
    const held = new DataTransfer();
    for (const file of [...byId("images").files, ...images]) held.items.add(file);
    if (images.length) byId("images").files = held.files;
    if (table) byId("pasted").value = await table.text();
    if (table) this.read();
    else this.match();
  }

  /** Read the pasted table and offer its columns. */
  read() {
    const [header, ...rows] = readTable(byId("pasted").value);
    Object.assign(this, { header: (header ?? []).map((name) => name.trim()), posts: rows });
    const inputs = this.inputs();
    byId("columns").hidden = !header;
    byId("column-choices").replaceChildren(...inputs.map(({ title, select }) =>
      el("p", { class: "choice" }, el("label", { for: select.id }, title), select)));
    this.selects = inputs;
    this.match();
  }

  /** Return what the model reads from columns, each with a choice of column; its name decides at first. */
  inputs() {
    const wanted = [{ title: "id", names: ["id"], field: null }];
    for (const field of this.model.fields) {
      if (field.kind !== "table") wanted.push({ title: field.name, names: [field.name, ...(field.columns ?? []), field.kind], field });
      else for (const column of field.columns) wanted.push({ title: column, names: [column], field, column });
    }
    const names = this.header.map((name) => name.toLowerCase());
    return wanted.map((input, at) => {
      const found = input.names.map((name) => names.indexOf(name.toLowerCase())).find((place) => place >= 0) ?? -1;
      const select = el("select", { id: `column-${at}`, on: { change: () => this.match() } },
        el("option", { value: -1 }, input.field ? "none" : "number of the line"),
        this.header.map((name, place) => el("option", { value: place, selected: place === found }, name || `column ${place + 1}`)));
      return { ...input, select };
    });
  }

  /** Say how many posts there are and which images are missing. */
  match() {
    this.files = new Map([...byId("images").files].map((file) => [fileName(file.name), file]));
    const named = new Set(this.posts.flatMap((row) => this.imagesOf(row)));
    const missing = [...named].filter((name) => !this.files.has(fileName(name)));
    const bare = [...new Set([...named].map(plain))].map(fileName);
    this.alike = new Set(bare.filter((name, at) => bare.indexOf(name) !== at));
    const used = this.selects.some(({ field, select }) => field && Number(select.value) >= 0);
    byId("go").disabled = !this.posts.length || !used || Boolean(this.running);
    byId("go").textContent = this.posts.length ? `Predict ${plural(this.posts.length, "post")}` : "Predict";
    const sentences = [];
    if (this.header.length && !this.posts.length) sentences.push("There is no line below the column names.");
    if (this.posts.length && !used) sentences.push("Choose at least one column that the model reads.");
    if (named.size) sentences.push(`${named.size - missing.length} of ${plural(named.size, "image")} chosen.`);
    if (this.alike.size) sentences.push(`Several are called ${[...this.alike][0]}; posts with them are not predicted.`);
    const names = missing.map((path) => path.split(/[\\/]/).at(-1));
    if (missing.length) sentences.push(`Missing: ${listed([...names.slice(0, 3), ...(missing.length > 3 ? [`${missing.length - 3} more`] : [])])}. Posts without their image are not predicted.`);
    byId("matched").textContent = sentences.join(" ");
  }

  imagesOf(row) {
    const columns = this.selects.filter(({ field, select }) => field?.kind === "image" && Number(select.value) >= 0);
    return columns.map(({ select }) => (row[select.value] ?? "").trim()).filter(Boolean);
  }

  /** Return a line of the table as a post, or what is wrong with it. */
  async post(row, at) {
    const fields = {};
    let id = String(at + 1);
    for (const { field, column, select } of this.selects) {
      const cell = (row[select.value] ?? "").trim();
      if (cell === "") continue;
      if (!field) id = cell;
      else if (column) (fields[field.name] ??= {})[column] = cell;
      else if (field.kind !== "image") fields[field.name] = cell;
      else if (this.alike.has(fileName(cell))) return { id, error: `the table has several images named ${fileName(cell)}` };
      else if (!this.files.has(fileName(cell))) return { id, error: `no file named ${fileName(cell)} was chosen` };
      else fields[field.name] = await base64(this.files.get(fileName(cell)));
    }
    return { id, fields };
  }

  async predict() {
    if (this.running || !this.posts.length) return;
    this.running = new AbortController();
    this.answers = [];
    problem("");
    this.start();
    try {
      await this.send(this.running.signal);
      this.finish(`${this.summary()}.`);
    } catch (error) {
      if (error.name === "AbortError") this.finish(`Stopped. ${this.summary()}.`);
      else {
        this.finish(`${this.summary()}.`);
        if (error.status === 401) this.locked();
        problem(error.message, error.requestId);
      }
    }
  }

  /** Send all posts, as many at once as the server takes. */
  async send(signal) {
    const frame = bytesOf(JSON.stringify({ model: this.model.name, posts: [] }));
    let batch = [];
    let size = frame;
    const flush = async () => {
      if (batch.length) await this.ask(batch, signal);
      [batch, size] = [[], frame];
    };
    for (const [at, row] of this.posts.entries()) {
      const post = await this.post(row, at).catch((error) => ({ id: String(at + 1), error: error.message }));
      const text = post.error ? "" : JSON.stringify({ id: String(at + 1), fields: post.fields });
      const bytes = bytesOf(text) + 1;
      if (batch.length && (batch.length >= this.limits.batch || size + bytes > this.limits.body_bytes)) await flush();
      const place = { at, id: post.id };
      if (post.error) this.keep(place, { error: post.error });
      else if (!Object.keys(post.fields).length) this.keep(place, { error: "the post is empty" });
      else if (frame + bytes > this.limits.body_bytes) this.keep(place, { error: "the post is larger than the server takes" });
      else {
        batch.push({ ...place, text });
        size += bytes;
      }
    }
    await flush();
  }

  /** Send some posts; a busy server is asked again. A batch that is refused is sent post by post, to find which one it is. */
  async ask(batch, signal) {
    const body = `{"model":${JSON.stringify(this.model.name)},"posts":[${batch.map(({ text }) => text).join(",")}]}`;
    for (let tried = 1; ; tried += 1) {
      try {
        const { predictions } = await call("v1/predict", body, signal);
        batch.forEach((place, i) => this.keep(place, predictions[i]));
        return;
      } catch (error) {
        if ([400, 413, 422].includes(error.status) && batch.length > 1) {
          for (const place of batch) await this.ask([place], signal);
          return;
        }
        if ([400, 413, 422].includes(error.status)) return this.keep(batch[0], { error: error.message });
        if (![429, 503].includes(error.status) || tried === TRIES) throw error;
        const wait = Math.min(60, error.wait || 2 ** tried);
        byId("table-status").textContent = `The server is busy; trying again in ${plural(wait, "second")}.`;
        await pause(wait, signal);
      }
    }
  }

  keep({ at, id }, { error = null, label = null, value = null, probabilities = null, shares = null, known = null, known_distance = null }) {
    this.answers[at] = { id, error, label, value, probabilities, shares, known, known_distance };
    const done = this.answers.filter(Boolean).length;
    byId("progress").value = done / this.posts.length;
    byId("table-status").textContent = `${done.toLocaleString("en")} of ${plural(this.posts.length, "post")}`;
    if (at < SHOWN) this.rows[at].replaceWith((this.rows[at] = this.row(at)));
  }

  start() {
    const shares = this.model.fields.map(({ name }) => `Share of ${name}`);
    const text = this.selects.find(({ field, select }) => field?.kind === "text" && Number(select.value) >= 0);
    this.snippet = text ? (row) => row[text.select.value] ?? "" : null;
    this.classes = this.model.task === "single-label";
    const head = ["id", ...(text ? [capital(text.title)] : []), "Prediction", ...(this.classes ? ["Confidence"] : []), ...shares, "Error"];
    const numbers = new Set(["Confidence", ...shares]);
    byId("head").replaceChildren(el("tr", {}, head.map((name) => el("th", { scope: "col", class: numbers.has(name) ? "num" : null }, name))));
    this.rows = this.posts.slice(0, SHOWN).map((_, at) => this.row(at));
    byId("rows").replaceChildren(...this.rows);
    byId("more").textContent = this.posts.length > SHOWN ? `The first ${SHOWN} are shown; the download has all.` : "";
    byId("results").hidden = false;
    byId("download").disabled = true;
    byId("progress").hidden = false;
    byId("stop").hidden = false;
    byId("results").scrollIntoView({ block: "nearest" });
    this.match();
  }

  row(at) {
    const answer = this.answers[at];
    const predicted = answer && isPredicted(answer);
    const cell = (type, value, name) => el("td", { class: type, dir: "auto", "data-name": name }, value);
    const part = (name, value) => cell("num", predicted ? percent(value) : "", name);
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, answer?.id ?? String(at + 1)),
      this.snippet ? cell("snippet", shortened(this.snippet(this.posts[at]))) : null,
      cell("strong break", predicted ? labelOf(answer) : answer ? "-" : "\u2026"),
      this.classes ? part("Confidence", predicted && confidenceOf(answer)) : null,
      this.model.fields.map(({ name }) => part(`Share of ${name}`, answer?.shares?.[name])),
      cell("wrong break", [answer?.known ? knownImage(answer) : null, answer?.error].filter(Boolean).join("; ")),
    );
  }

  summary() {
    const all = this.answers.filter(Boolean);
    const failed = all.filter((answer) => !isPredicted(answer)).length;
    return `${plural(all.length - failed, "post")} predicted${failed ? `, ${failed.toLocaleString("en")} without a prediction` : ""}`;
  }

  finish(message) {
    this.running = null;
    byId("progress").hidden = true;
    byId("stop").hidden = true;
    byId("download").disabled = !this.answers.some(Boolean);
    byId("table-status").textContent = message;
    this.match();
  }

  /** Return the predictions as `cotune predict` would write them, a row for every post. */
  csv() {
    const outputs = this.model.labels ?? [];
    const names = this.model.fields.map(({ name }) => name);
    const known = this.answers.some((answer) => answer?.known) ? ["known", "known_distance"] : [];
    const head = ["id", "label", ...outputs.map((name) => `p_${name}`), ...names.map((name) => `${name}_share`), ...known, "error"];
    const rows = this.posts.map((_, at) => {
      const answer = this.answers[at] ?? {};
      const { id = at + 1, error = "not sent", label = null, value, probabilities, shares } = answer;
      const shown = Array.isArray(label) ? label.join("|") || "|" : (label ?? value);
      return [id, shown, ...outputs.map((name) => probabilities?.[name]), ...names.map((name) => shares?.[name]), ...known.map((name) => answer[name]), error];
    });
    return writeTable([head, ...rows]);
  }

  download() {
    const url = URL.createObjectURL(new Blob([this.csv()], { type: "text/csv;charset=utf-8" }));
    const link = el("a", { href: url, download: "predictions.csv" });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }
}

const shortened = (text) => (text.length > 90 ? `${text.slice(0, 90).trimEnd()}\u2026` : text);

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => reject(new DOMException("stopped", "AbortError"));
    signal.addEventListener("abort", stop, { once: true });
    setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, 1000 * seconds);
  });
}
