// The form of one post: an input for every field of the model.

import { base64 } from "./api.js";
import { capital, el, megabytes, problem } from "./dom.js";

/** Inputs for the fields of a model; what another model's inputs hold is kept. */
export class PostForm {
  constructor(box, model, limits, before = []) {
    this.inputs = model.fields.map((field) => new KINDS[field.kind in KINDS ? field.kind : "text"](field, limits));
    box.replaceChildren(...this.inputs.map((input) => input.node));
    for (const { field, value } of before) {
      this.inputs.find((input) => input.field.name === field.name && input.field.kind === field.kind)?.write(value);
    }
  }

  /** Return what is wrong with the inputs, a sentence for each. */
  problems() {
    return this.inputs.map((input) => input.problem).filter(Boolean);
  }

  /** Return the fields that are filled in, ready to be sent. */
  async read() {
    const values = await Promise.all(this.inputs.map(async (input) => [input.field.name, await input.read()]));
    return Object.fromEntries(values.filter(([, value]) => value !== null));
  }

  /** Fill in fields by name: texts, files, columns of tables. */
  fill(values) {
    for (const input of this.inputs) input.write(values[input.field.name]);
  }

  /** Take images: the first into the field it came to, all others into what is empty, else the first. Tell whether any fits. */
  take(files, near) {
    const places = this.inputs.filter((input) => input instanceof ImageInput);
    for (const [at, file] of files.slice(0, places.length).entries()) {
      const there = at === 0 && places.find((input) => input.node.contains(near));
      (there || places.find((input) => !input.value) || places[0]).write(file);
    }
    return files.length > 0 && places.length > 0;
  }
}

/** Return an id for a field's input; names may hold blanks, ids that are referred to may not. */
const idOf = (field) => `field-${encodeURIComponent(field.name)}`;

class TextInput {
  problem = null;

  constructor(field) {
    this.field = field;
    this.area = el("textarea", { id: idOf(field), rows: 4, dir: "auto" });
    this.node = el("div", { class: "field" }, el("label", { for: this.area.id }, capital(field.name)), this.area);
  }

  get value() {
    return this.area.value;
  }

  async read() {
    return this.value.trim() === "" ? null : this.value;
  }

  write(text = "") {
    this.area.value = text;
  }
}

class TableInput {
  problem = null;

  constructor(field) {
    this.field = field;
    this.cells = (field.columns ?? [field.name]).map((column) => [
      column,
      cellInput(`${idOf(field)}-${encodeURIComponent(column)}`, field.categories?.[column]),
    ]);
    this.node = el(
      "fieldset",
      { class: "field" },
      el("legend", {}, capital(field.name)),
      el("div", { class: "choices" }, this.cells.map(([column, cell]) =>
        el("p", { class: "choice" }, el("label", { for: cell.id }, column), cell))),
    );
  }

  get value() {
    const filled = this.cells.filter(([, cell]) => cell.value.trim() !== "");
    return Object.fromEntries(filled.map(([column, cell]) => [column, cell.value.trim()]));
  }

  async read() {
    return Object.keys(this.value).length ? this.value : null;
  }

  write(values = {}) {
    for (const [column, cell] of this.cells) cell.value = values[column] ?? "";
  }
}

/** Return an input for a cell: a choice where its column has categories. */
function cellInput(id, values) {
  if (!values?.length) return el("input", { id, autocomplete: "off" });
  return el("select", { id }, el("option", { value: "" }, "none"), values.map((value) => el("option", {}, value)));
}

class ImageInput {
  problem = null;

  constructor(field, limits) {
    this.field = field;
    this.limits = limits;
    const id = idOf(field);
    this.input = el("input", { type: "file", id, accept: "image/*", "aria-describedby": `${id}-hint ${id}-about` });
    this.image = el("img", { alt: `Preview of ${field.name}`, hidden: true });
    this.about = el("p", { class: "note", id: `${id}-about`, role: "status" });
    this.remove = el("button", { type: "button", hidden: true, "aria-label": `Remove ${field.name}` }, "Remove");
    this.hint = el("p", { class: "note", id: `${id}-hint` }, "Choose a file, drop one here, or paste an image.");
    this.drop = el("div", { class: "drop" }, this.image, this.input, this.hint, el("div", { class: "row spread" }, this.about, this.remove));
    this.node = el("div", { class: "field" }, el("label", { for: id }, capital(field.name)), this.drop);
    this.input.addEventListener("change", () => this.show());
    this.remove.addEventListener("click", () => {
      this.write();
      this.input.focus();
    });
    for (const [event, over] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
      this.drop.addEventListener(event, () => this.drop.classList.toggle("over", over));
    }
  }

  get value() {
    return this.input.files[0] ?? null;
  }

  async read() {
    return this.value ? base64(this.value) : null;
  }

  write(file) {
    const held = new DataTransfer();
    if (file) held.items.add(file);
    this.input.files = held.files;
    this.show();
  }

  /** Show the chosen file, and whether the server would refuse it. */
  show() {
    const file = this.value;
    URL.revokeObjectURL(this.image.src);
    this.image.removeAttribute("src");
    this.image.hidden = true;
    this.remove.hidden = !file;
    this.hint.hidden = Boolean(file);
    this.say(file ? `${file.name}, ${megabytes(file.size)}` : "");
    if (!file) return;
    const most = this.limits.body_bytes;
    if (file.size * (4 / 3) > most) {
      this.say(`${file.name} has ${megabytes(file.size)}; the server takes up to ${megabytes(most * 0.74)}. Make it smaller.`, true);
    }
    this.image.onload = () => {
      this.image.hidden = false;
      const pixels = this.image.naturalWidth * this.image.naturalHeight;
      if (pixels > this.limits.image_pixels) {
        const [has, takes] = [pixels, this.limits.image_pixels].map((n) => (n / 1e6).toFixed(1));
        this.say(`${file.name} has ${has} million pixels; the server takes up to ${takes}. Make it smaller.`, true);
      }
    };
    this.image.onerror = () => {
      if (!this.problem) this.say(`${file.name}: this browser cannot show it. It may be damaged, or no image.`);
    };
    this.image.src = URL.createObjectURL(file);
  }

  say(message, wrong = false) {
    this.problem = wrong ? message : null;
    this.about.textContent = message;
    this.about.classList.toggle("warning", wrong);
    this.input.setAttribute("aria-invalid", String(wrong));
  }
}

const KINDS = { text: TextInput, image: ImageInput, table: TableInput };

export const isImage = (file) => file.type.startsWith("image/");

/** Hand over dropped and pasted files, wherever they land on the page. */
export function listenForFiles(take) {
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    const files = [...event.dataTransfer.files];
    if (files.length) take(files, event.target);
    else problem("Only files can be dropped here; save the image first, as this page loads nothing from other sites.");
  });
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    // Cells copied from a spreadsheet come as an image too; where there is a place for text, text is meant.
    const asText = event.clipboardData.types.includes("text/plain") && event.target.matches?.("textarea, input");
    if (!files.length || asText) return;
    event.preventDefault();
    take(files, event.target);
  });
}
