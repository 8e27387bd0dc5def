const sets = root.querySelector("select.sets");
const goal = root.querySelector("input.goal");
const itemBox = root.querySelector(".item");
const pace = root.querySelector(".pace");
const progress = root.querySelector(".progress");
const help = root.querySelector("dialog.keys");

let now = null; // what the studio said last
let item = null; // on the screen
let tiers = []; // as ranked so far
let focus = 0; // the card that E edits
const alone = oneAtATime();

const KEYS = [
  ["1 – 4", "rank: press the numbers from best to worst"],
  ["Shift + 1 – 4", "tie with the one before"],
  ["Enter", "save and go on"],
  ["S", "skip"],
  ["← →", "choose a card"],
  ["E", "rewrite the chosen card; Ctrl + Enter saves, Esc leaves"],
  ["R", "start this ranking anew"],
  ["Z", "undo, back to the item before"],
  ["?", "these keys"],
];

const chosenSet = () => localStorage.getItem("label-set") || "everyday";
/** Where the queue stands, and the next item. */
const standing = () => call("state", chosenSet(), chatSettings());
const ids = () => item.responses.map((r) => r.id);

function take(answer) {
  if (!answer) return;
  now = answer;
  if (answer.problem) notice(answer.problem, "error");
  show(answer.item);
}

function show(next) {
  item = next;
  tiers = [];
  focus = 0;
  draw();
  if (!item) waitForMore();
}

let waiting = false;
async function waitForMore() {
  if (waiting) return;
  waiting = true;
  let pause = 250;
  while (here() && !item) {
    await sleep(pause);
    const answer = await standing();
    pause = answer && !answer.problem ? 250 : Math.min(2 * pause, 8000); // what went wrong may pass
    if (!answer || item) continue;
    now = answer;
    if (answer.problem) notice(answer.problem, "error");
    if (answer.item) show(answer.item);
    else {
      drawWriting();
      if (!answer.left && !answer.problem) break;
    }
  }
  waiting = false;
}

const next = alone(async () => {
  if (!item) return;
  if (!tiers.length) return notice("Press a number first: the best answer's. S skips.");
  const answer = (await saveEdits()) && (await call("rank", chosenSet(), item.id, completed(tiers, ids())));
  if (!answer) return;
  take(answer);
  notice("Saved ✓");
});

const skip = alone(async () => {
  if (item) take((await saveEdits()) && (await call("skip", chosenSet(), item.id)));
});

const undo = alone(async () => {
  if (tiers.length) return (tiers = tiers.slice(0, -1)), draw();
  const answer = await call("undo", chosenSet());
  if (!answer) return;
  notice(answer.undone ? "Taken back." : "There is nothing to undo.");
  take(answer);
});

function rank(index, tie) {
  if (!item || index >= item.responses.length) return;
  focus = index;
  tiers = placed(tiers, item.responses[index].id, tie);
  const left = ids().filter((id) => !tiers.flat().includes(id));
  if (left.length === 1 && tiers.length) tiers = [...tiers, left];
  draw();
}

function rewrite() {
  const response = item.responses[focus];
  openDraft(itemBox, `edit ${response.id}`, response.edit || response.text, draw);
}

async function saveEdit(response, text) {
  if (text.trim() !== (response.edit || response.text)) {
    if (!(await call("edit", response.id, text))) return false;
    response.edit = text.trim();
    notice("Edit saved ✓");
  }
  keepDraft(`edit ${response.id}`, null);
  draw();
  return true;
}

/** Save what is being rewritten before the item goes; whether all of it could be. */
async function saveEdits() {
  for (const response of item.responses) {
    const text = drafts[`edit ${response.id}`];
    if (text !== undefined && !(await saveEdit(response, text))) return false;
  }
  return true;
}

function card(response, index, ranks) {
  const rankOf = ranks[response.id];
  const here = index === focus;
  const number = el("button", { class: "rank", "aria-label": rankOf ? t("Answer {n}, rank {rank}", { n: index + 1, rank: rankOf }) : t("Rank answer {n}", { n: index + 1 }), onclick: (e) => rank(index, e.shiftKey) }, rankOf ? `#${rankOf}` : `${index + 1}`);
  const head = el("header", {}, number, response.edit && el("span", { class: "tag", title: response.text }, t("edited")), response.finish === "length" && el("span", { class: "tag" }, t("cut off")));
  if (`edit ${response.id}` in drafts) return el("article", { class: "card editing" }, head, rewriting(response, (text) => saveEdit(response, text), draw));
  return el("article", { class: `card${rankOf ? " ranked" : ""}${rankOf === 1 ? " best" : ""}${here ? " focused" : ""}`, onclick: (e) => e.target.closest("button") || ((focus = index), draw()) }, head, response.edit ? verbatim("div", response.edit) : answered(response.text, response.html));
}

/** What there is instead of an item: its question while the answers are being written, or why there is none. */
function drawWriting() {
  if (now && !now.left) {
    const done = now.done;
    return fill(itemBox, el("div", { class: "empty" }, el("h2", {}, t(done ? "You have been through every question" : "There are no questions here yet")), el("p", {}, t(done ? "Improve the model on the Train page, then come back: its new answers wait for you." : "Bring some in on the Data page, or choose the built-in ones.")), el("a", { class: "button primary", href: done ? "/train" : "/data" }, t(done ? "Go to Train" : "Go to Data"))));
  }
  const { question = "", characters = 0 } = now?.writing ?? {};
  let count = itemBox.querySelector(".written");
  if (!count || itemBox.dataset.question !== question) {
    count = el("span", { class: "written", "aria-hidden": "true" }); // else a screen reader would read every number
    fill(itemBox, el("div", { class: "row" }), question && verbatim("div", question, "ask"), el("p", { class: "hint" }, t("The model is writing answers …"), " ", count));
    itemBox.dataset.question = question;
  }
  count.textContent = characters ? t("{n} characters so far", { n: characters }) : "";
}

function draw() {
  itemBox.dataset.item = item?.id ?? "";
  const done = now?.done ?? 0, wanted = Math.max(1, Number(goal.value) || 50);
  progress.firstElementChild.style.width = `${Math.min(100, (100 * done) / wanted)}%`;
  progress.setAttribute("aria-valuenow", String(done));
  progress.setAttribute("aria-valuemax", String(wanted));
  const left = now?.pace && done < wanted ? t(", about {time} to go", { time: duration(now.pace * (wanted - done)) }) : "";
  pace.textContent = t("{done} of {goal}", { done, goal: wanted }) + (now?.pace ? t(" · {time} each", { time: duration(now.pace) }) : "") + left;
  if (now) fill(sets, now.sets.map(([key, label]) => el("option", { value: key, selected: key === now.set }, t(label))));
  if (!item) return drawWriting();
  const ranks = ranksOf(tiers);
  refill(
    itemBox,
    el("div", { class: "row" }, item.again && el("span", { class: "tag again" }, t("Once more, to see how steady your taste is")), now.informed && el("span", { class: "tag" }, t("The reward model is unsure here")), item.responses.some((r) => r.finish === "length") && el("span", { class: "hint" }, t("Some were cut off. The settings in Chat say how long an answer may be."))),
    verbatim("div", item.text, "ask"),
    el("div", { class: `cards n${item.responses.length}` }, item.responses.map((r, i) => card(r, i, ranks))),
    el("div", { class: "row" }, el("button", { class: "primary next", disabled: !tiers.length, onclick: next }, t("Save and next (Enter)")), el("button", { class: "skip", onclick: skip }, t("Skip (S)")), el("span", { class: "hint" }, t("Best first: 1 to 4. Shift ties. What you leave out is tied below."))),
  );
}

onKeys((event) => {
  const key = keyOf(event), number = digit(event);
  // A button's own Enter; the one in a dialog that has just been closed keeps the focus until the next frame.
  if (key === "Enter" && document.activeElement?.closest?.("button, a")?.checkVisibility()) return null;
  if (number) return () => rank(number - 1, event.shiftKey);
  return {
    Enter: next, s: skip, z: undo, "?": () => help.showModal(), r: () => ((tiers = []), draw()),
    e: () => item && rewrite(),
    ArrowRight: () => item && ((focus = (focus + 1) % item.responses.length), draw()),
    ArrowLeft: () => item && ((focus = (focus + item.responses.length - 1) % item.responses.length), draw()),
  }[key]; // prettier-ignore
});

fill(help.querySelector("dl"), KEYS.map(([key, what]) => [el("dt", {}, key), el("dd", {}, t(what))]));
help.querySelector(".close").addEventListener("click", () => help.close());
root.querySelector(".help").addEventListener("click", () => help.showModal());
root.querySelector(".undo").addEventListener("click", undo);
sets.addEventListener("change", () => (localStorage.setItem("label-set", sets.value), standing().then(take)));
goal.value = localStorage.getItem("label-goal") || "50";
goal.addEventListener("change", () => (localStorage.setItem("label-goal", goal.value), draw()));
standing().then(take);
