const list = root.querySelector(".conversations");
const talk = root.querySelector(".talk");
const form = root.querySelector(".composer");
const field = form.querySelector("textarea");
const count = form.querySelector("select");
const sendButton = form.querySelector(".send");
const stopButton = form.querySelector(".stop");

let state = { conversations: [], current: null, live: null };
let order = {}; // prompt id -> tiers of response ids, as ranked so far
let editing = null; // response id
let watching = false;

const remembered = () => Number(sessionStorage.getItem("conversation")) || null;

function ranksOf(turn) {
  const ranks = {};
  (order[turn.id] || []).forEach((tier, i) => tier.forEach((id) => (ranks[id] = i + 1)));
  return ranks;
}

async function rank(turn, responseId, tie = false) {
  const tiers = (order[turn.id] || []).map((tier) => tier.filter((id) => id !== responseId)).filter((t) => t.length);
  const was = (order[turn.id] || []).flat().includes(responseId);
  if (!was || tie) tie && tiers.length ? tiers[tiers.length - 1].push(responseId) : tiers.push([responseId]);
  const left = turn.responses.map((r) => r.id).filter((id) => !tiers.flat().includes(id));
  if (left.length === 1 && tiers.length && !was) tiers.push(left);
  order[turn.id] = tiers;
  draw();
  if (!tiers.length) return notice("The saved ranking stands until you rank again. Undo takes it back.");
  // What was not ranked is tied below what was.
  const rest = turn.responses.map((r) => r.id).filter((id) => !tiers.flat().includes(id));
  saved(await call("rank", turn.id, rest.length ? [...tiers, rest] : tiers), "Ranking saved ✓");
}

function saved(answer, text) {
  if (!answer) return;
  state.counts = answer.counts;
  notice(text);
  draw();
}

async function rate(response, score) {
  const answer = await call("rate", response.id, score);
  if (answer) response.rating = score;
  saved(answer, "Rating saved ✓");
}

async function saveEdit(response, text) {
  if (text.trim() === (response.edit || response.text)) return closeEdit();
  const answer = await call("edit", response.id, text);
  if (!answer) return;
  response.edit = text.trim();
  editing = null;
  saved(answer, "Edit saved ✓");
}

function closeEdit() {
  editing = null;
  draw();
}

async function undo() {
  const answer = await call("undo");
  if (!answer) return;
  notice(answer.undone ? `Taken back: ${answer.undone}` : "There is nothing to undo.");
  await load(state.current?.id);
}

function card(turn, response, index, ranks) {
  const live = response.id === undefined;
  const rankOf = ranks[response.id];
  const body = el("div", { class: "text" });
  body.textContent = response.edit || response.text || (live ? "…" : "(empty answer)");
  if (live) return el("article", { class: "card live", "aria-busy": "true" }, el("header", {}, `Answer ${index + 1}`), body);
  if (editing === response.id) {
    const area = el("textarea", { rows: 5, "aria-label": "Rewrite this answer" });
    area.value = response.edit || response.text;
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") closeEdit();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) saveEdit(response, area.value);
    });
    setTimeout(() => area.focus(), 0);
    return el(
      "article",
      { class: "card editing" },
      el("header", {}, "Rewrite the answer as it should be"),
      area,
      el(
        "footer",
        {},
        el("button", { class: "primary save-edit", onclick: () => saveEdit(response, area.value) }, "Save"),
        el("button", { onclick: closeEdit }, "Cancel"),
      ),
    );
  }
  const chosen = turn.chosen === response.id;
  return el(
    "article",
    { class: `card${rankOf ? " ranked" : ""}${rankOf === 1 ? " best" : ""}${chosen ? " chosen" : ""}` },
    el(
      "header",
      {},
      turn.responses.length > 1 &&
        el(
          "button",
          {
            class: "rank",
            title: `Rank this answer next (key ${index + 1}; shift-click for a tie)`,
            "aria-label": rankOf ? `Answer ${index + 1}, rank ${rankOf}` : `Rank answer ${index + 1}`,
            onclick: (event) => rank(turn, response.id, event.shiftKey),
          },
          rankOf ? `#${rankOf}` : `${index + 1}`,
        ),
      response.edit && el("span", { class: "tag" }, "edited"),
      response.finish === "cancelled" && el("span", { class: "tag" }, "stopped"),
      response.finish === "length" && el("span", { class: "tag" }, "cut off"),
    ),
    body,
    el(
      "footer",
      {},
      el("button", { class: `icon${response.rating === 5 ? " on" : ""}`, "aria-pressed": response.rating === 5 ? "true" : "false", "aria-label": "Good answer", onclick: () => rate(response, 5) }, "Good"),
      el("button", { class: `icon${response.rating === 1 ? " on" : ""}`, "aria-pressed": response.rating === 1 ? "true" : "false", "aria-label": "Bad answer", onclick: () => rate(response, 1) }, "Bad"),
      el("button", { class: "edit", onclick: () => ((editing = response.id), draw()) }, "Edit"),
      turn.last && el("button", { class: "go-on", title: "The conversation goes on from this answer", onclick: () => goOn(turn, response) }, chosen ? "Goes on ✓" : "Go on with this"),
    ),
  );
}

function goOn(turn, response) {
  turn.chosen = response.id;
  draw();
  field.focus();
}

function draw() {
  fill(
    list,
    state.conversations.map((c) =>
      el("button", { class: `conversation${c.id === state.current?.id ? " here" : ""}`, title: c.title, onclick: () => load(c.id) }, c.title),
    ),
  );
  const turns = state.current?.turns || [];
  const parts = turns.map((turn, i) => {
    turn.last = i === turns.length - 1;
    const ranks = ranksOf(turn);
    const live = state.live && state.live.prompt_id === turn.id;
    const shown = live ? state.live.texts.map((text) => ({ text })) : turn.responses;
    const ask = el("div", { class: "ask" });
    ask.textContent = turn.text;
    return el(
      "section",
      { class: "turn" },
      ask,
      el("div", { class: `cards n${shown.length}` }, shown.map((r, n) => card(turn, r, n, ranks))),
      !live && !shown.length && el("p", { class: "hint" }, "This question was not answered. Ask it again below."),
      turn.last && !live && shown.length > 1 && el("p", { class: "hint" }, "Rank the answers: click the numbers from best to worst, or press 1 to 4. Shift ties. Z undoes."),
    );
  });
  if (!parts.length)
    parts.push(
      el(
        "div",
        { class: "empty" },
        el("h2", {}, "Ask the model something"),
        el("p", {}, "It answers several times. Rank the answers, or rewrite one, and it learns what you like."),
        el("div", { class: "ideas" }, ["What is the capital of France?", "I feel sad.", "Tell me a joke about a cow.", "How do I make tea?"].map((idea) => el("button", { onclick: () => send(idea) }, idea))),
      ),
    );
  fill(talk, parts);
  stopButton.hidden = !state.live;
  sendButton.hidden = !!state.live;
  root.querySelector(".model").textContent = state.model || "";
  root.querySelector(".counts").textContent = state.counts ? `${state.counts.ranking} rankings · ${state.counts.edit} edits · ${state.counts.rating} ratings` : "";
}

async function load(id) {
  const answer = await call("load", id ?? null);
  if (!answer) return;
  state = answer;
  order = {};
  for (const turn of state.current?.turns || []) order[turn.id] = turn.tiers;
  sessionStorage.setItem("conversation", state.current?.id || "");
  draw();
  talk.scrollTop = talk.scrollHeight;
  if (state.live) watch();
}

async function watch() {
  if (watching) return;
  watching = true;
  while (here() && state.live) {
    const answer = await call("poll", state.live.prompt_id);
    if (!answer) break;
    if (answer.problem) notice(answer.problem, "error");
    if (answer.done) {
      watching = false;
      return load(state.current.id);
    }
    state.live.texts = answer.texts;
    const cards = talk.querySelectorAll(".card.live .text");
    if (cards.length !== answer.texts.length) draw();
    else cards.forEach((node, i) => (node.textContent = answer.texts[i] || "…"));
    await sleep(60);
  }
  watching = false;
}

async function send(text) {
  text = text.trim();
  if (!text || state.live) return;
  const turns = state.current?.turns || [];
  const last = turns[turns.length - 1];
  const best = last && (last.chosen || (order[last.id] || [])[0]?.[0] || last.responses[0]?.id);
  sendButton.disabled = true;
  const answer = await call("ask", { conversation: state.current?.id ?? null, parent: best ?? null, text, count: Number(count.value) });
  sendButton.disabled = false;
  if (!answer) return;
  field.value = "";
  await load(answer.conversation);
}

form.addEventListener("submit", (event) => (event.preventDefault(), send(field.value)));
field.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send(field.value);
  }
});
stopButton.addEventListener("click", () => call("halt", state.live?.prompt_id));
root.querySelector(".new").addEventListener("click", () => {
  sessionStorage.removeItem("conversation");
  state.current = null;
  load(-1).then(() => field.focus());
});
root.querySelector(".undo").addEventListener("click", undo);

function keys(event) {
  if (!here()) return document.removeEventListener("keydown", keys);
  if (typing() || event.ctrlKey || event.metaKey || event.altKey) return;
  const turns = state.current?.turns || [];
  const turn = turns[turns.length - 1];
  const number = Number(event.code?.replace("Digit", ""));
  if (turn && number >= 1 && number <= turn.responses.length && turn.responses.length > 1) {
    event.preventDefault();
    rank(turn, turn.responses[number - 1].id, event.shiftKey);
  }
  if (event.key === "z") undo();
  if (event.key === "n") {
    event.preventDefault();
    field.focus();
  }
}
document.addEventListener("keydown", keys);
count.value = localStorage.getItem("candidates") || "4";
count.addEventListener("change", () => localStorage.setItem("candidates", count.value));
load(remembered());
