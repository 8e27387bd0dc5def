const pick = root.querySelector("select.comparison");
const stage = root.querySelector(".ballot");
const figures = root.querySelector(".figures");
const table = root.querySelector(".items");
const voted = root.querySelector("details.voted");
const plots = root.querySelector(".plots");
const reveal = root.querySelector(".reveal");
const anew = root.querySelector(".anew form");
let state = null;
let at = 0;
const alone = oneAtATime(); // until a vote is kept, whatever is pressed means the question that is still shown
let past = []; // the questions voted on, in that order

// Which side "after" stands on: fixed for an item by its id, so a reload does not give it away.
const afterLeft = (item) => ((item.id * 2654435761) >>> 7) % 2 === 0;

const vote = alone(async (side) => {
  const seen = state, item = state.items[at];
  if (!item) return;
  const choice = side === "tie" ? "tie" : (side === "left") === afterLeft(item) ? "after" : "before";
  const answer = await call("vote", item.id, choice);
  if (!answer || state !== seen) return;
  item.choice = choice;
  past.push(at);
  Object.assign(state, answer);
  at = onward();
  draw();
});

/** Where the next question is that has no vote: behind `place`, else from the start, else past the end. */
function onward(place = at) {
  const next = state.items.findIndex((item, i) => i > place && !item.choice);
  const first = state.items.findIndex((item) => !item.choice);
  return next >= 0 ? next : first >= 0 ? first : state.items.length;
}

function side(item, own, other, name, label) {
  const body = state.diff ? wordDiff(item[other], item[own]) : answered(item[own], item[`${own}_html`]);
  return el("article", { class: "card" }, el("header", {}, label), body, el("footer", {}, el("button", { class: `vote-${name}`, onclick: () => vote(name) }, t("This one is better"))));
}

function figure(title, rate, low, high, note) {
  const range = el("span", { class: "range" });
  if (rate !== null) range.append(el("i", { style: `left:${low * 100}%;width:${(high - low) * 100}%` }), el("b", { style: `left:${rate * 100}%` }));
  return el("div", { class: "figure" }, el("h3", {}, t(title)), el("p", { class: "big" }, rate === null ? "–" : percent(rate)), range, el("p", { class: "hint" }, note));
}

function votesNote(v) {
  const seen = v.seen ? t(" Not blind, so not counted: {n}.", { n: v.seen }) : "";
  if (!v.count) return t(!state.items.length ? "no numbers" : state.revealed ? "no blind votes" : "vote blind to fill this in") + (seen && t(".")) + seen;
  const said = t("after wins {rate} of {n}; the true rate is between {low} and {high} (95%, whenever you stop)", { rate: percent(v.rate), n: v.count, low: percent(v.low), high: percent(v.high) });
  if (v.more === 0) return said + t(". That is decided.") + seen;
  return said + (v.more === null ? t(". As close as this, votes will not decide it.") : t(". About {n} more votes like these would decide it.", { n: v.more })) + seen;
}

/** One dot a question: how far it moved against what the reward model thinks of that. */
function scatter(title, points, xName, yName) {
  const NS = "http://www.w3.org/2000/svg", [w, h, m, top, right] = [440, 220, 34, 26, 18]; // the axis's name stands above, half of the last figure beside
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const [x0, x1, y0, y1] = [Math.min(0, ...xs), Math.max(...xs, 0.1), Math.min(0, ...ys), Math.max(...ys, 0.1)];
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title);
  const add = (tag, attributes, text) => {
    const node = document.createElementNS(NS, tag);
    for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
    if (text !== undefined) node.textContent = text;
    svg.append(node);
  };
  const X = (x) => m + ((x - x0) / (x1 - x0)) * (w - m - right), Y = (y) => top + ((y1 - y) / (y1 - y0)) * (h - m - top);
  add("line", { x1: m, x2: w - right, y1: Y(0), y2: Y(0), class: "grid" });
  add("line", { x1: X(0), x2: X(0), y1: top, y2: h - m, class: "grid" });
  for (const [x, y] of points) add("circle", { cx: X(x), cy: Y(y), r: 3, class: "dot" });
  add("text", { x: w - right, y: h - 8, "text-anchor": "end" }, xName);
  add("text", { x: 4, y: 10 }, yName);
  for (const [value, place] of [[x0, X(x0)], [x1, X(x1)]]) add("text", { x: place, y: h - m + 14, "text-anchor": "middle" }, value.toFixed(1));
  for (const [value, place] of [[y0, Y(y0)], [y1, Y(y1)]]) add("text", { x: m - 4, y: place + 4, "text-anchor": "end" }, value.toFixed(1));
  return el("figure", { class: "chart" }, el("figcaption", {}, title), svg);
}

/** The answers by their sides. Where there is something left to vote on, only once the person has asked for them. */
function drawTable() {
  if (!voted.open || !state?.list.length) return;
  const asking = !state.revealed && state.items.some((i) => !i.choice);
  reveal.hidden = !asking;
  plots.hidden = table.closest(".scroll").hidden = asking;
  if (asking) return;
  if (!state.revealed) call("reveal", state.id); // all is voted on; a vote that is changed after this is not blind
  state.revealed = true;
  const scored = state.items.filter((i) => i.facts.reward_after !== null && i.facts.reward_after !== undefined);
  const number = (x, digits = 1) => (x === null || x === undefined ? "–" : x.toFixed(digits));
  fill(
    plots,
    scored.length > 1 && scatter(t("What it gained over how far it moved"), scored.map((i) => [i.facts.kl, i.facts.reward_after - i.facts.reward_before]), t("KL, nats"), t("reward gained")),
    state.items.length > 1 && state.items[0].facts.length_before !== undefined && scatter(t("Length before and after"), state.items.map((i) => [i.facts.length_before, i.facts.length_after]), t("tokens before"), t("tokens after")),
  );
  fill(
    table,
    state.items.map((i) =>
      el("tr", {}, verbatim("td", i.prompt), verbatim("td", i.before), el("td", {}, wordDiff(i.before, i.after)), el("td", {}, `${number(i.facts.reward_before)} → ${number(i.facts.reward_after)}`), el("td", {}, number(i.facts.kl)), el("td", {}, `${i.facts.length_before ?? "–"} → ${i.facts.length_after ?? "–"}`), el("td", { class: "choice" }, i.choice ? t(i.choice) : "–")),
    ),
  );
}

function draw() {
  const all = state.list;
  fill(pick, all.map((c) => el("option", { value: c.id, selected: c.id === state.id }, `${c.before} → ${c.after}`)));
  pick.hidden = all.length < 2;
  voted.hidden = root.querySelector(".save-report").hidden = !all.length;
  root.querySelector(".anew").hidden = state.versions.length < 2;
  for (const [name, place] of [["one", 0], ["other", state.versions.length - 1]]) {
    const box = anew.querySelector(`.${name}`);
    if (box.options.length !== state.versions.length) fill(box, state.versions.map((v, i) => el("option", { value: v.id, selected: i === place }, v.name)));
  }
  const warning = root.querySelector(".warning");
  warning.hidden = !state.overdone;
  warning.textContent = t("The reward rose, but your votes did not. The model may have learned to please the reward model instead of you: rank more answers of this version, or train less far (a lower ppo.kl_target).");
  if (!all.length) {
    fill(stage, el("div", { class: "empty" }, el("h2", {}, t("Nothing to compare yet")), el("p", {}, t("Press Improve on the Train page. When it is done, the same questions are answered here before and after.")), el("a", { class: "button primary", href: "/train" }, t("Go to Train"))));
    fill(figures);
    fill(table);
    return;
  }
  const r = state.result, v = state.votes;
  fill(
    figures,
    figure("Your votes", v.count ? v.rate : null, v.low, v.high, votesNote(v)),
    r.win_rate !== undefined && figure("The reward model's view", r.win_rate, r.win_rate_low, r.win_rate_high, t("on {n} questions it never trained on; {low} to {high} (95%)", { n: r.prompts, low: percent(r.win_rate_low), high: percent(r.win_rate_high) })),
    el("div", { class: "figure" }, el("h3", {}, t("How far it moved")), el("p", { class: "big" }, `${r.kl.toFixed(1)}`), el("p", { class: "hint" }, t("nats of KL; answers {a} → {b} tokens; different ones {c} → {d}", { a: r.length_before.toFixed(0), b: r.length_after.toFixed(0), c: r.distinct_before, d: r.distinct_after }))),
  );
  const item = state.items[at];
  if (item) {
    const [a, b] = afterLeft(item) ? ["after", "before"] : ["before", "after"];
    const same = state.same ? t(" {n} more got the same answer twice.", { n: state.same }) : "";
    fill(
      stage,
      el("p", { class: "hint" }, t(state.revealed ? "Question {n} of {all}. You have seen which is which, so votes are kept but not counted." : "Question {n} of {all}. One answer is from before training, one from after; which is which is hidden.", { n: at + 1, all: state.items.length }) + same),
      verbatim("div", item.prompt, "ask"),
      el("div", { class: "cards n2" }, side(item, a, b, "left", "A"), side(item, b, a, "right", "B")),
      el(
        "div",
        { class: "row" },
        el("button", { class: "vote-tie", onclick: () => vote("tie") }, t("No difference")),
        el("button", { class: "skip", onclick: skip }, t("Skip")),
        el("button", { class: "back", disabled: !past.length, onclick: back }, t("Back")),
        el("button", { class: "show-diff", "aria-pressed": state.diff ? "true" : "false", onclick: () => ((state.diff = !state.diff), draw()) }, t("Mark the words that differ")),
        el("span", { class: "hint keys" }, t("Keys: ← A · → B · ↓ no difference · S skip · Z back · D differences")),
      ),
    );
  } else {
    const [over, what] = state.items.length
      ? [t("You have voted on every question"), t("The figures above are final until you improve again.")]
      : [t("There is nothing to vote on"), t("Both versions gave the same answers, word for word.")];
    fill(stage, el("div", { class: "empty" }, el("h2", {}, over), el("p", {}, what)));
  }
  drawTable();
}

const skip = alone(() => {
  at = onward();
  draw();
});

/** To the question voted on last, to vote on it again: what counts is the newest vote. */
const back = alone(() => {
  if (!past.length) return;
  at = past.pop();
  draw();
});

const opened = newest((id) => call("load", id ?? null));

async function load(id) {
  const answer = await opened(id);
  if (!answer) return;
  state = { ...answer, diff: state?.diff };
  past = [];
  at = onward(-1);
  draw();
}

voted.addEventListener("toggle", drawTable);
reveal.querySelector("button").addEventListener("click", async () => {
  if (!(await call("reveal", state.id))) return;
  state.revealed = true;
  draw();
});
pick.addEventListener("change", () => load(Number(pick.value)));
anew.addEventListener("submit", async (event) => {
  event.preventDefault();
  const started = await call("anew", Number(anew.querySelector(".one").value), Number(anew.querySelector(".other").value), Number(anew.querySelector(".prompts").value));
  if (!started) return;
  const button = anew.querySelector("button");
  button.disabled = true;
  button.textContent = t("Both are answering …");
  while (here()) {
    const now = await call("progress", started.run);
    if (!now) break;
    if (now.status === "finished") await load();
    if (["failed", "stopped"].includes(now.status)) notice(now.reason, "error");
    if (!["queued", "running"].includes(now.status)) break;
    await sleep(500);
  }
  button.disabled = false;
  button.textContent = t("Compare");
});
root.querySelector(".save-report").addEventListener("click", async () => {
  const answer = await call("saved", state.id, LANGUAGE);
  if (!answer) return;
  past = []; // Back does not lead to what the report shows by its sides
  if (state.items[at]?.choice) at = onward(); // nor is it voted on anew
  draw();
  const link = el("a", { href: URL.createObjectURL(new Blob([answer.html], { type: "text/html" })), download: `comparison-${state.id}.html` });
  link.click();
  URL.revokeObjectURL(link.href);
});
onKeys((event) => {
  const acts = { ArrowLeft: () => vote("left"), ArrowRight: () => vote("right"), ArrowDown: () => vote("tie"), s: skip, z: back, d: () => ((state.diff = !state.diff), draw()) };
  return state?.items.length ? acts[keyOf(event)] : null;
});
load(null);
