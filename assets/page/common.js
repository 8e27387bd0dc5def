// Helpers every page shares. Text reaches the page through textContent only, so nothing a model says can run.
const root = element.querySelector(".studio");

// ---- Words. English stands in the code; the Chinese of each sentence in zh.json.
const LANGUAGE = localStorage.getItem("language") || DEFAULT_LANGUAGE || (navigator.language.startsWith("zh") ? "zh" : "en");

/** A sentence in the person's language, {name} filled in. */
function t(text, values = {}) {
  const said = (LANGUAGE === "zh" && ZH[text]) || text;
  return said.replace(/\{(\w+)\}/g, (_, key) => values[key] ?? "");
}

let patterns = null;
/** A sentence that came from the studio, with its figures and names already in it. */
function said(text) {
  if (LANGUAGE !== "zh" || !text) return text;
  if (ZH[text]) return ZH[text];
  patterns ??= Object.keys(ZH)
    .filter((key) => /\{\w+\}/.test(key) && key.length > 14)
    .map((key) => {
      const names = [...key.matchAll(/\{(\w+)\}/g)].map((m) => m[1]);
      const plain = key.split(/\{\w+\}/).map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
      return [key, names, new RegExp(`^${plain.join("(.*?)")}$`, "s")];
    });
  for (const [key, names, pattern] of patterns) {
    const found = text.match(pattern);
    if (found) return t(key, Object.fromEntries(names.map((name, i) => [name, found[i + 1]])));
  }
  return text;
}

/** Put the skeleton's own words into the person's language. */
function translate(node) {
  const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim();
    if (ZH[text] && !walker.currentNode.parentElement.lang) walker.currentNode.data = walker.currentNode.data.replace(text, t(text));
  }
  for (const name of ["title", "placeholder", "aria-label"])
    for (const one of node.querySelectorAll(`[${name}]`)) one.setAttribute(name, t(one.getAttribute(name)));
}

// ---- Elements
/** An element with classes, attributes, listeners and children; strings become text. */
function el(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(options)) {
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined && child !== false) node.append(child);
  return node;
}

function fill(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
}

/** An element that holds someone's text, exactly. */
function verbatim(tag, text, name = "text") {
  const node = el(tag, { class: name, dir: "auto" });
  node.textContent = text;
  return node;
}

/** What a model said: as Markdown where the studio found it to be that (`html` is sanitised there), else exactly. */
function answered(text, html) {
  if (!html) return verbatim("div", text || t("(empty answer)"));
  const node = el("div", { class: "text markdown", dir: "auto" });
  node.innerHTML = html;
  return node;
}

/** Words that went and came, as an element: <del> and <ins> in running text. Longest common subsequence over words. */
function wordDiff(before, after) {
  const a = before.match(/\S+\s*|\s+/g) || [], b = after.match(/\S+\s*|\s+/g) || [];
  if (a.length * b.length > 400000) return verbatim("span", after);
  const best = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--) best[i][j] = a[i] === b[j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
  const out = el("span", { class: "text diff", dir: "auto" });
  const say = (tag, text) => {
    const last = out.lastChild;
    if (last && last.nodeName.toLowerCase() === tag) last.append(text);
    else out.append(el(tag, {}, text));
  };
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) say("span", a[i++]), j++;
    else if (i < a.length && (j >= b.length || best[i + 1][j] >= best[i][j + 1])) say("del", a[i++]);
    else say("ins", b[j++]);
  }
  return out;
}

/** How answers are drawn, as Chat's drawer was last left; the browser remembers what differs from the usual. */
const chatSettings = () => JSON.parse(localStorage.getItem("chat-settings") || "{}");

let noticeTimer;
/** One place for what went wrong or was done; it leaves by itself. */
function notice(text, kind = "info") {
  const box = root.querySelector(".notice");
  box.textContent = said(text);
  box.className = `notice show ${kind}`;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => box.classList.remove("show"), kind === "error" ? 9000 : 2500);
}

/** A notice with a button that takes back what it tells of. */
function undoable(text, undo) {
  const box = root.querySelector(".notice");
  notice(text);
  box.append(" ", el("button", { class: "bring-back", onclick: () => (box.classList.remove("show", "active"), undo()) }, t("Undo")));
  box.classList.add("active");
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => box.classList.remove("show", "active"), 9000);
}

/** Call the studio; a person's mistake comes back as a sentence and is shown. Returns null then. */
async function call(name, ...args) {
  const answer = await reached(name, args);
  if (answer === undefined) {
    notice("The studio does not answer. Is it still running?", "error");
    return null;
  }
  if (answer && answer.error) {
    notice(answer.error, "error");
    return null;
  }
  return answer;
}

/** What the studio says; undefined where it is gone. Gradio only warns in the console then. */
async function reached(name, args) {
  try {
    return await server[name](args);
  } catch (problem) {
    return undefined;
  }
}

const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(share * 100)}%`);

/** `ask`, whose answer is null if something newer was asked for before it came. */
function newest(ask) {
  let asked = 0;
  return async (...args) => {
    const mine = ++asked;
    const answer = await ask(...args);
    return mine === asked ? answer : null;
  };
}

/** Wraps functions of which only one may be under way: until it is done, calls of any of them do nothing. */
function oneAtATime() {
  let busy = false;
  return (act) => async (...args) => {
    if (busy) return;
    busy = true;
    try {
      await act(...args);
    } finally {
      busy = false;
    }
  };
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const here = () => document.body.contains(root);
const typing = () => ["TEXTAREA", "INPUT", "SELECT"].includes(document.activeElement?.tagName);

// ---- What is being written beside an answer. The browser keeps it until it is saved or given up, so that neither a page
// drawn anew nor one that is left loses a word.
const drafts = JSON.parse(sessionStorage.getItem("drafts") || "{}"); // "edit 12" -> text
function keepDraft(key, text) {
  if (text === null) delete drafts[key];
  else drafts[key] = text;
  sessionStorage.setItem("drafts", JSON.stringify(drafts));
}

/** Begin a draft, or go on with it, in the field that `draw` shows in `node`. */
function openDraft(node, key, text, draw) {
  if (!(key in drafts)) keepDraft(key, text);
  draw();
  focusDraft(node, key);
}

/** A field that holds the draft `key`, and its buttons: [area, the rest]. Ctrl + Enter saves, Escape gives it up. */
function writing(key, label, name, save, leave) {
  const area = el("textarea", { rows: 5, "aria-label": label, "data-draft": key });
  const giveUp = () => (keepDraft(key, null), leave());
  area.value = drafts[key];
  area.addEventListener("input", () => keepDraft(key, area.value));
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") giveUp();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save(area.value);
  });
  return [area, [el("button", { class: `primary ${name}`, onclick: () => save(area.value) }, t("Save")), el("button", { onclick: giveUp }, t("Cancel"))]];
}

/** What a card holds while its answer is rewritten: the field, what has changed so far, the buttons. */
function rewriting(response, save, leave) {
  const [area, buttons] = writing(`edit ${response.id}`, t("Rewrite this answer"), "save-edit", save, leave);
  const diff = el("div", { class: "diff-box", "aria-label": t("What you changed") });
  const compare = () => fill(diff, wordDiff(response.text, area.value));
  area.addEventListener("input", compare);
  compare();
  return [area, diff, el("footer", {}, buttons)];
}

/** Fill a node, the focus and the place in the text staying with the draft that is being written. */
function refill(node, ...children) {
  const was = node.contains(document.activeElement) ? document.activeElement : null;
  fill(node, ...children);
  if (was?.dataset.draft) focusDraft(node, was.dataset.draft, was.selectionStart, was.selectionEnd);
}

function focusDraft(node, key, start, end) {
  const area = node.querySelector(`[data-draft="${key}"]`);
  area?.focus({ preventScroll: start !== undefined });
  if (start !== undefined) area?.setSelectionRange(start, end);
}

const FEEDBACK = ["ranking", "edit", "rating"]; // its kinds that are counted
const kindName = (kind, count) => t(count === 1 ? kind : `${kind}s`);

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 60) return t("{n} s", { n: Math.max(1, Math.round(seconds)) });
  if (seconds >= 5400) return t("{h} h {m} min", { h: Math.floor(seconds / 3600), m: Math.floor((seconds % 3600) / 60) });
  if (seconds >= 600) return t("{m} min", { m: Math.round(seconds / 60) });
  return t("{m} min {s} s", { m: Math.floor(seconds / 60), s: Math.round(seconds % 60) });
}

/** Keys for as long as this page is there, not while someone types. `means` says what an event does, if anything. */
function onKeys(means) {
  function keys(event) {
    if (!here()) return document.removeEventListener("keydown", keys);
    if (typing() || document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = means(event);
    if (!act) return;
    event.preventDefault();
    if (!event.repeat) act(); // a key held down speaks once
  }
  document.addEventListener("keydown", keys);
}

/** An event's key, a letter small whether Shift or Caps Lock is on or not. */
const keyOf = (event) => (event.key.length === 1 ? event.key.toLowerCase() : event.key);

/** Which number key an event is, Shift or not; 0 for none. */
const digit = (event) => Number(event.code?.match(/^(?:Digit|Numpad)([1-9])$/)?.[1] || 0);

/** An order of answers with one more placed: next, or with `tie` beside the last; one that was placed is taken out. */
function placed(tiers, id, tie) {
  const was = tiers.flat().includes(id);
  const rest = tiers.map((tier) => tier.filter((other) => other !== id)).filter((tier) => tier.length);
  if (was && !tie) return rest;
  if (tie && rest.length) return [...rest.slice(0, -1), [...rest[rest.length - 1], id]];
  return [...rest, [id]];
}

/** The order with the answers that were not placed tied below it. */
function completed(tiers, ids) {
  const left = ids.filter((id) => !tiers.flat().includes(id));
  return left.length ? [...tiers, left] : tiers;
}

/** A kept order as it was given: several that are tied at its end were left out. */
const asGiven = (tiers) => (tiers.length > 1 && tiers.at(-1).length > 1 ? tiers.slice(0, -1) : tiers);

function ranksOf(tiers) {
  const ranks = {};
  tiers.forEach((tier, i) => tier.forEach((id) => (ranks[id] = i + 1)));
  return ranks;
}

// ---- The bar: where we are, what is at work, language and light.
translate(root);
document.documentElement.lang = LANGUAGE;
const dark = localStorage.getItem("theme");
if (dark) document.body.classList.toggle("dark", dark === "dark");
root.querySelector(".language").textContent = LANGUAGE === "zh" ? "English" : "中文";
root.querySelector(".language").addEventListener("click", () => {
  localStorage.setItem("language", LANGUAGE === "zh" ? "en" : "zh");
  location.reload();
});
root.querySelector(".theme").addEventListener("click", () => {
  localStorage.setItem("theme", document.body.classList.toggle("dark") ? "dark" : "light");
});

const STAGES = { load: "Load", reward: "Reward model", ppo: "PPO", reinforce: "Policy gradient", sft: "Copy the best", dpo: "DPO", kto: "KTO", ilql: "Q-learning", pretrain: "Pretraining", compare: "Compare" };
const stageName = (name) => (STAGES[name] ? t(STAGES[name]) : name);

(async () => {
  while (here()) {
    if (!document.hidden) {
      const now = await reached("status", []);
      const device = root.querySelector(".device");
      const work = root.querySelector(".at-work");
      device.classList.toggle("gone", !now?.device);
      if (!now?.device) device.textContent = t("The studio is not running");
      else {
        work.hidden = !now.run;
        if (now.run) work.textContent = t("Run {id}: {stage} {share}", { id: now.run.id, stage: stageName(now.run.stage || "load"), share: now.run.total > 1 ? percent(now.run.done / now.run.total) : "" });
        device.textContent = `${now.device.toUpperCase()} · ${now.memory.used.toFixed(1)} / ${now.memory.total.toFixed(0)} GB`;
      }
    }
    await sleep(2500);
  }
})();
