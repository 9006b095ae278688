// What the model made of a post, in the look of the explanation pages (cotune/report/templates/explanation.*).

import { capital, el, listed, number, percent, signed } from "./dom.js";

const FILLS = ["text", "image", "third", "fourth", "fifth", "sixth", "seventh", "eighth"];
const BARS = 12;
const MARKED = 400;

/** Return what is predicted in a few words. */
export function labelOf(prediction) {
  const { label } = prediction;
  if (Array.isArray(label)) return label.length ? label.join(", ") : "none of the labels";
  if (typeof label === "number") return number(label);
  return label ?? (prediction.value === null || prediction.value === undefined ? "-" : number(prediction.value));
}

export const isPredicted = (prediction) => prediction.label !== null || Number.isFinite(prediction.value);

/** Return how probable the predicted class is; null where that is no question. */
export function confidenceOf(prediction) {
  return typeof prediction.label === "string" ? (prediction.probabilities?.[prediction.label] ?? null) : null;
}

/** Return one sentence for who hears the page. */
export function spoken(model, prediction) {
  const sure = confidenceOf(prediction);
  const shares = Object.entries(prediction.shares ?? {}).map(([name, share]) => `${name} ${percent(share)}`);
  return `Prediction: ${labelOf(prediction)}${sure === null ? "" : `, ${percent(sure)} confidence`}. Share: ${shares.join(", ")}.`;
}

/** Return which known image a post shows. */
export const knownImage = ({ known, known_distance: distance }) => `Known image: ${known} (${distance} of 64 bits differ)`;

/** Return the section of a prediction. */
export function predictionSection(model, prediction) {
  const sure = confidenceOf(prediction);
  return el(
    "section",
    { "aria-labelledby": "prediction-title" },
    el("h2", { id: "prediction-title" }, "Prediction"),
    el("p", { class: "cx-answer" },
      el("span", { class: "cx-big" }, labelOf(prediction)),
      sure === null ? null : el("span", {}, `${percent(sure)} confidence`)),
    prediction.known ? el("p", { class: "cx-warn" }, knownImage(prediction)) : null,
    prediction.error ? el("p", { class: "cx-warn" }, capital(prediction.error)) : null,
    prediction.probabilities ? probabilities(model, prediction) : null,
    prediction.shares ? shares(model, prediction.shares) : null,
  );
}

function probabilities(model, prediction) {
  const chosen = new Set([prediction.label].flat());
  const rows = Object.entries(prediction.probabilities)
    .sort((a, b) => b[1] - a[1])
    .map(([name, value]) => bar(name, value, chosen.has(name), model.thresholds?.[name]));
  const head = el("thead", { class: "visually-hidden" }, el("tr", {},
    ...["Answer", "Bar", "Probability"].map((word) => el("th", { scope: "col" }, word))));
  const table = (some, caption) =>
    el("table", { class: "bars" }, el("caption", {}, caption), head.cloneNode(true), el("tbody", {}, some));
  const caption = model.thresholds
    ? "How probable each label is, by itself. A label applies where its bar reaches the upright line, its threshold."
    : "How probable the model finds each answer. They add up to 100%.";
  const more = rows.length - BARS;
  return [
    table(rows.slice(0, BARS), caption),
    more > 0 ? el("details", {}, el("summary", {}, `${more} less probable`), table(rows.slice(BARS), "The others.")) : null,
  ];
}

function bar(name, value, chosen, threshold) {
  const line = Number.isFinite(threshold) ? el("span", { class: "threshold", style: { left: `${100 * threshold}%` } }) : null;
  return el(
    "tr",
    { class: chosen ? "strong" : null },
    el("th", { scope: "row", dir: "auto" }, chosen ? el("span", { class: "tick", "aria-label": "predicted:", role: "img" }, "\u2713") : null, name),
    el("td", { class: "barcell" }, el("span", { class: "rail", "aria-hidden": "true" },
      el("span", { class: chosen ? "bar" : "bar other", style: { width: `${100 * value}%` } }), line)),
    el("td", { class: "num" }, percent(value), line ? el("span", { class: "sub" }, `from ${percent(threshold)}`) : null),
  );
}

function shares(model, found) {
  const parts = model.fields
    .filter((field) => Number.isFinite(found[field.name]))
    .map((field, at) => ({ name: field.name, share: found[field.name], fill: `cx-fill-${FILLS[at % FILLS.length]}` }));
  const words = parts.map(({ name, share }) => `${name} ${percent(share)}`);
  return el(
    "div",
    { class: "shares" },
    el("h3", {}, parts.length > 1 ? "Share of each part of the post" : "Share"),
    el("div", { class: "cx-share", role: "img", "aria-label": `Shares: ${words.join(", ")}` },
      parts.filter(({ share }) => share > 0).map(({ share, fill }) => el("span", { class: fill, style: { width: `${100 * share}%` } }))),
    el("div", { class: "cx-legend" }, parts.map(({ name, share, fill }) =>
      el("span", {}, el("i", { class: `cx-key ${fill}` }), `${capital(name)} ${percent(share)}`))),
    el("p", { class: "cx-soft" }, meaning(parts)),
  );
}

function meaning(parts) {
  const there = parts.filter(({ share }) => share > 0).sort((a, b) => b.share - a.share);
  if (there.length === 1) return `The whole prediction came from the ${there[0].name}.`;
  return "How much of the prediction came from each part. It says how much a part counted, not in which direction.";
}

/** Return the sections that explain a prediction: fields, words, images. */
export function explanationSections(model, answer, post) {
  const about = model.task === "regression" ? "a higher value" : answer.explained;
  const texts = model.fields.filter((field) => answer.words?.[field.name]?.length);
  const images = model.fields.filter((field) => answer.overlays?.[field.name]);
  const several = (fields, word, name) => (model.fields.filter((f) => f.kind === fields[0].kind).length > 1 ? `${word} of ${name}` : word);
  return [
    contributions(model, answer, about),
    ...texts.map(({ name }) => words(several(texts, "The words", name), post[name], answer.words[name], about)),
    ...images.map(({ name }) => overlay(several(images, "The image", name), post[name], answer.overlays[name], about)),
  ].filter(Boolean);
}

const units = (answer) => (answer.prediction.probabilities ? "in log-odds" : "in units of the label");

function contributions(model, answer, about) {
  const parts = model.fields
    .filter((field) => Number.isFinite(answer.contributions?.[field.name]))
    .map((field) => ({ name: field.name, value: answer.contributions[field.name] }));
  if (parts.length < 2) return null;
  const most = Math.max(...parts.map(({ value }) => Math.abs(value))) || 1;
  return el(
    "section",
    { "aria-labelledby": "parts-title" },
    el("h2", { id: "parts-title" }, "For or against?"),
    el("p", {}, direction(parts, about)),
    axisTable("Part of the post", parts.map(({ name, value }) => [capital(name), value]), most, about),
    el("p", { class: "cx-soft" }, `The longer the bar, the more the part counted (Shapley values ${units(answer)}).`),
  );
}

function direction(parts, about) {
  const up = parts.filter(({ value }) => value > 0).map(({ name }) => name);
  const down = parts.filter(({ value }) => value < 0).map(({ name }) => name);
  const side = (names, verb) => `the ${listed(names)} ${verb}${names.length === 1 ? "s" : ""}`;
  const sentences = [up.length ? `${side(up, "support")} ${about}` : "", down.length ? `${side(down, "oppose")} ${up.length ? "it" : about}` : ""];
  return `${capital(sentences.filter(Boolean).join(", ")) || "No part had an effect"}.`;
}

function axisTable(first, rows, most, about) {
  const one = ([name, value]) => el(
    "tr",
    {},
    el("th", { scope: "row", dir: "auto" }, name),
    el("td", {}, el("span", { class: "cx-axis cx-one", "aria-hidden": "true" }, el("i", {
      class: value >= 0 ? "cx-up cx-for-bar" : "cx-down cx-against-bar",
      style: { width: `${(50 * Math.abs(value)) / most}%` },
    }))),
    el("td", { class: "cx-num" }, signed(value)),
  );
  return el(
    "div",
    { class: "cx-scroll", tabindex: "0", role: "group", "aria-label": `Effects on ${about}` },
    el("table", {},
      el("thead", {}, el("tr", {},
        el("th", { scope: "col" }, first),
        el("th", { scope: "col", class: "cx-middle" }, "opposes \u00b7 supports"),
        el("th", { scope: "col", class: "cx-num" }, el("span", { class: "visually-hidden" }, `Effect on ${about}`)))),
      el("tbody", {}, rows.map(one))),
  );
}

function words(title, text, found, about) {
  const most = Math.max(...found.map(({ value }) => Math.abs(value))) || 1;
  const letters = Array.from(text); // places are counted in characters; JavaScript counts halves of some
  const pieces = [];
  let at = 0;
  for (const { start, end, value } of [...found].sort((a, b) => a.start - b.start).slice(0, MARKED)) {
    if (start < at) continue;
    const strength = Math.abs(value) / most;
    const side = strength < 0.05 ? "none" : value > 0 ? "for" : "against";
    pieces.push(letters.slice(at, start).join(""));
    pieces.push(el("mark", { class: `cx-${side}`, style: { "--s": strength.toFixed(2) } }, letters.slice(start, end).join("")));
    at = end;
  }
  const rest = letters.slice(at).join("");
  const unread = /[\p{L}\p{N}]/u.test(rest);
  const ranked = [...found].sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).map(({ word, value }) => [word, value]);
  const id = encodeURIComponent(title);
  return el(
    "section",
    { "aria-labelledby": id },
    el("h2", { id }, title),
    el("p", { class: "cx-words", dir: "auto" }, pieces, unread ? el("span", { class: "cx-soft" }, rest, " (not marked)") : rest),
    el("p", { class: "cx-soft" },
      el("mark", { class: "cx-for strong" }, "Solid line"), `: supports ${about}. `,
      el("mark", { class: "cx-against strong" }, "Dashed line"), `: opposes it. The stronger the colour, the more the word counted.`),
    el("details", {}, el("summary", {}, "The words as a list, those that counted most first"),
      axisTable("Word", ranked.slice(0, MARKED), most, about)),
  );
}

function overlay(title, image, url, about) {
  const id = encodeURIComponent(title);
  const drawn = url.startsWith("data:image/") ? url : "";
  return el(
    "section",
    { "aria-labelledby": id },
    el("h2", { id }, title),
    el("div", { class: "cx-pictures" },
      image ? el("figure", {}, el("img", { src: image, alt: "The image of the post" }), el("figcaption", {}, "As it was sent")) : null,
      el("figure", {},
        el("img", { src: drawn, alt: `The image in grey; what supports ${about} is blue, what opposes it orange` }),
        el("figcaption", {}, `Blue supports ${about}, orange opposes it. The numbers mark the three parts that count most; what is striped the model does not see.`))),
  );
}
