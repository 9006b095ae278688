// The page: asks what there is to predict with, then shows one post or a table of posts.

import { call, useKey } from "./api.js";
import { byId, el, listed, plural, problem } from "./dom.js";
import { listenForFiles } from "./fields.js";
import { OnePost } from "./post.js";
import { PostTable } from "./table.js";

const TABS = ["post", "table"];

async function start() {
  try {
    open(await call("v1/model"));
  } catch (error) {
    byId("about").textContent = "";
    if (error.status === 401) lock();
    problem(error.message, error.requestId);
  }
}

/** Ask for the key; what is filled in stays. */
function lock() {
  byId("locked").hidden = false;
  byId("key").focus();
}

byId("unlock").addEventListener("submit", async (event) => {
  event.preventDefault();
  useKey(byId("key").value);
  byId("locked").hidden = true;
  problem("");
  if (byId("open").hidden) await start();
  if (byId("locked").hidden) byId("tab-post").focus();
});

function open({ models, default: chosen, limits }) {
  const views = { post: new OnePost(limits, lock), table: new PostTable(limits, lock) };
  const use = (model) => {
    byId("about").textContent = about(model);
    for (const view of Object.values(views)) view.use(model);
  };
  const select = byId("model");
  select.replaceChildren(...models.map(({ name }) => el("option", { selected: name === chosen }, name)));
  select.addEventListener("change", () => use(models[select.selectedIndex]));
  byId("choice").hidden = models.length < 2;
  for (const name of TABS) {
    byId(`tab-${name}`).addEventListener("click", () => turn(name));
    byId(`tab-${name}`).addEventListener("keydown", (event) => {
      if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
      const other = TABS.find((tab) => tab !== name);
      turn(other);
      byId(`tab-${other}`).focus();
    });
  }
  listenForFiles((files, near) => views[TABS.find((name) => !byId(`panel-${name}`).hidden)].take(files, near));
  byId("open").hidden = false;
  use(models.find(({ name }) => name === chosen) ?? models[0]);
}

function turn(name) {
  for (const tab of TABS) {
    byId(`tab-${tab}`).setAttribute("aria-selected", String(tab === name));
    byId(`tab-${tab}`).tabIndex = tab === name ? 0 : -1;
    byId(`panel-${tab}`).hidden = tab !== name;
  }
  problem("");
}

function about({ name, task, labels, fields }) {
  const read = listed(fields.map((field) => (field.kind === "table" ? plural(field.columns.length, "column") : field.name)));
  if (task === "regression") return `The model ${name} reads the ${read} of a post and predicts a number.`;
  const few = labels.length <= 6 ? `: ${listed(labels)}` : "";
  const what = task === "multi-label" ? `which of ${plural(labels.length, "label")} apply` : `one of ${plural(labels.length, "class").replace("classs", "classes")}`;
  return `The model ${name} reads the ${read} of a post and predicts ${what}${few}.`;
}

start();
