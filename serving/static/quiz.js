// "Which one is real?": one image of the model beside one that it never saw.

import { notify } from "./messages.js";
import { load } from "./pictures.js";
import { askJson } from "./server.js";
import { pathOf, randomSeed, state } from "./state.js";

const find = (id) => document.querySelector(`#${id}`);
const sides = [...document.querySelectorAll(".pair button")];
const scores = new Map(); // model: [true, false, ...]
let round = randomSeed();
let answered = true;

export function start() {
  for (const side of sides) side.addEventListener("click", () => choose(side.dataset.side));
  find("quiz-next").addEventListener("click", deal);
  document.addEventListener("keydown", (event) => {
    if (state.view !== "quiz" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("select, input, [role=tablist], dialog")) return;
    const side = { ArrowLeft: "left", ArrowRight: "right" }[event.key];
    if (!side || answered) return;
    event.preventDefault();
    choose(side);
  });
}

/** Shows the quiz of the model, or why it has none. */
export function reset() {
  find("quiz-game").hidden = !state.model.has_reals;
  find("quiz-none").hidden = state.model.has_reals;
  find("quiz-credit").textContent = "";
  drawScore();
  if (state.model.has_reals) deal();
}

const pathTo = (what) =>
  pathOf(
    state.model,
    state.version,
    `quiz/${round}${what}`,
    new URLSearchParams(state.label !== "" ? { label: state.label } : {}),
  );

async function deal() {
  round++;
  answered = true; // until both are there
  find("quiz-next").hidden = true;
  find("quiz-answer").textContent = "";
  find("quiz-answer").className = "answer";
  for (const side of sides) {
    side.disabled = true;
    side.className = "";
    side.querySelector("img").removeAttribute("src");
  }
  const dealt = round;
  try {
    const pair = await Promise.all(sides.map((side) => load(pathTo(`/${side.dataset.side}.png`), { urgent: true })));
    if (dealt !== round) return;
    sides.forEach((side, place) => {
      side.querySelector("img").src = pair[place].url;
      side.disabled = false;
    });
    answered = false;
  } catch (error) {
    notify(error, deal);
  }
}

async function choose(choice) {
  if (answered) return;
  answered = true;
  try {
    const result = await askJson(pathTo(""), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ choice }),
    });
    showResult(choice, result);
  } catch (error) {
    notify(error, () => {
      answered = false;
      choose(choice);
    });
  }
}

function showResult(choice, { correct, real, credit }) {
  scoresOf().push(correct);
  for (const side of sides) {
    side.classList.add(side.dataset.side === real ? "real" : "made");
    side.classList.toggle("chosen", side.dataset.side === choice);
    side.disabled = true;
  }
  find("quiz-answer").textContent = `${correct ? "Right" : "Wrong"}: the real one is on the ${real}.`;
  find("quiz-answer").classList.add(correct ? "good" : "bad");
  find("quiz-credit").textContent = credit ? `Real images: ${credit}` : "";
  drawScore();
  find("quiz-next").hidden = false;
  find("quiz-next").focus({ preventScroll: true });
}

function scoresOf() {
  if (!scores.has(state.model.name)) scores.set(state.model.name, []);
  return scores.get(state.model.name);
}

function drawScore() {
  const rounds = scoresOf();
  const right = rounds.filter(Boolean).length;
  find("quiz-score").textContent = rounds.length
    ? `${right} of ${rounds.length} right. Guessing gets half of them.`
    : "";
  find("quiz-rounds").replaceChildren(
    ...rounds.slice(-20).map((correct) => {
      const item = document.createElement("li");
      item.className = correct ? "good" : "bad";
      item.textContent = correct ? "✓" : "✗";
      item.ariaLabel = correct ? "right" : "wrong";
      return item;
    }),
  );
}
