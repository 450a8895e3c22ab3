// Downloads, and commands to copy.

import { notify, tell } from "./messages.js";
import { load } from "./pictures.js";
import { ask, token } from "./server.js";
import { path, state } from "./state.js";

const SHEET_COLUMNS = 8;
const SHEET_SIDE = 1024; // pixels that a sheet of small images is enlarged to, by a whole factor

function saveBlob(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  tell(`${name} saved`);
}

/** Runs a download and says so if it fails. */
async function attempt(download) {
  try {
    await download();
  } catch (error) {
    notify(error, () => attempt(download));
  }
}

export const saveImage = (parameters, name) =>
  attempt(async () => saveBlob((await load(path("image.png", parameters), { urgent: true })).blob, `${name}.png`));

export const saveFile = (what, parameters, name) =>
  attempt(async () => saveBlob(await (await ask(path(what, parameters))).blob(), name));

/** One PNG of several seeds side by side. */
export const saveSheet = (seeds) =>
  attempt(async () => {
    const pictures = await Promise.all(
      seeds.map(async (seed) => createImageBitmap((await load(path("image.png", { seed }), { urgent: true })).blob)),
    );
    const [{ width, height }] = pictures;
    const columns = Math.min(SHEET_COLUMNS, pictures.length);
    const factor = Math.max(1, Math.floor(SHEET_SIDE / (columns * width)));
    const canvas = document.createElement("canvas");
    canvas.width = columns * width * factor;
    canvas.height = Math.ceil(pictures.length / columns) * height * factor;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.scale(factor, factor);
    pictures.forEach((picture, place) =>
      context.drawImage(picture, (place % columns) * width, Math.floor(place / columns) * height),
    );
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    saveBlob(blob, `${state.model.name}-${seeds.length}-images.png`);
  });

/** The command that gets the same from a terminal. */
export function curl(what, parameters, name) {
  const authorization = token() ? ` -H "Authorization: Bearer $TOKEN"` : "";
  return `curl -o '${name.replaceAll("'", "")}'${authorization} '${new URL(path(what, parameters), document.baseURI)}'`;
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without HTTPS, and not on this machine itself, browsers have no clipboard.
    const field = document.createElement("textarea");
    field.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  tell("Command copied");
}
