// One post: filled in, dropped, pasted or tried, then predicted and explained.

import { ApiError, bytesOf, call, fileAt } from "./api.js";
import { explanationSections, isPredicted, predictionSection, spoken } from "./answer.js";
import { byId, el, megabytes, problem } from "./dom.js";
import { isImage, PostForm } from "./fields.js";

export class OnePost {
  constructor(limits, locked) {
    Object.assign(this, { limits, locked, intro: byId("intro"), answer: byId("answer"), running: new AbortController(), sent: [] });
    const form = byId("post");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.predict();
    });
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      this.clear();
    });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    for (const button of document.querySelectorAll("[data-image]")) button.addEventListener("click", () => this.try(button));
  }

  use(model) {
    this.model = model;
    this.form = new PostForm(byId("fields"), model, this.limits, this.form?.inputs);
    for (const part of [byId("explains"), ...this.intro.querySelectorAll(".explained")]) part.hidden = !model.explains;
    const names = model.fields.map(({ name, kind }) => `${name}:${kind}`).join();
    if (byId("examples")) byId("examples").hidden = names !== "text:text,image:image";
    this.rest();
  }

  /** Take dropped or pasted files. */
  take(files, near) {
    const fits = this.form.take(files.filter(isImage), near);
    problem(fits ? "" : `${files[0].name || "What you pasted"} is no image that this model could take.`);
  }

  async try(button) {
    try {
      const image = await fileAt(button.dataset.image);
      this.form.fill({ text: button.textContent.trim(), image });
      await this.predict();
    } catch (error) {
      problem(error.message);
    }
  }

  clear() {
    this.form.fill({});
    this.rest();
    problem("");
  }

  /** Show no prediction, and drop what is under way. */
  rest() {
    this.running.abort();
    this.show(this.intro);
    this.done("");
  }

  /** Predict what the form holds, then explain it if that is wanted; what was under way is dropped. */
  async predict() {
    this.running.abort();
    this.running = new AbortController();
    const { signal } = this.running;
    problem("");
    let shown = false;
    try {
      const fields = await this.read();
      const body = this.body(fields);
      const images = this.images();
      this.busy("Predicting\u2026");
      const { predictions: [prediction], request_id: requestId } = await call("v1/predict", body, signal);
      if (!isPredicted(prediction)) throw new ApiError(prediction.error || "There is no prediction for this post.", { requestId });
      const section = predictionSection(this.model, prediction);
      this.show(section);
      shown = true;
      const { top } = section.getBoundingClientRect();
      if (top < 0 || top > 0.6 * window.innerHeight) section.scrollIntoView();
      const explain = this.model.explains && byId("explain").checked;
      this.done(spoken(this.model, prediction));
      if (!explain) return;
      this.busy("Looking for the words and image parts that counted\u2026");
      const found = await call("v1/explain", body, signal);
      this.answer.append(...explanationSections(this.model, found, { ...fields, ...images }));
      this.done("The explanation is below the prediction.");
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!shown) this.show(this.intro);
      this.done("");
      if (error.status === 401) this.locked();
      problem(error.message, error.requestId);
    }
  }

  /** Return the fields that are filled in; raise what is wrong with them. */
  async read() {
    const [wrong] = this.form.problems();
    if (wrong) throw new ApiError(wrong);
    const fields = await this.form.read();
    if (Object.keys(fields).length) return fields;
    const names = this.model.fields.map(({ kind, name }) => (kind === "image" ? "choose an image" : `fill in ${name}`));
    throw new ApiError(`Nothing to predict yet: ${[...new Set(names)].join(" or ")}.`);
  }

  body(fields) {
    const body = JSON.stringify({ model: this.model.name, posts: [{ id: "1", fields }] });
    const size = bytesOf(body);
    if (size > this.limits.body_bytes) {
      throw new ApiError(`The post has ${megabytes(size)} as it is sent; the server takes up to ${megabytes(this.limits.body_bytes)}.`);
    }
    return body;
  }

  /** Return addresses of the images that are sent, to be shown beside their overlays. */
  images() {
    for (const url of this.sent) URL.revokeObjectURL(url);
    const inputs = this.form.inputs.filter((input) => input.value instanceof File);
    const urls = inputs.map((input) => [input.field.name, URL.createObjectURL(input.value)]);
    this.sent = urls.map(([, url]) => url);
    return Object.fromEntries(urls);
  }

  show(...sections) {
    this.answer.replaceChildren(...sections);
  }

  /** Say, to who hears the page, what is seen anyway. */
  say(message) {
    byId("status").replaceChildren(el("span", { class: "visually-hidden" }, message));
  }

  busy(message) {
    byId("status").textContent = message;
    this.wait(true);
  }

  done(message) {
    this.say(message);
    this.wait(false);
  }

  wait(whether) {
    byId("status").classList.toggle("busy", whether);
    this.answer.setAttribute("aria-busy", String(whether));
  }
}
