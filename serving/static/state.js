// What the page shows. It is kept in the address, so that it can be bookmarked and sent.

export const VIEWS = ["gallery", "walk", "quiz", "card"];

export const state = {
  models: [],
  model: null, // an entry of `models`
  version: null,
  view: "gallery",
  label: "", // "" of a conditional model: the classes in turn
  truncation: 1,
  start: 0,
  pins: { a: null, b: null },
  selected: new Set(), // seeds
};

/** Tells of "selection" and "pins" when they change. */
export const changes = new EventTarget();

export function toggleSelected(seed) {
  if (!state.selected.delete(seed)) state.selected.add(seed);
  changes.dispatchEvent(new Event("selection"));
}

export function pin(end, seed) {
  state.pins[end] = seed;
  changes.dispatchEvent(new Event("pins"));
}

export const randomSeed = () => Math.floor(Math.random() * 1_000_000);

/** A seed of an input field, or null while it holds none. */
export function seedOf(field) {
  return field.value !== "" && field.checkValidity() ? Number(field.value) : null;
}

/** What an image is called, in alternative texts and titles. */
export function nameOf(seed) {
  const { class_names: names = [] } = state.model;
  return [state.model.name, state.label !== "" && names[state.label], `seed ${seed}`].filter(Boolean).join(", ");
}

/** The path of something of the model shown, such as "image.png", with the class and truncation chosen. */
export function path(what, parameters = {}) {
  const { model, version, label, truncation } = state;
  const query = new URLSearchParams(parameters);
  if (label !== "") query.set("label", label);
  if (truncation !== 1) query.set("truncation", truncation);
  return pathOf(model, version, what, query);
}

/** The same with nothing but the version and what is given. */
export function pathOf(model, version, what, query = new URLSearchParams()) {
  query.set("version", version);
  const name = encodeURIComponent(model.name).replaceAll("'", "%27");
  return `models/${name}/${what}?${query}`;
}

/** Whether the images are of so few pixels that each of them should be seen. */
export const isSmall = () => Math.max(...(state.model.image_shape ?? [0]).slice(0, 2)) <= 64;

export function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const number = (key, most) => {
    const value = given.has(key) ? Number(given.get(key)) : NaN;
    return value >= 0 && value <= most ? value : null;
  };
  const seed = (key) =>
    Number.isInteger(number(key, Number.MAX_SAFE_INTEGER)) ? number(key, Number.MAX_SAFE_INTEGER) : null;
  return {
    model: given.get("model"),
    version: number("version", Number.MAX_SAFE_INTEGER),
    view: VIEWS.includes(given.get("view")) ? given.get("view") : "gallery",
    label: given.get("label") ?? "",
    truncation: number("truncation", 1) ?? 1,
    start: seed("from") ?? 0,
    pins: { a: seed("a"), b: seed("b") },
  };
}

/** Writes the state into the address: as a new entry of the history, or in place of the present one. */
export function writeAddress(asNewEntry = false) {
  const { model, version, view, label, truncation, start, pins } = state;
  const query = new URLSearchParams({ model: model.name, view });
  if (version !== model.versions.at(-1)) query.set("version", version);
  if (label !== "") query.set("label", label);
  if (truncation !== 1) query.set("truncation", truncation);
  if (start) query.set("from", start);
  for (const end of ["a", "b"]) if (pins[end] !== null) query.set(end, pins[end]);
  history[asNewEntry ? "pushState" : "replaceState"](null, "", `#${query}`);
}
