// Helpers every page shares. Text reaches the page through textContent only, so nothing a model says can run.
const root = element.querySelector(".studio");

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

let noticeTimer;
/** One place for what went wrong or was done; it leaves by itself. */
function notice(text, kind = "info") {
  const box = root.querySelector(".notice");
  box.textContent = text;
  box.className = `notice show ${kind}`;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => box.classList.remove("show"), kind === "error" ? 9000 : 2500);
}

/** Call the studio; a person's mistake comes back as a sentence and is shown. Returns null then. */
async function call(name, ...args) {
  let answer;
  try {
    answer = await server[name](args);
  } catch (problem) {
    notice("The studio does not answer. Is it still running?", "error");
    return null;
  }
  if (answer && answer.error) {
    notice(answer.error, "error");
    return null;
  }
  return answer;
}

const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(share * 100)}%`);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const here = () => document.body.contains(root);
const typing = () => ["TEXTAREA", "INPUT", "SELECT"].includes(document.activeElement?.tagName);

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}
