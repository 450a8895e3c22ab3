// The bar at the bottom: what is selected and pinned, and what to do with it.

import { load } from "./pictures.js";
import { saveFile, saveImage, saveSheet } from "./saving.js";
import { changes, nameOf, path, pin, state } from "./state.js";

const find = (id) => document.querySelector(`#${id}`);
let walk = () => {};

/** @param {{walk: () => void}} handlers - walk: shows the walk between the pins. */
export function start(handlers) {
  ({ walk } = handlers);
  const seeds = () => [...state.selected].sort((first, second) => first - second);
  find("save-png").addEventListener("click", () => {
    const [first, ...others] = seeds();
    if (others.length) saveSheet([first, ...others]);
    else saveImage({ seed: first }, `${state.model.name}-${first}`);
  });
  find("save-zip").addEventListener("click", () =>
    saveFile("images.zip", { seeds: seeds() }, `${state.model.name}.zip`),
  );
  find("clear").addEventListener("click", () => {
    state.selected.clear();
    changes.dispatchEvent(new Event("selection"));
  });
  for (const change of ["selection", "pins"]) changes.addEventListener(change, draw);
}

/** Shows the bar where there is something in it; the walk has the pins in front of it anyway. */
export function draw() {
  const hadFocus = find("tray").contains(document.activeElement);
  const count = state.selected.size;
  const pins = ["a", "b"].filter((end) => state.pins[end] !== null);
  const shown = state.view === "gallery" && Boolean(count || pins.length);
  find("tray").hidden = !shown;
  document.body.classList.toggle("with-tray", shown);
  if (shown) fill(count, pins);
  // What was pressed may be gone: do not leave the keyboard in the void.
  if (hadFocus && !find("tray").contains(document.activeElement)) {
    document.querySelector(shown ? "#tray button:not(:disabled)" : '#tiles button[tabindex="0"]')?.focus();
  }
}

function fill(count, pins) {
  find("tray-selection").hidden = !count;
  find("tray-count").textContent = `${count} selected`;
  find("save-png").textContent = count > 1 ? "Save sheet" : "Save PNG";
  find("tray-pins").hidden = !pins.length;
  const children = pins.map(makePin);
  if (pins.length) {
    const go = document.createElement("button");
    go.type = "button";
    go.className = "primary";
    go.textContent = pins.length === 2 ? "Walk from A to B" : "Pin another to walk";
    go.disabled = pins.length < 2;
    go.addEventListener("click", () => walk());
    children.push(go);
  }
  find("tray-pins").replaceChildren(...children);
}

function makePin(end) {
  const seed = state.pins[end];
  const button = document.createElement("button");
  button.type = "button";
  button.className = "pin";
  button.ariaLabel = `${end.toUpperCase()} is seed ${seed}. Unpin it`;
  button.title = "Unpin";
  const image = document.createElement("img");
  image.alt = "";
  load(path("image.png", { seed }), { urgent: true }).then(
    ({ url }) => (image.src = url),
    () => (button.title = nameOf(seed)), // the wall tells what is wrong
  );
  button.append(image, end.toUpperCase());
  button.addEventListener("click", () => pin(end, null));
  return button;
}
