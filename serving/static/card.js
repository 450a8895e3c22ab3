// What a model is: its data, its training, and how it was judged.

import { notify } from "./messages.js";
import { askJson } from "./server.js";
import { pathOf, state } from "./state.js";

const section = document.querySelector("#card");
const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const count = new Intl.NumberFormat("en");
const COLOURS = { 1: "gray", 3: "colour", 4: "colour and transparency" };

export async function reset() {
  const { model, version } = state;
  section.replaceChildren(make("p", { className: "hint" }, "Reading the card …"));
  try {
    const card = await askJson(pathOf(model, version, "card.json"));
    if (state.model === model && state.version === version) draw(model, version, card);
  } catch (error) {
    section.replaceChildren();
    notify(error, reset);
  }
}

function draw(model, version, card) {
  const training = card.training ?? {};
  const [height, width, channels] = card.image_shape ?? model.image_shape ?? [];
  const classes = card.class_names?.length ? card.class_names : (training.class_names ?? []);
  const facts = {
    Architecture: [card.arch, card.variant].filter(Boolean).join(", "),
    Images: height && `${width} × ${height} pixels, ${COLOURS[channels]}`,
    "Trained on": [training.data, training.num_images && `${count.format(training.num_images)} images`]
      .filter(Boolean)
      .join(", "),
    Classes: classes.join(", "),
    "Trained for":
      card.step === undefined
        ? ""
        : `${count.format(card.step)} steps` + (training.batch_size ? `, ${training.batch_size} images each` : ""),
    Recipe: training.recipe?.source,
    Exported: card.created && new Date(card.created).toLocaleString("en", { dateStyle: "long", timeStyle: "short" }),
    "Made with": Object.entries(card.versions ?? {})
      .map(([name, value]) => `${name} ${value}`)
      .join(", "),
    Signatures: Object.keys(card.signatures ?? {}).join(", "),
    "Data fingerprint": training.data_fingerprint,
  };
  section.replaceChildren(
    make("h2", {}, `${model.name}, version ${version}`),
    make(
      "dl",
      { className: "facts" },
      ...Object.entries(facts)
        .filter(([, value]) => value)
        .flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]),
    ),
    ...(card.report?.metrics
      ? drawReport(card.report)
      : [
          make(
            "p",
            { className: "hint" },
            "It has not been judged yet. ",
            make("code", {}, "python -m evaluation.report"),
            " does so.",
          ),
        ]),
    make("p", {}, make("a", { href: pathOf(model, version, "card.json"), target: "_blank" }, "All of it, as JSON")),
  );
}

function drawReport(report) {
  const answers = Object.values(report.verdict ?? {}).map(({ sentence }) => make("li", {}, sentence));
  const rows = Object.values(report.metrics).map((metric) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, metric.label, make("small", {}, metric.how_to_read ?? "")),
      make("td", { className: "value" }, figure(metric.value)),
      cell("95% interval", range(metric.interval)),
      cell("Real images reach", reached(metric)),
      cell("Better", metric.better ?? ""),
    ),
  );
  const heads = ["Measure", "Value", "95% interval", "Real images reach", "Better"];
  return [
    make("h2", {}, "How it was judged"),
    ...(answers.length ? [make("ul", { className: "verdict" }, ...answers)] : []),
    make(
      "table",
      { className: "metrics" },
      make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
      make("tbody", {}, ...rows),
    ),
    ...(report.notes ?? []).map((note) => make("p", { className: "hint" }, note)),
  ];
}

function cell(name, text) {
  const made = make("td", {}, text);
  made.dataset.name = name; // shown before it where the table is folded
  return made;
}

const figure = (value) => (typeof value === "number" ? number.format(value) : "");
const range = (interval) => (interval ? `${figure(interval[0])} to ${figure(interval[1])}` : "");
const reached = ({ floor, null: expected, unseen_real: unseen }) => figure(floor?.value ?? expected ?? unseen);

function make(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}
