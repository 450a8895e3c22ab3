// The page: which model, which view, and what belongs to both.

import * as card from "./card.js";
import * as gallery from "./gallery.js";
import { notify, tell } from "./messages.js";
import * as quiz from "./quiz.js";
import { askJson } from "./server.js";
import { changes, isSmall, randomSeed, readAddress, seedOf, state, VIEWS, writeAddress } from "./state.js";
import * as tray from "./tray.js";
import * as viewer from "./viewer.js";
import * as walk from "./walk.js";

const POLL_SECONDS = { empty: 5, usual: 60 };
const SETTLE_MILLISECONDS = 150; // between the slider's last move and the requests it leads to
const views = { gallery, walk, quiz, card };

const find = (id) => document.querySelector(`#${id}`);
const tabs = VIEWS.map((view) => find(`tab-${view}`));
let settling = 0;
let reading = false;
let drawn = {}; // view: the look that it was last drawn with

start();

async function start() {
  gallery.start({ open: viewer.open });
  viewer.start({ onClose: gallery.focusSeed });
  walk.start();
  quiz.start();
  tray.start({
    walk: () => {
      showView("walk");
      find("walk-slider").focus();
    },
  });
  listen();
  await readModels();
  poll();
}

function listen() {
  find("model").addEventListener("change", () => showModel(find("model").value));
  find("version").addEventListener("change", () => showModel(state.model.name, Number(find("version").value)));
  find("label").addEventListener("change", () => {
    state.label = find("label").value;
    relook();
  });
  find("truncation").addEventListener("input", () => {
    state.truncation = Number(find("truncation").value);
    drawTruncation();
    clearTimeout(settling);
    settling = setTimeout(relook, SETTLE_MILLISECONDS);
  });
  find("start-field").addEventListener("submit", (event) => event.preventDefault());
  find("start").addEventListener("change", () => seedOf(find("start")) !== null && showFrom(seedOf(find("start"))));
  find("shuffle").addEventListener("click", () => showFrom(randomSeed()));
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => showView(tab.dataset.view));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      const other = tabs[(place + step + tabs.length) % tabs.length];
      showView(other.dataset.view);
      other.focus();
    });
  });
  changes.addEventListener("pins", () => writeAddress());
  window.addEventListener("missing", readModels);
  window.addEventListener("popstate", () => state.models.length && showAddress());
}

async function readModels() {
  if (reading) return;
  reading = true;
  try {
    const models = await askJson("models");
    find("empty").hidden = models.length > 0;
    if (models.length && JSON.stringify(models) !== JSON.stringify(state.models)) useModels(models);
  } catch (error) {
    notify(error, readModels);
  } finally {
    reading = false;
  }
}

function useModels(models) {
  state.models = models;
  find("model").replaceChildren(...models.map(({ name }) => new Option(name, name)));
  const still = models.find(({ name }) => name === state.model?.name);
  if (!state.model) showAddress();
  else if (still?.versions.includes(state.version)) {
    if (still.versions.at(-1) > state.model.versions.at(-1)) tell(`There is a newer version: ${still.versions.at(-1)}`);
    adopt(still);
  } else showModel(still?.name ?? models[0].name);
}

function poll() {
  const seconds = state.models.length ? POLL_SECONDS.usual : POLL_SECONDS.empty;
  setTimeout(async () => {
    if (!document.hidden && !document.querySelector("dialog[open]")) await readModels();
    poll();
  }, seconds * 1000);
}

/** Takes what the server says of the model that is shown already. */
function adopt(model) {
  state.model = model;
  find("model").value = model.name;
  find("version").replaceChildren(
    ...model.versions.toReversed().map((version, place) => new Option(place ? version : `${version}, newest`, version)),
  );
  find("version").value = state.version;
}

function showModel(name, version = null) {
  const model = state.models.find((each) => each.name === name) ?? state.models[0];
  state.version = model.versions.includes(version) ? version : model.versions.at(-1);
  if (model.name !== state.model?.name) {
    Object.assign(state, { label: "", pins: { a: null, b: null } });
    state.selected.clear();
  }
  find("notice").hidden = true; // of what was shown before
  adopt(model);
  drawModel();
  showView(state.view, true);
}

function showAddress() {
  views[state.view].leave?.();
  const { model, version, view, ...rest } = readAddress();
  const found = state.models.find(({ name }) => name === model) ?? state.models[0];
  state.model = found; // so that its class and pins are not dropped
  Object.assign(state, rest, { view });
  if (!(state.label in (found.class_names ?? []))) state.label = "";
  showModel(found.name, version);
}

function drawModel() {
  const { model } = state;
  drawn = {};
  document.body.classList.toggle("small-images", isSmall());
  document.title = `${model.name} · Small-Image Zoo`;
  find("label").replaceChildren(
    new Option("All, in turn", ""),
    ...(model.class_names ?? []).map((name, place) => new Option(name, place)),
  );
  find("label").value = state.label;
  find("start").value = state.start;
  find("truncation").value = state.truncation;
  drawTruncation();
}

function drawTruncation() {
  find("truncation-value").textContent = state.truncation.toFixed(2);
}

function showView(view, replace = false) {
  if (!state.model) return;
  if (view !== state.view) views[state.view].leave?.();
  const isNew = view !== state.view && !replace;
  state.view = view;
  document.body.dataset.view = view;
  for (const tab of tabs) {
    const selected = tab.dataset.view === view;
    tab.setAttribute("aria-selected", selected);
    tab.tabIndex = selected ? 0 : -1;
    find(tab.dataset.view).hidden = !selected;
  }
  find("controls").hidden = view === "card" || (view === "quiz" && !state.model.conditional);
  find("label-field").hidden = !state.model.conditional;
  find("truncation-field").hidden = view === "quiz";
  find("start-field").hidden = find("gallery-hint").hidden = view !== "gallery";
  if (view === "walk" || drawn[view] !== look()) views[view].reset();
  drawn[view] = look();
  tray.draw();
  writeAddress(isNew);
}

/** Another class or truncation: the same seeds in another light. */
function relook() {
  if (state.view === "gallery") gallery.refresh();
  else views[state.view].reset();
  drawn = { [state.view]: look() };
  tray.draw();
  writeAddress();
}

/** All that decides what a view shows. */
const look = () => JSON.stringify([state.model.name, state.version, state.label, state.truncation, state.start]);

function showFrom(seed) {
  state.start = seed;
  find("start").value = seed;
  drawn = {};
  showView("gallery", true);
}
