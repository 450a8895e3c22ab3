// The way from one image to another through the latent space.

import { notify } from "./messages.js";
import { load, show } from "./pictures.js";
import { copy, curl, saveFile, saveImage } from "./saving.js";
import { changes, nameOf, path, pin, randomSeed, seedOf, state } from "./state.js";

const STEPS = 24;
const STRIP = 4; // every fourth step is shown in the strip
const FRAME_MILLISECONDS = 80;

const find = (id) => document.querySelector(`#${id}`);
const slider = find("walk-slider");
let direction = 1;
let timer = 0;
let stop = new AbortController();

const parametersAt = (step) => {
  const { a, b } = state.pins;
  if (step === 0) return { seed: a };
  if (step === STEPS) return { seed: b };
  return { seed: a, seed_b: b, t: step / STEPS };
};
const pathAt = (step) => path("image.png", parametersAt(step));
const placeOf = (step) =>
  `${Math.round((100 * step) / STEPS)}% of the way from seed ${state.pins.a} to seed ${state.pins.b}`;

export function start() {
  slider.max = STEPS;
  slider.addEventListener("input", () => {
    pause();
    draw();
  });
  find("play").addEventListener("click", () => (timer ? pause() : play()));
  find("walk-png").addEventListener("click", () => {
    const { a, b } = state.pins;
    saveImage(parametersAt(Number(slider.value)), `${state.model.name}-${a}-to-${b}-${slider.value}`);
  });
  const animation = () => [
    "walk.webp",
    { seed_a: state.pins.a, seed_b: state.pins.b, frames: STEPS + 1 },
    `${state.model.name}-${state.pins.a}-to-${state.pins.b}.webp`,
  ];
  find("walk-webp").addEventListener("click", () => saveFile(...animation()));
  find("walk-curl").addEventListener("click", () => copy(curl(...animation())));
  for (const form of document.querySelectorAll("form.end")) {
    const field = form.querySelector("input");
    form.addEventListener("submit", (event) => event.preventDefault());
    field.addEventListener("change", () => seedOf(field) !== null && pin(form.dataset.end, seedOf(field)));
    form.querySelector("button").addEventListener("click", () => pin(form.dataset.end, randomSeed()));
  }
  for (let step = 0; step <= STEPS; step += STRIP) find("strip").append(makeStill(step));
  changes.addEventListener("pins", () => state.view === "walk" && reset());
}

/** Shows the walk between the pins; an end that is not pinned yet is the first or second image of the wall. */
export function reset() {
  state.pins.a ??= state.start;
  state.pins.b ??= state.start + 1;
  leave();
  stop = new AbortController();
  for (const form of document.querySelectorAll("form.end")) {
    const seed = state.pins[form.dataset.end];
    form.querySelector("input").value = seed;
    put(form.querySelector("img"), path("image.png", { seed }), nameOf(seed));
  }
  for (const still of find("strip").children) {
    put(still.querySelector("img"), pathAt(Number(still.dataset.step)), "");
  }
  draw();
  // The others while nobody waits for them, so that the slider and the player find them there.
  for (let step = 0; step <= STEPS; step++) load(pathAt(step), { signal: stop.signal }).catch(() => {});
}

/** Stops everything that goes on. */
export function leave() {
  pause();
  stop.abort();
}

function put(image, wanted, alt, urgent = false) {
  show(image, wanted, alt, { signal: stop.signal, urgent }).catch((error) => notify(error, reset));
}

function draw() {
  const step = Number(slider.value);
  slider.setAttribute("aria-valuetext", placeOf(step));
  put(find("walk-image"), pathAt(step), `${state.model.name}, ${placeOf(step)}`, true);
  for (const still of find("strip").children) {
    still.setAttribute("aria-current", Number(still.dataset.step) === step);
  }
}

function makeStill(step) {
  const still = document.createElement("button");
  still.type = "button";
  still.dataset.step = step;
  still.ariaLabel = `Go to ${Math.round((100 * step) / STEPS)}%`;
  const image = document.createElement("img");
  image.alt = "";
  still.append(image);
  still.addEventListener("click", () => {
    pause();
    slider.value = step;
    draw();
  });
  return still;
}

function play() {
  find("play").textContent = "Pause";
  find("play").setAttribute("aria-pressed", "true");
  timer = setInterval(advance, FRAME_MILLISECONDS);
}

function pause() {
  clearInterval(timer);
  timer = 0;
  find("play").textContent = "Play";
  find("play").setAttribute("aria-pressed", "false");
}

function advance() {
  const image = find("walk-image");
  if (image.dataset.path !== pathAt(Number(slider.value)) || !image.complete) return; // still on its way
  if (Number(slider.value) + direction < 0 || Number(slider.value) + direction > STEPS) direction = -direction;
  slider.value = Number(slider.value) + direction;
  draw();
}
