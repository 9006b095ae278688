// Elements made without markup, so that nothing a post, a label or a server says is ever more than text.

export const byId = (id) => document.getElementById(id);

/** Return a new element; styles are set through the DOM, which the Content-Security-Policy allows. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") for (const [key, to] of Object.entries(value)) node.style.setProperty(key, to);
    else if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

/** Return a part as a percentage; one that is nearly nothing or nearly all says so. */
export function percent(value) {
  if (!Number.isFinite(value)) return "-";
  if (value > 0 && value < 0.005) return "<1%";
  if (value < 1 && value >= 0.995) return ">99%";
  return `${Math.round(100 * value)}%`;
}

/** Return a number with its sign, a real minus. */
export function signed(value) {
  if (!Number.isFinite(value)) return "-";
  return `${value < 0 ? "\u2212" : "+"}${Math.abs(value).toFixed(2)}`;
}

export const number = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "-");

export const capital = (word) => word.slice(0, 1).toUpperCase() + word.slice(1);

export const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

/** Return names joined as a person would. */
export function listed(names) {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

export function megabytes(bytes) {
  return bytes < 100_000 ? `${Math.ceil(bytes / 1000)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

/** Say, or with nothing to say take away, what is wrong. */
export function problem(message, requestId) {
  const box = byId("problem");
  box.replaceChildren(message || "", requestId ? el("span", { class: "sub" }, `Request ${requestId}`) : "");
  box.hidden = !message;
  if (message) box.scrollIntoView({ block: "nearest" });
}
