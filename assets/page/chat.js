const list = root.querySelector(".conversations");
const find = root.querySelector(".find");
const talk = root.querySelector(".talk");
const drawer = root.querySelector(".drawer");
const toggle = root.querySelector(".drawer-toggle");
const form = root.querySelector(".composer");
const field = form.querySelector("textarea");
const count = form.querySelector("select");
const sendButton = form.querySelector(".send");
const stopButton = form.querySelector(".stop");

let state = { conversations: [], current: null, live: null };
let order = {}; // prompt id -> tiers of response ids, as ranked so far
let tagging = null; // response id
let renaming = null; // conversation id
let watching = false;
let dragged = null; // response id

const remembered = () => Number(sessionStorage.getItem("conversation")) || null;
const lastTurn = () => (state.current?.turns || []).at(-1);

// ---- Settings, remembered by the browser
const NUMBERS = ["temperature", "top_p", "max_new_tokens", "seed"];
const kept = chatSettings();
const chosenVersion = () => state.versions?.find((v) => v.id === kept.version);
const usual = (name) => (chosenVersion() || state).usual?.[name] ?? "";
function settings() {
  const found = { version: Number(drawer.querySelector(".version").value) || null, system: drawer.querySelector(".system").value };
  for (const name of NUMBERS) {
    const value = drawer.querySelector(`.${name}`).value;
    found[name] = value === "" || Number(value) === usual(name) ? null : Number(value);
  }
  return found;
}
function showSettings() {
  const pick = drawer.querySelector(".version");
  const chosen = chosenVersion();
  fill(pick, el("option", { value: "" }, t("The one in use ({name})", { name: state.model })), state.versions.map((v) => el("option", { value: v.id, selected: v === chosen }, v.name)));
  for (const name of NUMBERS) {
    const box = drawer.querySelector(`.${name}`);
    if (document.activeElement !== box) box.value = kept[name] ?? usual(name);
  }
  if (document.activeElement !== drawer.querySelector(".system")) drawer.querySelector(".system").value = kept.system || "";
}
drawer.addEventListener("change", () => {
  Object.assign(kept, settings());
  localStorage.setItem("chat-settings", JSON.stringify(kept));
  showSettings(); // another version may have another usual temperature
  root.querySelector(".model").textContent = modelName();
});
toggle.addEventListener("click", () => {
  drawer.hidden = !drawer.hidden;
  toggle.setAttribute("aria-expanded", String(!drawer.hidden));
});
const modelName = () => chosenVersion()?.name || state.model || "";

// ---- Feedback
function saved(answer, text) {
  if (!answer) return false;
  if (answer.counts) state.counts = answer.counts;
  const box = root.querySelector(".saved");
  box.textContent = `✓ ${t(text)}`;
  box.classList.remove("fade");
  requestAnimationFrame(() => box.classList.add("fade"));
  draw();
  return true;
}

// Rankings on their way to the studio: one after another, so that the last one stands, and kept by the browser until
// the studio has answered, so that a page that is left at once loses none.
const onTheirWay = JSON.parse(sessionStorage.getItem("rankings") || "{}"); // prompt id -> tiers
let saving = Promise.resolve();
function save(id, tiers) {
  onTheirWay[id] = tiers;
  sessionStorage.setItem("rankings", JSON.stringify(onTheirWay));
  const sent = saving.then(() => call("rank", Number(id), tiers));
  saving = sent.then(() => {
    if (onTheirWay[id] === tiers) delete onTheirWay[id];
    sessionStorage.setItem("rankings", JSON.stringify(onTheirWay));
  });
  return sent;
}
for (const [id, tiers] of Object.entries(onTheirWay)) save(id, tiers);

async function keepOrder(turn, tiers) {
  order[turn.id] = tiers;
  draw();
  if (!tiers.length) return notice("The saved ranking stands until you rank again. Undo takes it back.");
  saved(await save(turn.id, completed(tiers, turn.responses.map((r) => r.id))), "Ranking saved");
}

function rank(turn, id, tie = false) {
  const before = order[turn.id] || [];
  let tiers = placed(before, id, tie);
  const left = turn.responses.map((r) => r.id).filter((other) => !tiers.flat().includes(other));
  if (left.length === 1 && tiers.length && !before.flat().includes(id)) tiers = [...tiers, left];
  keepOrder(turn, tiers);
}

/** Put the dragged answer in front of another (behind it, if it came from in front); the order on the screen is the ranking. */
function drop(turn, onto) {
  if (dragged === null || dragged === onto) return;
  const ids = turn.responses.map((r) => r.id);
  if (!ids.includes(dragged)) return;
  const forward = ids.indexOf(dragged) < ids.indexOf(onto);
  const rest = ids.filter((id) => id !== dragged);
  rest.splice(rest.indexOf(onto) + (forward ? 1 : 0), 0, dragged);
  turn.responses.sort((a, b) => rest.indexOf(a.id) - rest.indexOf(b.id));
  keepOrder(turn, rest.map((id) => [id]));
}

/** A star or thumb that is on is taken off by another click. */
async function rate(response, score) {
  const off = response.rating === score;
  const answer = off ? await call("unrate", response.id) : await call("rate", response.id, score);
  if (answer) response.rating = off ? null : score;
  saved(answer, off ? "Rating taken off" : "Rating saved");
}

async function saveEdit(response, text) {
  const changed = text.trim() !== (response.edit || response.text);
  const answer = changed ? await call("edit", response.id, text) : {};
  if (!answer) return;
  keepDraft(`edit ${response.id}`, null);
  if (!changed) return draw();
  response.edit = text.trim();
  saved(answer, "Edit saved");
}

async function saveComment(response, text) {
  const answer = await call("comment", response.id, text);
  if (!answer) return;
  keepDraft(`comment ${response.id}`, null);
  response.comment = text.trim();
  saved(answer, "Comment saved");
}

async function toggleTag(response, name) {
  const has = response.tags.find((one) => one.tag === name);
  const answer = has ? await call("untag", has.id) : await call("tag", response.id, name);
  if (!answer) return;
  response.tags = has ? response.tags.filter((one) => one !== has) : [...response.tags, { id: answer.id, tag: name }];
  saved(answer, has ? "Tag taken off" : "Tag saved");
}

async function undo() {
  await saving;
  const answer = await call("undo");
  if (!answer) return;
  notice(answer.undone ? t("Taken back: {what}", { what: t(answer.undone) }) : "There is nothing to undo.");
  await load(state.current?.id);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    notice("Copied.");
  } catch (problem) {
    notice("The browser does not let the page copy. Select the text instead.", "error");
  }
}

async function regenerate(turn) {
  if (state.live) return;
  if (!(await call("again", turn.id, Number(count.value), settings()))) return;
  await load(state.current.id);
}

// ---- Cards
function stars(response) {
  return el("span", { class: "stars", role: "group", "aria-label": t("Rating") }, [1, 2, 3, 4, 5].map((score) => el("button", { class: `star${response.rating >= score ? " on" : ""}`, "aria-pressed": response.rating === score ? "true" : "false", "aria-label": t("{n} of 5", { n: score }), onclick: () => rate(response, score) }, "★")));
}

const PICTURES = {
  up: "M4 11h3.5v9H4zM7.5 11l4-8c1.6 0 2.7 1.1 2.7 2.6V9H19a2 2 0 0 1 2 2.3l-1.1 7a2 2 0 0 1-2 1.7H7.5",
  down: "M20 13h-3.5V4H20zM16.5 13l-4 8c-1.6 0-2.7-1.1-2.7-2.6V15H5a2 2 0 0 1-2-2.3l1.1-7a2 2 0 0 1 2-1.7h10.4",
  pen: "M4 20l1-4.2L16.2 4.6l3.2 3.2L8.2 19zM13.8 7l3.2 3.2",
  tag: "M3.5 12.2V4h8.2l8.8 8.8-8.2 8.2zM7.8 8.3h.1",
  remark: "M4 5h16v11H11l-4.5 4v-4H4z",
  copy: "M9 9h11v11H9zM15 5.5V4H4v11h1.5",
};

/** A button that is a picture; `title` says what it does, to the eye and to a screen reader. */
function action(picture, name, title, act, more = {}) {
  const node = el("button", { class: name, title: t(title), "aria-label": t(title), onclick: act, ...more });
  node.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${PICTURES[picture]}"/></svg>`;
  return node;
}

function card(turn, response, index, ranks) {
  if (response.id === undefined) return el("article", { class: "card live", "aria-busy": "true" }, el("header", {}, t("Answer {n}", { n: index + 1 })), answered(response.text || "…", response.html));
  if (`edit ${response.id}` in drafts) return el("article", { class: "card editing" }, el("header", {}, t("Rewrite the answer as it should be")), rewriting(response, (text) => saveEdit(response, text), draw));
  const rankOf = ranks[response.id];
  const several = turn.responses.length > 1;
  const chosen = turn.chosen === response.id;
  const body = response.edit ? verbatim("div", response.edit) : answered(response.text, response.html);
  const talkAbout = [];
  if (tagging === response.id) talkAbout.push(el("div", { class: "tags" }, [...new Set([...state.tags, ...response.tags.map((one) => one.tag)])].map((name) => el("button", { class: `tag-choice${response.tags.some((one) => one.tag === name) ? " on" : ""}`, onclick: () => toggleTag(response, name) }, t(name)))));
  else if (response.tags.length) talkAbout.push(el("div", { class: "tags" }, response.tags.map((one) => verbatim("span", t(one.tag), "tag"))));
  if (`comment ${response.id}` in drafts) {
    const [area, buttons] = writing(`comment ${response.id}`, t("Comment"), "save-comment", (text) => saveComment(response, text), draw);
    area.rows = 2;
    talkAbout.push(area, el("div", { class: "row" }, buttons));
  } else if (response.comment) talkAbout.push(verbatim("p", response.comment, "hint comment"));
  const node = el(
    "article",
    { class: `card${rankOf ? " ranked" : ""}${rankOf === 1 ? " best" : ""}${chosen ? " chosen" : ""}`, draggable: several ? "true" : null },
    el(
      "header",
      {},
      several && el("button", { class: "rank", title: t("Rank this answer next (key {n}; Shift-click for a tie; or drag the card)", { n: index + 1 }), "aria-label": rankOf ? t("Answer {n}, rank {rank}", { n: index + 1, rank: rankOf }) : t("Rank answer {n}", { n: index + 1 }), onclick: (event) => rank(turn, response.id, event.shiftKey) }, rankOf ? `#${rankOf}` : `${index + 1}`),
      response.edit && el("span", { class: "tag", title: response.text }, t("edited")),
      response.finish === "cancelled" && el("span", { class: "tag" }, t("stopped")),
      response.finish === "length" && el("span", { class: "tag", title: t("Settings say how long an answer may be.") }, t("cut off")),
      stars(response),
    ),
    body,
    talkAbout,
    el(
      "footer",
      {},
      action("up", `icon${response.rating === 5 ? " on" : ""}`, "Good answer", () => rate(response, 5), { "aria-pressed": String(response.rating === 5) }),
      action("down", `icon${response.rating === 1 ? " on" : ""}`, "Bad answer", () => rate(response, 1), { "aria-pressed": String(response.rating === 1) }),
      action("pen", "icon edit", "Rewrite it", () => openDraft(talk, `edit ${response.id}`, response.edit || response.text, draw)),
      action("tag", "icon tag-it", "Tag it", () => ((tagging = tagging === response.id ? null : response.id), draw()), { "aria-expanded": String(tagging === response.id) }),
      action("remark", "icon remark", "Comment on it", () => openDraft(talk, `comment ${response.id}`, response.comment || "", draw)),
      action("copy", "icon copy", "Copy it", () => copy(response.edit || response.text)),
      turn.last && el("button", { class: "go-on", title: t("The conversation goes on from this answer"), onclick: () => goOn(turn, response) }, t(chosen ? "Goes on ✓" : "Go on with this")),
    ),
  );
  if (several) {
    node.addEventListener("dragstart", (event) => {
      dragged = response.id;
      event.dataTransfer.effectAllowed = "move";
      event.dataTransfer.setData("text/plain", "");
    });
    node.addEventListener("dragover", (event) => (event.preventDefault(), node.classList.add("over")));
    node.addEventListener("dragleave", () => node.classList.remove("over"));
    node.addEventListener("drop", (event) => (event.preventDefault(), drop(turn, response.id)));
  }
  return node;
}

function goOn(turn, response) {
  turn.chosen = response.id;
  draw();
  field.focus();
}

// ---- Conversations
async function remove(id) {
  if (!(await call("delete", id, true))) return;
  if (state.current?.id === id) sessionStorage.removeItem("conversation");
  await load(state.current?.id === id ? -1 : state.current?.id);
  undoable(t("The conversation is gone; its feedback stays."), () => call("delete", id, false).then(() => load(id)));
}

function conversation(c) {
  const here = c.id === state.current?.id;
  if (renaming === c.id) {
    const box = el("input", { type: "text", value: c.title, "aria-label": t("Title") });
    const done = async (keep) => {
      if (renaming !== c.id) return;
      renaming = null;
      if (keep && box.value.trim() !== c.title && !(await call("rename", c.id, box.value))) return draw();
      load(state.current?.id);
    };
    box.addEventListener("keydown", (event) => event.key === "Enter" && done(true));
    box.addEventListener("keydown", (event) => event.key === "Escape" && done(false));
    box.addEventListener("blur", () => done(true));
    setTimeout(() => box.select(), 0);
    return box;
  }
  return el(
    "div",
    { class: `line${here ? " here" : ""}` },
    el("button", { class: `conversation${here ? " here" : ""}`, title: c.title, dir: "auto", onclick: () => load(c.id) }, c.title),
    here && el("button", { class: "small rename", title: t("Rename"), "aria-label": t("Rename"), onclick: () => ((renaming = c.id), draw()) }, "✎"),
    here && el("button", { class: "small remove", title: t("Delete"), "aria-label": t("Delete"), onclick: () => remove(c.id) }, "✕"),
  );
}

// ---- The page
const IDEAS = ["What is the capital of France?", "I feel sad.", "Tell me a joke about a cow.", "How do I make tea?"];

function draw() {
  fill(list, state.conversations.map(conversation), !state.conversations.length && find.value && el("p", { class: "hint" }, t("No conversation holds that.")));
  const turns = state.current?.turns || [];
  const parts = turns.map((turn, i) => {
    turn.last = i === turns.length - 1;
    const ranks = ranksOf(order[turn.id] || []);
    const live = state.live && state.live.prompt_id === turn.id;
    const shown = live ? [...turn.responses, ...state.live.answers] : turn.responses;
    return el(
      "section",
      { class: "turn" },
      verbatim("div", turn.text, "ask"),
      el("div", { class: `cards n${Math.min(shown.length, 4)}` }, shown.map((r, n) => card(turn, r, n, ranks))),
      !live && !shown.length && el("p", { class: "hint" }, t("This question was not answered. Answer it now, or ask another below.")),
      turn.last && !live && el("div", { class: "row" }, el("button", { class: "regenerate", onclick: () => regenerate(turn) }, t(shown.length ? "More answers" : "Answer it")), shown.length > 1 && el("span", { class: "hint" }, t("Rank: click the numbers from best to worst, press 1 to 4, or drag the cards. Shift ties. Z undoes."))),
    );
  });
  if (!parts.length)
    parts.push(
      el(
        "div",
        { class: "empty" },
        el("h2", {}, t("Ask the model something")),
        el("p", {}, t("It answers several times. Rank the answers, or rewrite one, and it learns what you like.")),
        state.untaught && el("p", { class: "hint" }, t("The built-in model is small: it knows some hundred kinds of everyday question, in English, and little else. Untaught, it is kind or rude, brief or long-winded, right or wrong by turns, so that there is something to teach.")),
        el("div", { class: "ideas", lang: "en" }, IDEAS.map((idea) => el("button", { onclick: () => send(idea) }, idea))),
      ),
    );
  refill(talk, parts);
  stopButton.hidden = !state.live;
  sendButton.hidden = !!state.live;
  root.querySelector(".model").textContent = modelName();
  root.querySelector(".counts").textContent = state.counts ? FEEDBACK.map((kind) => `${state.counts[kind]} ${kindName(kind, state.counts[kind])}`).join(" · ") : "";
}

const opened = newest(async (id) => {
  await saving;
  return call("load", id ?? null, find.value);
});

async function load(id) {
  const answer = await opened(id);
  if (!answer) return;
  state = answer;
  order = {};
  for (const turn of state.current?.turns || []) order[turn.id] = asGiven(turn.tiers);
  sessionStorage.setItem("conversation", state.current?.id || "");
  showSettings();
  draw();
  const newestTurn = talk.lastElementChild; // from its question on, for long answers are read from their start
  talk.scrollTop = newestTurn.offsetTop - talk.offsetTop;
  if (state.live) watch();
}

async function watch() {
  if (watching) return;
  watching = true;
  while (here() && state.live) {
    const { prompt_id } = state.live;
    const answer = await call("poll", prompt_id);
    if (!answer) {
      await sleep(2000); // a studio that is started anew says that nothing is being written
      continue;
    }
    if (state.live?.prompt_id !== prompt_id) continue; // another conversation was opened
    if (answer.problem) notice(answer.problem, "error");
    if (answer.done) {
      watching = false;
      return load(state.current.id);
    }
    state.live.answers = answer.answers;
    const cards = talk.querySelectorAll(".card.live .text");
    if (cards.length !== answer.answers.length) draw();
    else cards.forEach((node, i) => node.replaceWith(answered(answer.answers[i].text || "…", answer.answers[i].html)));
    await sleep(60);
  }
  watching = false;
}

async function send(text) {
  text = text.trim();
  if (!text || state.live) return;
  const last = lastTurn();
  const best = last && (last.chosen || (order[last.id] || [])[0]?.[0] || last.responses[0]?.id);
  sendButton.disabled = true;
  const answer = await call("ask", { conversation: state.current?.id ?? null, parent: best ?? null, text, count: Number(count.value), settings: settings() });
  sendButton.disabled = false;
  if (!answer) return;
  field.value = "";
  sessionStorage.removeItem("draft");
  find.value = "";
  await load(answer.conversation);
}

form.addEventListener("submit", (event) => (event.preventDefault(), send(field.value)));
field.addEventListener("input", () => sessionStorage.setItem("draft", field.value));
field.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send(field.value);
  }
});
stopButton.addEventListener("click", () => call("halt", state.live?.prompt_id));
root.querySelector(".new").addEventListener("click", () => {
  sessionStorage.removeItem("conversation");
  Object.assign(state, { current: null, live: null });
  load(-1).then(() => field.focus());
});
root.querySelector(".undo").addEventListener("click", undo);
let typed;
find.addEventListener("input", () => (clearTimeout(typed), (typed = setTimeout(() => load(state.current?.id ?? -1), 200))));

onKeys((event) => {
  const turn = lastTurn(), number = digit(event);
  if (number && turn?.responses.length > 1 && number <= turn.responses.length) return () => rank(turn, turn.responses[number - 1].id, event.shiftKey);
  return { z: undo, n: () => field.focus() }[keyOf(event)];
});
count.value = localStorage.getItem("candidates") || "4";
count.addEventListener("change", () => localStorage.setItem("candidates", count.value));
field.value = sessionStorage.getItem("draft") || "";
load(remembered());
