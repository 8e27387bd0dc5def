const search = root.querySelector(".search");
const filter = root.querySelector(".filter");
const table = root.querySelector(".table");
const more = root.querySelector(".more");
const panel = root.querySelector(".import");
const file = root.querySelector(".file");
const format = root.querySelector(".format");
const previewBox = root.querySelector(".preview");
const take = root.querySelector(".take");
let rows = [];
let next = null;
const found = newest((further) => call("look", search.value, filter.value || "all", further ? next : null));

const SOURCES = { chat: "Chat", demo: "demo" };
const sourceName = (source) => (source.startsWith("import:") ? t("imported") : source.startsWith("label:") ? t("Label") : t(SOURCES[source] || source));

/** What was said of a response, in a few words. */
function verdicts(row, response, place) {
  const out = [];
  for (const f of row.feedback) {
    if (f.kind === "ranking") {
      const rank = f.value.tiers.findIndex((tier) => tier.includes(response.id));
      if (rank >= 0) out.push(el("span", { class: "tag" }, `#${rank + 1}`));
    } else if (f.response_id === response.id) {
      if (f.kind === "rating") out.push(el("span", { class: "tag" }, `${f.value.score}/5`));
      if (f.kind === "tag") out.push(verbatim("span", f.value.tag, "tag"));
      if (f.kind === "comment") out.push(verbatim("span", `“${f.value.text}”`, "hint"));
    }
  }
  return out;
}

/** Draw `place` anew after `name` was done to a piece of feedback; it stays open. */
async function settle(place, name, row, feedback) {
  const answer = await call(name, row.id, feedback.id);
  if (!answer) return;
  const drawn = entry(answer.row);
  drawn.open = true;
  place.replaceWith(drawn);
  if (name === "take_back") undoable("Taken back. It stays in the store, and nothing learns from it.", () => settle(drawn, "bring_back", row, feedback));
}

function entry(row) {
  const edits = Object.fromEntries(row.feedback.filter((f) => f.kind === "edit").map((f) => [f.response_id, f.value.text]));
  const kinds = [...new Set(row.feedback.map((f) => f.kind))];
  const place = el(
    "details",
    { class: "entry" },
    el("summary", {}, verbatim("span", row.text, "asked"), el("span", { class: "hint" }, [t(row.responses.length === 1 ? "1 answer" : "{n} answers", { n: row.responses.length }), ...kinds.map((k) => t(k)), sourceName(row.source), new Date(row.created).toLocaleString(LANGUAGE)].join(" · "))),
    row.responses.map((r, i) => el("div", { class: "answer" }, edits[r.id] ? wordDiff(r.text, edits[r.id]) : verbatim("div", r.text), el("div", { class: "row" }, verdicts(row, r, i)))),
    row.feedback.length > 0 && el("div", { class: "row" }, el("span", { class: "hint" }, t("Take back:")), row.feedback.map((f) => el("button", { class: "take-back", onclick: () => settle(place, "take_back", row, f) }, f.response_id === null ? t(f.kind) : t("{kind}, answer {n}", { kind: t(f.kind), n: row.responses.findIndex((r) => r.id === f.response_id) + 1 })))),
  );
  return place;
}

async function look(further = false) {
  const answer = await found(further);
  if (!answer) return;
  rows = further ? [...rows, ...answer.rows] : answer.rows;
  next = answer.more;
  if (!filter.options.length) {
    fill(filter, answer.filters.map(([key, label]) => el("option", { value: key }, t(label))));
    fill(format, answer.formats.map((name) => el("option", { value: name }, name === "auto" ? t("format: find out") : name)));
    fill(take, el("option", { value: "" }, t("Export …")), answer.exports.map(([key, label]) => el("option", { value: key }, t(label))));
  }
  const nothing = search.value || filter.value !== "all" ? t("Nothing matches. Search for less, or choose another filter.") : t("Nothing here yet. Ask something in Chat, or import a file.");
  if (further) table.append(...answer.rows.map(entry));
  else fill(table, rows.length ? rows.map(entry) : el("div", { class: "empty" }, el("p", {}, nothing)));
  more.hidden = next === null;
}

const read = (blob) =>
  new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = failed;
    reader.readAsDataURL(blob);
  });

async function preview() {
  const chosen = file.files[0];
  if (!chosen) return fill(previewBox);
  fill(previewBox, el("p", { class: "hint" }, t("Reading …")));
  const answer = await call("preview", chosen.name, await read(chosen), format.value);
  if (!answer) return fill(previewBox);
  const figures = t("{n} new, {d} already here, {r} not readable (format: {format})", { n: answer.imported, d: answer.duplicates, r: answer.refused, format: answer.format });
  fill(
    previewBox,
    el("p", { class: "figures-line" }, figures),
    answer.sample.map((record) => el("div", { class: "answer" }, record.context.map((m) => verbatim("div", m.content, m.role === "user" ? "asked" : "text")), record.responses.map((text) => verbatim("div", text)))),
    answer.errors.length > 0 && el("ul", { class: "problems" }, answer.errors.map((e) => el("li", {}, t("Line {n}: ", { n: e.line }), said(e.reason)))),
    el("button", { class: "primary bring-in", disabled: !answer.imported, onclick: () => bring(answer.file) }, t("Bring in {n}", { n: answer.imported })),
  );
}

async function bring(name) {
  const answer = await call("bring", name, format.value);
  if (!answer) return;
  notice(t("{n} brought in ✓", { n: answer.imported }));
  panel.hidden = true;
  file.value = "";
  fill(previewBox);
  look();
}

let typed;
search.addEventListener("input", () => (clearTimeout(typed), (typed = setTimeout(look, 200))));
filter.addEventListener("change", () => look());
more.addEventListener("click", () => look(true));
root.querySelector(".bring").addEventListener("click", () => (panel.hidden = !panel.hidden));
file.addEventListener("change", preview);
format.addEventListener("change", preview);
take.addEventListener("change", async () => {
  const form = take.value;
  take.value = "";
  const answer = form && (await call("take", form));
  if (answer) notice(t(answer.count === 1 ? "1 line written to {path}" : "{n} lines written to {path}", { n: answer.count, path: answer.path }));
});
look();
