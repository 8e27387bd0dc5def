const pick = root.querySelector("select.comparison");
const stage = root.querySelector(".ballot");
const figures = root.querySelector(".figures");
const table = root.querySelector(".items");
let state = null;
let at = 0;

// Which side "after" stands on: fixed for an item by its id, so a reload does not give it away.
const afterLeft = (item) => ((item.id * 2654435761) >>> 7) % 2 === 0;

async function vote(side) {
  const item = state.items[at];
  if (!item) return;
  const choice = side === "tie" ? "tie" : (side === "left") === afterLeft(item) ? "after" : "before";
  const answer = await call("vote", item.id, choice);
  if (!answer) return;
  item.choice = choice;
  state.votes = answer.votes;
  const next = state.items.findIndex((other, i) => i > at && !other.choice);
  at = next >= 0 ? next : state.items.findIndex((other) => !other.choice);
  if (at < 0) at = state.items.length;
  draw();
}

function side(text, name, label) {
  const body = el("div", { class: "text" });
  body.textContent = text;
  return el("article", { class: "card" }, el("header", {}, label), body, el("footer", {}, el("button", { class: `vote-${name}`, onclick: () => vote(name) }, "This one is better")));
}

function figure(title, rate, low, high, note) {
  const range = el("span", { class: "range" });
  if (rate !== null) {
    range.append(el("i", { style: `left:${low * 100}%;width:${(high - low) * 100}%` }), el("b", { style: `left:${rate * 100}%` }));
  }
  return el("div", { class: "figure" }, el("h3", {}, title), el("p", { class: "big" }, rate === null ? "–" : percent(rate)), range, el("p", { class: "hint" }, note));
}

function draw() {
  const all = state.list;
  fill(pick, all.map((c) => el("option", { value: c.id, selected: c.id === state.id }, `${c.before} → ${c.after}`)));
  pick.hidden = all.length < 2;
  if (!all.length) {
    fill(stage, el("div", { class: "empty" }, el("h2", {}, "Nothing to compare yet"), el("p", {}, "Press Improve on the Train page. When it is done, the same questions are answered here before and after."), el("a", { class: "button primary", href: "/train" }, "Go to Train")));
    fill(figures);
    fill(table);
    return;
  }
  const r = state.result, v = state.votes;
  fill(
    figures,
    figure("Your votes", v.count ? v.rate : null, v.low, v.high, v.count ? `after wins ${percent(v.rate)} of ${v.count}; the true rate is between ${percent(v.low)} and ${percent(v.high)} (95%)` : "vote below, blind, to fill this in"),
    r.win_rate !== undefined && figure("The reward model's view", r.win_rate, r.win_rate_low, r.win_rate_high, `on ${r.prompts} questions it never trained on; ${percent(r.win_rate_low)} to ${percent(r.win_rate_high)} (95%)`),
    el("div", { class: "figure" }, el("h3", {}, "How far it moved"), el("p", { class: "big" }, `${r.kl.toFixed(1)}`), el("p", { class: "hint" }, `nats of KL; answers ${r.length_before.toFixed(0)} → ${r.length_after.toFixed(0)} tokens; different ones ${r.distinct_before} → ${r.distinct_after}`)),
  );
  const item = state.items[at];
  if (item) {
    const ask = el("div", { class: "ask" });
    ask.textContent = item.prompt;
    const left = afterLeft(item);
    fill(
      stage,
      el("p", { class: "hint" }, `Question ${at + 1} of ${state.items.length}. One answer is from before training, one from after; which is which is hidden.${state.same ? ` ${state.same} more got the same answer twice.` : ""}`),
      ask,
      el("div", { class: "cards n2" }, side(left ? item.after : item.before, "left", "A"), side(left ? item.before : item.after, "right", "B")),
      el("div", { class: "row" }, el("button", { class: "vote-tie", onclick: () => vote("tie") }, "No difference"), el("button", { onclick: () => ((at = (at + 1) % state.items.length), draw()) }, "Skip"), el("span", { class: "hint" }, "Keys: ← A · → B · ↓ no difference")),
    );
  } else fill(stage, el("div", { class: "empty" }, el("h2", {}, "You have voted on every question"), el("p", {}, "The figures above are final until you improve again.")));
  fill(
    table,
    state.items.filter((i) => i.choice).map((i) => {
      const cells = [i.prompt, i.before, i.after].map((text) => {
        const cell = el("td", {});
        cell.textContent = text;
        return cell;
      });
      return el("tr", {}, cells, el("td", {}, i.choice));
    }),
  );
  root.querySelector(".voted").hidden = !state.items.some((i) => i.choice);
}

async function load(id) {
  const answer = await call("load", id ?? null);
  if (!answer) return;
  state = answer;
  at = Math.max(0, state.items.findIndex((i) => !i.choice));
  if (state.items.length && state.items.every((i) => i.choice)) at = state.items.length;
  draw();
}

pick.addEventListener("change", () => load(Number(pick.value)));
function keys(event) {
  if (!here()) return document.removeEventListener("keydown", keys);
  if (typing() || event.ctrlKey || event.metaKey) return;
  const choice = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" }[event.key];
  if (choice && state?.items.length) {
    event.preventDefault();
    vote(choice);
  }
}
document.addEventListener("keydown", keys);
load(null);
