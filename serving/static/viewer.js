// One image, enlarged, in a dialog: arrow keys go on, Escape goes back to the wall.

import { notify } from "./messages.js";
import { show } from "./pictures.js";
import { copy, curl, saveImage } from "./saving.js";
import { changes, nameOf, path, pin, state, toggleSelected } from "./state.js";

const find = (id) => document.querySelector(`#${id}`);
const dialog = find("viewer");
let seed = 0;

/** @param {{onClose: (seed: number) => void}} handlers */
export function start({ onClose }) {
  const fileName = () => `${state.model.name}-${seed}`;
  find("previous").addEventListener("click", () => turn(-1));
  find("next").addEventListener("click", () => turn(1));
  find("viewer-close").addEventListener("click", () => dialog.close());
  find("viewer-select").addEventListener("click", () => toggleSelected(seed));
  find("viewer-a").addEventListener("click", () => pin("a", state.pins.a === seed ? null : seed));
  find("viewer-b").addEventListener("click", () => pin("b", state.pins.b === seed ? null : seed));
  find("viewer-png").addEventListener("click", () => saveImage({ seed }, fileName()));
  find("viewer-curl").addEventListener("click", () => copy(find("viewer-command").textContent));
  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowLeft") turn(-1);
    else if (event.key === "ArrowRight") turn(1);
    else return;
    event.preventDefault();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
  dialog.addEventListener("close", () => onClose(seed));
  for (const change of ["selection", "pins"]) changes.addEventListener(change, mark);
}

export function open(which) {
  seed = which;
  draw();
  dialog.showModal();
}

function turn(step) {
  seed = Math.max(0, seed + step);
  draw();
}

async function draw() {
  const wanted = seed;
  find("viewer-title").textContent = nameOf(seed);
  find("viewer-command").textContent = curl("image.png", { seed }, `${state.model.name}-${seed}.png`);
  find("previous").disabled = seed === 0;
  mark();
  try {
    await show(find("viewer-image"), path("image.png", { seed }), nameOf(seed), { urgent: true });
  } catch (error) {
    dialog.close();
    notify(error, () => open(wanted));
  }
}

function mark() {
  for (const [id, on] of [
    ["viewer-select", state.selected.has(seed)],
    ["viewer-a", state.pins.a === seed],
    ["viewer-b", state.pins.b === seed],
  ]) {
    find(id).setAttribute("aria-pressed", on);
  }
}
