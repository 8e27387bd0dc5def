const counts = root.querySelector(".counts");
const enough = root.querySelector(".enough");
const start = root.querySelector(".improve");
const preset = root.querySelector("select.preset");
const method = root.querySelector("select.method");
const what = root.querySelector(".what");
const textPath = root.querySelector(".text-path");
const runBox = root.querySelector(".run");
const history = root.querySelector(".history");
let chosen = null; // run id shown; null means the newest

/** A line chart drawn as SVG: axes with round figures, one line. */
function chart(title, points, digits = 2) {
  const box = el("figure", { class: "chart" }, el("figcaption", {}, title));
  if (points.length < 2) {
    box.append(el("p", { class: "hint" }, "waiting for numbers"));
    return box;
  }
  const [w, h, left, bottom] = [440, 150, 40, 20];
  const round = (y) => y.toFixed(digits).replace(/^-(0(?:\.0+)?)$/, "$1"); // no "-0.00"
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  let [y0, y1] = [Math.min(...ys), Math.max(...ys)];
  if (y1 - y0 < 1e-6) [y0, y1] = [y0 - 0.5, y1 + 0.5];
  const X = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (w - left - 8);
  const Y = (y) => 8 + ((y1 - y) / (y1 - y0)) * (h - bottom - 12);
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${title}, now ${ys[ys.length - 1].toFixed(digits)}`);
  const add = (tag, attributes, text) => {
    const node = document.createElementNS(NS, tag);
    for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
    if (text !== undefined) node.textContent = text;
    svg.append(node);
  };
  for (const y of [y0, (y0 + y1) / 2, y1]) {
    add("line", { x1: left, x2: w - 8, y1: Y(y), y2: Y(y), class: "grid" });
    add("text", { x: left - 5, y: Y(y) + 4, "text-anchor": "end" }, round(y));
  }
  add("text", { x: left, y: h - 4 }, String(x0));
  add("text", { x: w - 8, y: h - 4, "text-anchor": "end" }, String(x1));
  add("polyline", { points: points.map((p) => `${X(p[0]).toFixed(1)},${Y(p[1]).toFixed(1)}`).join(" "), class: "line" });
  box.append(svg);
  box.firstChild.append(el("b", {}, round(ys[ys.length - 1])));
  return box;
}

const NAMES = { load: "Load", reward: "Reward model", ppo: "PPO", reinforce: "Policy gradient", sft: "Copy the best", dpo: "DPO", kto: "KTO", ilql: "Q-learning", compare: "Compare" };

function stageBar(run) {
  const order = run.stages;
  const at = order.indexOf(run.stage);
  return el(
    "ol",
    { class: "stages" },
    order.map((name, i) => {
      const over = run.status === "finished" || i < at;
      const share = over ? 1 : i === at ? run.done / Math.max(run.total, 1) : 0;
      const bar = el("span", { class: "fill" });
      bar.style.width = `${share * 100}%`;
      return el("li", { class: over ? "done" : i === at && run.active ? "now" : "" }, el("span", { class: "name" }, NAMES[name] || name), el("span", { class: "bar" }, bar));
    }),
  );
}

/** How far the reward model can be trusted, and where it is most wrong. */
function trust(report) {
  if (!report || !report.pairs) return null;
  const range = `${percent(report.accuracy_low)} to ${percent(report.accuracy_high)}`;
  const lines = [`The reward model orders ${percent(report.accuracy)} of ${report.pairs} pairs it never saw as you did (95% interval ${range}).`];
  if (report.self_agreement !== null) lines.push(`You agreed with yourself on ${percent(report.self_agreement)} of ${report.self_agreement_pairs} pairs that you judged twice.`);
  const more = [`Calibration error ${report.calibration_error.toFixed(2)}: how far its certainty is from how often it is right.`];
  if (report.length_correlation !== null) more.push(`Its scores go with an answer's length by ${report.length_correlation.toFixed(2)} (-1 likes short ones, 1 long ones).`);
  const worst = report.worst.map((w) => {
    const ask = el("dt", {}), better = el("dd", {}), worse = el("dd", { class: "hint" });
    ask.textContent = w.prompt;
    better.textContent = `You: ${w.better}`;
    worse.textContent = `It: ${w.worse}`;
    return [ask, better, worse];
  });
  return el(
    "div",
    { class: "trust" },
    lines.map((line) => el("p", { class: "hint" }, line)),
    el("details", {}, el("summary", {}, "How far it can be trusted"), more.map((line) => el("p", { class: "hint" }, line)), worst.length > 0 && [el("h4", {}, "The pairs it gets most wrong"), el("dl", { class: "samples" }, worst)]),
  );
}

let told = ""; // what the trust box was drawn from; it is not drawn again, so that what was opened stays open
let trustBox = null;

/** Offer the ways of learning, and say of the chosen one what it does. */
async function offerWays() {
  const ways = await call("ways");
  if (!ways) return; // asked for again with the next refresh
  const describe = () => {
    textPath.hidden = method.value !== "pretrain";
    what.textContent = (ways.find(([name]) => name === method.value) || ["", "", ""])[2];
  };
  fill(method, ways.map(([name, label]) => el("option", { value: name }, label)));
  method.addEventListener("change", describe);
  describe();
}

function draw(state) {
  fill(counts, ["ranking", "edit", "rating"].map((kind) => el("div", { class: "count" }, el("b", {}, String(state.counts[kind])), el("span", {}, { ranking: "rankings", edit: "edits", rating: "ratings" }[kind]))));
  enough.textContent = state.advice;
  const run = state.run;
  const free = ["ppo", "reinforce", "pretrain"].includes(method.value); // these need no feedback; a run says what else it lacks
  start.disabled = !(state.ready || free) || !!state.busy;
  start.textContent = state.busy ? "Improving …" : "Improve";
  if (!run) fill(runBox, el("p", { class: "hint" }, "Nothing has been trained yet. Rank some answers in Chat, then press Improve."));
  else {
    const status = { queued: "Waiting for its turn", running: "Running", finished: "Finished", stopped: "Stopped", failed: "Failed" }[run.status];
    const head = el(
      "div",
      { class: "run-head" },
      el("h2", {}, `Run ${run.id} · ${run.method}`),
      el("span", { class: `status ${run.status}` }, run.stopping && run.active ? "Stopping …" : status),
      run.active && run.left !== null && el("span", { class: "hint left" }, `about ${duration(run.left)} left`),
      run.active && el("button", { class: "stop-run", onclick: () => call("stop", run.id).then(refresh) }, "Stop"),
      ["stopped", "failed"].includes(run.status) && el("button", { class: "resume-run", onclick: () => call("resume", run.id).then(refresh) }, "Resume"),
      run.status === "finished" && run.compared && el("a", { class: "button primary", href: "/compare" }, "Compare before and after"),
    );
    const now = JSON.stringify([run.id, run.report]);
    if (now !== told) [told, trustBox] = [now, trust(run.report)];
    const samples = run.samples.map((s) => {
      const ask = el("dt", {}), text = el("dd", {});
      ask.textContent = s.prompt;
      text.textContent = s.text;
      return [ask, text, el("dd", { class: "hint" }, `update ${s.step}, reward ${s.reward.toFixed(2)}`)];
    });
    fill(
      runBox,
      head,
      stageBar(run),
      run.reason && el("p", { class: `reason ${run.status}` }, run.reason),
      trustBox,
      el("div", { class: "charts" }, run.curves.map((c) => chart(c.title, c.points, c.digits))),
      samples.length > 0 && [el("h3", {}, "Answers as training goes"), el("dl", { class: "samples" }, samples)],
    );
  }
  fill(
    history,
    state.runs.map((r) => el("button", { class: run && r.id === run.id ? "here" : "", onclick: () => ((chosen = r.id), refresh()) }, `Run ${r.id} · ${r.method} · ${r.status}`)),
  );
}

async function refresh() {
  const state = await call("state", chosen);
  if (state) draw(state);
}

start.addEventListener("click", async () => {
  start.disabled = true;
  const answer = await call("improve", method.value, preset.value, textPath.querySelector("input").value.trim());
  if (answer) chosen = answer.run;
  await refresh();
});

(async () => {
  while (here()) {
    if (!method.options.length) await offerWays();
    await refresh();
    await sleep(1000);
  }
})();
