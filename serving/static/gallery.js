// The wall of seeds: it grows as one scrolls, and only what is near the window is requested.

import { announce } from "./messages.js";
import { show } from "./pictures.js";
import { changes, nameOf, path, pin, state, toggleSelected } from "./state.js";

const PAGE = 24;

const list = document.querySelector("#tiles");
const more = document.querySelector("#more");
let open = () => {};

const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) fill(target);
      else target.stop?.abort();
    }
  },
  { rootMargin: "400px 0px" },
);
// A busy page hears of several changes at once: the last is how things are now.
const end = new IntersectionObserver((entries) => entries.at(-1).isIntersecting && grow(), {
  rootMargin: "600px 0px",
});

/** @param {{open: (seed: number) => void}} handlers - open: enlarges an image. */
export function start(handlers) {
  ({ open } = handlers);
  end.observe(more);
  more.addEventListener("click", () => {
    const place = list.children.length;
    grow();
    focus(place);
  });
  list.addEventListener("keydown", onKey);
  list.addEventListener(
    "keyup",
    (event) => event.key === " " && event.target.matches("button") && event.preventDefault(),
  );
  changes.addEventListener("selection", () => {
    for (const tile of list.children) mark(tile);
  });
  changes.addEventListener("pins", () => {
    for (const tile of list.children) mark(tile);
  });
}

/** Begins anew at `state.start`. */
export function reset() {
  for (const tile of list.children) tile.stop?.abort();
  near.disconnect();
  list.replaceChildren();
  grow();
}

/** Requests the images of the same seeds again, since the class or the truncation is another one. */
export function refresh() {
  for (const tile of list.children) {
    tile.stop?.abort();
    near.unobserve(tile);
    near.observe(tile);
  }
}

/** Moves the focus to a seed, if it is on the wall or next on it. */
export function focusSeed(seed) {
  const place = seed - state.start;
  if (place < 0) return list.firstElementChild?.querySelector("button").focus();
  if (place > list.children.length + PAGE) return;
  focus(place);
}

function grow() {
  const from = state.start + list.children.length;
  for (let seed = from; seed < from + PAGE && seed <= Number.MAX_SAFE_INTEGER; seed++) {
    const tile = makeTile(seed);
    list.append(tile);
    near.observe(tile);
  }
  // It tells only of changes: ask again, in case the end is still in sight.
  end.unobserve(more);
  end.observe(more);
  announce(`${list.children.length} images of ${state.model.name}, from seed ${state.start}`);
}

function makeTile(seed) {
  const tile = document.createElement("li");
  tile.seed = seed;
  tile.className = "tile";
  const button = document.createElement("button");
  button.type = "button";
  button.tabIndex = list.children.length ? -1 : 0; // one stop for the Tab key, the arrows move on
  const image = document.createElement("img");
  image.alt = nameOf(seed);
  button.append(image);
  button.addEventListener("click", () => (tile.classList.contains("failed") ? fill(tile) : open(seed)));
  const tick = document.createElement("label");
  tick.className = "tick";
  const box = document.createElement("input");
  box.type = "checkbox";
  box.tabIndex = -1;
  box.ariaLabel = `Select seed ${seed}`;
  box.addEventListener("change", () => toggleSelected(seed));
  tick.append(box);
  const pinned = document.createElement("span");
  pinned.className = "pinned";
  tile.append(button, tick, pinned);
  mark(tile);
  return tile;
}

function mark(tile) {
  tile.querySelector("input").checked = state.selected.has(tile.seed);
  tile.classList.toggle("selected", state.selected.has(tile.seed));
  tile.querySelector(".pinned").textContent = ["a", "b"]
    .filter((side) => state.pins[side] === tile.seed)
    .join("")
    .toUpperCase();
}

async function fill(tile) {
  const image = tile.querySelector("img");
  const wanted = path("image.png", { seed: tile.seed });
  if (tile.shown === wanted) return;
  tile.stop?.abort();
  tile.stop = new AbortController();
  tile.classList.remove("failed");
  tile.title = "";
  try {
    if (await show(image, wanted, nameOf(tile.seed), { signal: tile.stop.signal })) {
      tile.shown = wanted;
      tile.classList.add("ready");
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    tile.classList.add("failed");
    tile.title = `${error.message} Press to try again.`;
  }
}

function focus(place) {
  while (place >= list.children.length && list.children.length) grow();
  const tile = list.children[Math.max(place, 0)];
  if (!tile) return;
  const button = tile.querySelector("button");
  for (const each of list.querySelectorAll('button[tabindex="0"]')) each.tabIndex = -1;
  button.tabIndex = 0;
  button.focus();
  tile.scrollIntoView({ block: "nearest" });
}

function onKey(event) {
  const tile = event.target.closest(".tile");
  if (!tile || event.ctrlKey || event.metaKey || event.altKey) return;
  const place = [...list.children].indexOf(tile);
  const columns = getComputedStyle(list).gridTemplateColumns.split(" ").length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -place };
  if (event.key in steps) focus(place + steps[event.key] < 0 ? place : place + steps[event.key]);
  else if (event.key === "End") focus(list.children.length - 1);
  else if (event.key === " " && event.target.matches("button")) toggleSelected(tile.seed);
  else if (event.key === "a" || event.key === "b") pin(event.key, tile.seed);
  else return;
  event.preventDefault();
}
