const counts = root.querySelector(".counts");
const enough = root.querySelector(".enough");
const start = root.querySelector(".improve");
const preset = root.querySelector("select.preset");
const method = root.querySelector("select.method");
const what = root.querySelector(".what");
const textPath = root.querySelector(".text-path");
const runBox = root.querySelector(".run");
const history = root.querySelector(".history");
const settingsBox = root.querySelector(".settings");
const qualityBox = root.querySelector(".quality dl");
let chosen = null; // run id shown; null means the newest
let given = {}; // settings that differ from the preset's
let overlaid = []; // run ids whose curves lie over this one's
let others = []; // what the studio said of them
let smoothing = Number(localStorage.getItem("smoothing") || 0);
let open = new Set(); // which foldable parts of the run are open

// ---- Curves
/** Exponential smoothing, corrected for its start as Adam corrects its means. */
function smooth(points, share) {
  let mean = 0, weight = 0;
  return points.map(([x, y]) => {
    mean = share * mean + (1 - share) * y;
    weight = share * weight + (1 - share);
    return [x, mean / weight];
  });
}

/** About four round figures between two. */
function ticks(low, high) {
  const step = 10 ** Math.floor(Math.log10((high - low) / 3 || 1));
  const wide = [1, 2, 5, 10].map((n) => n * step).find((s) => (high - low) / s <= 4) || step;
  const found = [];
  for (let y = Math.ceil(low / wide) * wide; y <= high + wide * 1e-6; y += wide) found.push(Math.abs(y) < wide * 1e-6 ? 0 : y);
  return found;
}

const short = (y) => (Math.abs(y) >= 1000 ? `${+(y / 1000).toFixed(1)}k` : String(+y.toPrecision(3)));

/** A line chart drawn as SVG: round figures on the axes, this run's line over those `besides` it. `more` may yet come. */
function chart(title, points, digits, besides, more) {
  const name = t(title);
  const box = el("figure", { class: "chart" }, el("figcaption", {}, name));
  if (!points.length) {
    box.append(el("p", { class: "hint" }, more ? t("waiting for numbers") : t("no numbers")));
    return box;
  }
  const lines = [...besides.map((one) => [one.points, `line other other-${one.place}`]), [points, "line"]].filter(([p]) => p.length);
  const smoothed = lines.map(([p, kind]) => [smoothing ? smooth(p, smoothing) : p, kind]);
  const every = [...smoothed.flatMap(([p]) => p), ...points];
  const [w, h, left, right, bottom] = [440, 150, 40, 14, 20]; // on the right room for half of the last figure
  const round = (y) => y.toFixed(digits).replace(/^-(0(?:\.0+)?)$/, "$1"); // no "-0.00"
  const [x0, x1] = [Math.min(...every.map((p) => p[0])), Math.max(...every.map((p) => p[0]))];
  let [y0, y1] = [Math.min(...every.map((p) => p[1])), Math.max(...every.map((p) => p[1]))];
  if (y1 - y0 < 1e-6) [y0, y1] = [y0 - 0.5, y1 + 0.5];
  const X = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (w - left - right);
  const Y = (y) => 8 + ((y1 - y) / (y1 - y0)) * (h - bottom - 12);
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", t("{title}, now {y}", { title: name, y: round(points.at(-1)[1]) }));
  const add = (tag, attributes, text) => {
    const node = document.createElementNS(NS, tag);
    for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
    if (text !== undefined) node.textContent = text;
    svg.append(node);
  };
  for (const y of ticks(y0, y1)) {
    add("line", { x1: left, x2: w - right, y1: Y(y), y2: Y(y), class: "grid" });
    add("text", { x: left - 5, y: Y(y) + 4, "text-anchor": "end" }, short(y));
  }
  for (const x of ticks(x0, x1)) add("text", { x: X(x), y: h - 4, "text-anchor": "middle" }, short(x));
  const trace = (list) => list.map((p) => `${X(p[0]).toFixed(1)},${Y(p[1]).toFixed(1)}`).join(" ");
  if (smoothing) add("polyline", { points: trace(points), class: "line faint" });
  for (const [list, kind] of smoothed) {
    if (list.length > 1) add("polyline", { points: trace(list), class: kind });
    else add("circle", { cx: X(list[0][0]), cy: Y(list[0][1]), r: 3, class: kind });
  }
  box.append(svg);
  box.firstChild.append(el("b", {}, round(smoothed.at(-1)[0].at(-1)[1])));
  return box;
}

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
      return el("li", { class: over ? "done" : i === at && run.active ? "now" : "" }, el("span", { class: "name" }, stageName(name)), el("span", { class: "bar" }, bar));
    }),
  );
}

// ---- What a run says of itself
/** How far the reward model can be trusted, and where it is most wrong. */
function trust(report) {
  if (!report || !report.pairs) return null;
  const lines = [t("The reward model orders {share} of {n} pairs it never saw as you did (95% interval {low} to {high}).", { share: percent(report.accuracy), n: report.pairs, low: percent(report.accuracy_low), high: percent(report.accuracy_high) })];
  if (report.self_agreement !== null) lines.push(t("You agreed with yourself on {share} of {n} pairs that you judged twice.", { share: percent(report.self_agreement), n: report.self_agreement_pairs }));
  const more = [t("Calibration error {e}: how far its certainty is from how often it is right.", { e: report.calibration_error.toFixed(2) })];
  if (report.length_correlation !== null) more.push(t("Its scores go with an answer's length by {r} (-1 likes short ones, 1 long ones).", { r: report.length_correlation.toFixed(2) }));
  const worst = report.worst.map((w) => [verbatim("dt", w.prompt), verbatim("dd", t("You: {text}", { text: w.better })), verbatim("dd", t("It: {text}", { text: w.worse }), "hint")]);
  return el(
    "div",
    { class: "trust" },
    lines.map((line) => el("p", { class: "hint" }, line)),
    fold("trust", "How far it can be trusted", more.map((line) => el("p", { class: "hint" }, line)), worst.length > 0 && [el("h4", {}, t("The pairs it gets most wrong")), el("dl", { class: "samples" }, worst)]),
  );
}

/** A part that folds, and stays as the person left it when the page draws itself anew. */
function fold(key, title, ...content) {
  const box = el("details", { class: `fold-${key}`, open: open.has(key) }, el("summary", {}, t(title)), content);
  box.addEventListener("toggle", () => (box.open ? open.add(key) : open.delete(key)));
  return box;
}

function settingsOf(config) {
  const flat = [];
  for (const [name, value] of Object.entries(config)) {
    if (value && typeof value === "object") for (const [key, v] of Object.entries(value)) flat.push([`${name}.${key}`, v]);
    else flat.push([name, value]);
  }
  return el("dl", { class: "settings-list" }, flat.map(([name, value]) => el("div", {}, el("dt", {}, name), verbatim("dd", value === null || value === "" ? "–" : String(value)))));
}

/** The same few questions, each with its newest answer; how they were answered before folds away below. */
function samplesOf(run) {
  const byPrompt = new Map();
  for (const s of run.samples) byPrompt.set(s.prompt, [...(byPrompt.get(s.prompt) || []), s]);
  const one = (s) => [verbatim("dd", s.text), el("dd", { class: "hint" }, t("update {step}, reward {reward}", { step: s.step, reward: s.reward.toFixed(2) }))];
  return [...byPrompt].map(([prompt, list], i) => [verbatim("dt", prompt), one(list[0]), list.length > 1 && el("dd", {}, fold(`earlier-${i}`, "How it was answered before", el("dl", { class: "samples" }, list.slice(1).map(one))))]);
}

const STATUS = { queued: "Waiting for its turn", running: "Running", finished: "Finished", paused: "Paused", stopped: "Stopped", failed: "Failed" };

/** What stands in a run's place before the first, and the way to it. */
const nothingYet = (ready) =>
  el(
    "div",
    { class: "empty" },
    el("h2", {}, t("Nothing has been trained yet")),
    el("p", {}, t(ready ? "Press Improve: here you will watch the model learn, and its answers change." : "Rank some answers first: Label hands you one question after another, in Chat you ask your own.")),
    !ready && el("div", { class: "row" }, el("a", { class: "button primary", href: "/label" }, t("Go to Label")), el("a", { class: "button", href: "/" }, t("Go to Chat"))),
  );

function drawRun(run, ready) {
  if (!run) return fill(runBox, nothingYet(ready));
  const head = el(
    "div",
    { class: "run-head" },
    el("h2", {}, t("Run {id} · {method}", { id: run.id, method: run.method })),
    el("span", { class: `status ${run.status}` }, run.asked && run.active ? t(run.asked === "pause" ? "Pausing …" : "Stopping …") : t(STATUS[run.status])),
    run.active && run.left !== null && el("span", { class: "hint left" }, t("about {time} left", { time: duration(run.left) })),
    run.active && !run.asked && el("button", { class: "pause-run", title: t("Leaves the machine to you until you resume it"), onclick: () => call("pause", run.id).then(refresh) }, t("Pause")),
    run.active && el("button", { class: "stop-run", title: t("Makes a version of what it has learned; you can resume it"), onclick: () => call("stop", run.id).then(refresh) }, t("Stop")),
    run.resumable && el("button", { class: "resume-run", onclick: () => call("resume", run.id).then(refresh) }, t("Resume")),
    run.status === "finished" && run.compared && el("a", { class: "button primary", href: "/compare" }, t("Compare before and after")),
  );
  const samples = samplesOf(run);
  const slider = el("input", { type: "range", min: "0", max: "0.95", step: "0.05", value: smoothing, "aria-label": t("Smoothing") });
  slider.addEventListener("input", () => {
    smoothing = Number(slider.value);
    localStorage.setItem("smoothing", smoothing);
    drawCharts(run);
  });
  fill(
    runBox,
    head,
    stageBar(run),
    run.reason && el("p", { class: `reason ${run.status}` }, said(run.reason)),
    trust(run.report),
    el("div", { class: "row legend" }, el("label", { class: "hint" }, t("Smoothing"), " ", slider), others.map((one, i) => el("span", { class: `hint key key-${i}` }, t("Run {id}", { id: one.id })))),
    el("div", { class: "charts" }),
    samples.length > 0 && [el("h3", {}, t("Answers as training goes")), el("dl", { class: "samples" }, samples)],
    fold("config", "Settings of this run", settingsOf(run.config)),
    run.log.length > 0 && fold("log", "Log", verbatim("pre", run.log.join("\n"), "log")),
  );
  drawCharts(run);
}

function drawCharts(run) {
  const besides = (title) => others.map((one, place) => ({ place, points: one.curves[title] || [] }));
  fill(runBox.querySelector(".charts"), run.curves.map((c) => chart(c.title, c.points, c.digits, besides(c.title), run.active)));
}

// ---- What will be done
/** Offer the ways of learning, and say of the chosen one what it does. */
async function offerWays() {
  const ways = await call("ways");
  if (!ways) return; // asked for again with the next refresh
  const describe = () => {
    textPath.hidden = method.value !== "pretrain";
    what.textContent = t((ways.find(([name]) => name === method.value) || ["", "", ""])[2]);
    given = {};
    offerSettings();
  };
  fill(method, ways.map(([name, label]) => el("option", { value: name }, t(label))));
  method.addEventListener("change", describe);
  preset.addEventListener("change", offerSettings);
  describe();
}

function field(one) {
  const value = given[one.name] ?? one.value;
  if (one.kind === "boolean") {
    const box = el("input", { type: "checkbox", checked: value });
    box.addEventListener("change", () => (given[one.name] = box.checked));
    return box;
  }
  if (one.kind === "choice") {
    const box = el("select", {}, one.choices.map((c) => el("option", { value: c, selected: c === value }, c)));
    box.addEventListener("change", () => (given[one.name] = box.value));
    return box;
  }
  const number = ["number", "integer"].includes(one.kind);
  const box = el("input", { type: number ? "number" : "text", value: value ?? "", min: number ? one.low : null, max: number ? one.high : null, step: one.kind === "integer" ? "1" : number ? "any" : null });
  box.addEventListener("change", () => {
    if (box.value === "" && number) delete given[one.name], (box.value = one.value ?? "");
    else given[one.name] = number ? Number(box.value) : box.value || null;
  });
  return box;
}

function range(one) {
  const usual = t("usually {value}", { value: one.default === null || one.default === "" ? "–" : one.default });
  const low = one.low === null ? "" : t(one.above ? "above {n}" : "from {n}", { n: one.low });
  const high = one.high === null ? "" : t("to {n}", { n: one.high });
  return [usual, [low, high].filter(Boolean).join(" ")].filter(Boolean).join(", ");
}

const costed = newest(() => call("cost", method.value, preset.value, given));
const settingsOffered = newest(() => call("offered", method.value, preset.value));

/** Of a long run: what shorter ways take. */
function shorter({ quick, direct }) {
  const ways = [];
  if (quick) ways.push(t("Quick takes about {time}.", { time: duration(quick) }));
  if (direct) ways.push(t("Directly from your rankings (DPO) it takes about {time}.", { time: duration(direct) }));
  return ways.map((way) => ` ${way}`).join("");
}

/** What the run will take, before it starts. */
async function tellCost() {
  const answer = await costed();
  if (!answer) return;
  const needs = answer.gigabytes === null ? "" : t("Takes about {gb} GB of memory, in {precision}", { gb: answer.gigabytes.toFixed(1), precision: answer.precision });
  const time = answer.seconds === null ? t("how long is known after the first run")
    : t(answer.judged === "machine" ? "about {time}, judged by this machine's speed" : "about {time}, judged by an earlier run", { time: duration(answer.seconds) });
  root.querySelector(".cost").textContent = [needs, time].filter(Boolean).join(t("; ")) + (answer.gigabytes > answer.free ? t(". That is more than is free: lower ppo.episodes or set precision to nf4.") : t(".")) + shorter(answer);
}

async function offerSettings() {
  const answer = await settingsOffered();
  if (!answer) return;
  fill(settingsBox, answer.settings.map((one) => el("label", { class: "one-setting" }, el("span", { class: "name" }, one.name), field(one), el("span", { class: "hint" }, `${t(one.meaning)} (${range(one)})`))));
  tellCost();
}
settingsBox.addEventListener("change", tellCost);

function drawQuality(q) {
  const rows = [
    q.ties !== null && ["Ties", percent(q.ties), "of all pairs you ranked"],
    q.longer_wins !== null && ["The longer answer won", percent(q.longer_wins), q.longer_wins > 0.7 ? "of pairs: much of what is learned will be length" : q.longer_wins < 0.3 ? "of pairs: much of what is learned will be brevity" : "of pairs; near half means length does not decide"],
    q.twice > 0 ? ["You agree with yourself", percent(q.agreement), t("of {n} pairs you ranked twice; {c} contradict", { n: q.twice, c: q.contradictions })] : ["You agree with yourself", "–", "not known: Label asks some questions twice"],
    ["Not judged yet", String(q.unjudged), "questions with several answers"],
  ];
  fill(qualityBox, rows.filter(Boolean).map(([name, value, note]) => [el("dt", {}, t(name), " ", el("b", {}, value)), el("dd", { class: "hint" }, t(note))]));
}

// ---- The page
let drawn = "";

function draw(state) {
  fill(counts, FEEDBACK.map((kind) => el("div", { class: "count" }, el("b", {}, String(state.counts[kind])), el("span", {}, kindName(kind, state.counts[kind])))));
  enough.textContent = said(state.advice);
  const free = ["ppo", "reinforce", "pretrain"].includes(method.value); // these need no feedback; a run says what else it lacks
  start.disabled = !(state.ready || free) || !!state.busy;
  start.textContent = t(state.busy ? "Improving …" : "Improve");
  const now = JSON.stringify([LANGUAGE, state.run, state.ready, overlaid, others.length]);
  if (now !== drawn) {
    // An open menu, a slider being moved or selected text would be lost by drawing again.
    const held = runBox.contains(document.activeElement) && document.activeElement.matches("input");
    const selecting = String(document.getSelection()) && runBox.contains(document.getSelection().anchorNode);
    if (!held && !selecting) {
      drawn = now;
      drawRun(state.run, state.ready);
    }
  }
  history.parentElement.hidden = !state.runs.length;
  root.querySelector(".tick-hint").hidden = state.runs.length < 2;
  fill(
    history,
    state.runs.map((r) => {
      const tick = el("input", { type: "checkbox", checked: overlaid.includes(r.id), "aria-label": t("Lay run {id} over", { id: r.id }) });
      tick.addEventListener("change", async () => {
        overlaid = tick.checked ? [...overlaid, r.id].slice(-4) : overlaid.filter((id) => id !== r.id);
        others = (await call("overlay", overlaid)) || [];
        refresh();
      });
      return el("div", { class: "row past" }, tick, el("button", { class: state.run && r.id === state.run.id ? "here" : "", onclick: () => ((chosen = r.id), refresh()) }, `${t("Run {id}", { id: r.id })} · ${r.method} · ${t(STATUS[r.status])}`));
    }),
  );
}

async function refresh() {
  const state = await call("state", chosen);
  if (state) draw(state);
}

start.addEventListener("click", async () => {
  start.disabled = true;
  const answer = await call("improve", method.value, preset.value, textPath.querySelector("input").value.trim(), given);
  if (answer) chosen = answer.run;
  await refresh();
});

(async () => {
  let look = 0;
  while (here()) {
    if (!method.options.length) await offerWays();
    if (look++ % 20 === 0) {
      const answer = await call("quality");
      if (answer) drawQuality(answer);
    }
    if (!document.hidden) await refresh();
    await sleep(1000);
  }
})();
