const tree = root.querySelector(".tree");
const KINDS = { base: "base", policy: "policy", reward: "reward model" };
let state = null;
let noting = null;

const size = (bytes) => (bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${(bytes / 1e6).toFixed(1)} MB`);

async function act(name, ...args) {
  const answer = await call(name, ...args);
  if (!answer) return false;
  state = answer;
  draw();
  return true;
}

/** What a version was made from and how it did, in a line. */
function story(v) {
  const parts = [];
  if (v.run_id) parts.push(t("run {id}, {method}", { id: v.run_id, method: v.method || "" }));
  if (v.feedback) parts.push(t("learned from {n} pieces of feedback", { n: v.feedback }));
  if (v.accuracy !== null && v.accuracy !== undefined) parts.push(t("orders {share} of unseen pairs right", { share: percent(v.accuracy) }));
  if (v.win?.win_rate !== undefined) parts.push(t("wins {share} over its parent by the reward model", { share: percent(v.win.win_rate) }));
  parts.push(size(v.bytes));
  return parts.join(" · ");
}

async function remove(v) {
  if (!(await act("delete", v.id))) return;
  undoable(t("Moved to the trash."), () => act("restore", v.id));
}

function row(v) {
  const using = v.id === state.using;
  const name = verbatim("b", v.name, "name");
  const note = noting === v.id ? el("input", { type: "text", class: "note-field", value: v.note, "aria-label": t("Note") }) : v.note && verbatim("span", t(v.note), "hint note-text");
  if (noting === v.id) {
    note.addEventListener("keydown", (event) => {
      if (event.key === "Enter") (noting = null), act("note", v.id, note.value);
      if (event.key === "Escape") (noting = null), draw();
    });
    setTimeout(() => note.focus(), 0);
  }
  const box = el(
    "article",
    { class: `version${using ? " using" : ""}` },
    el("div", { class: "row" }, name, el("span", { class: "tag" }, t(KINDS[v.kind])), using && el("span", { class: "tag in-use" }, t("in use"))),
    el("p", { class: "hint" }, story(v)),
    note,
    el(
      "div",
      { class: "row" },
      v.kind !== "reward" && !using && el("button", { class: "promote", onclick: () => act("promote", v.id) }, t("Use this one")),
      el("button", { class: "note", onclick: () => ((noting = v.id), draw()) }, t("Note")),
      el("button", { class: "export", onclick: async () => { const made = await call("export", v.id); if (made) notice(t("Written to {path}", { path: made.path })); } }, t("Export")),
      !using && el("button", { class: "delete", onclick: () => remove(v) }, t("Delete")),
    ),
  );
  box.style.setProperty("--depth", v.depth);
  return box;
}

function drawTrash() {
  const box = root.querySelector(".trash"), empty = root.querySelector(".empty-trash");
  const bytes = state.trash.reduce((sum, v) => sum + v.bytes, 0);
  box.hidden = !state.trash.length;
  box.querySelector("summary").textContent = t("Trash: {n}, {size}", { n: state.trash.length, size: size(bytes) });
  fill(box.querySelector(".thrown"), state.trash.map((v) => el("div", { class: "row" }, verbatim("span", v.name, "name"), el("span", { class: "hint" }, `${t(KINDS[v.kind])} · ${size(v.bytes)}`), el("button", { class: "restore", onclick: () => act("restore", v.id) }, t("Bring back")))));
  empty.hidden = !bytes;
}

function draw() {
  fill(tree, state.versions.map(row));
  root.querySelector(".disk").textContent = t("{size} on disk", { size: size(state.versions.reduce((sum, v) => sum + v.bytes, 0)) });
  drawTrash();
  fill(root.querySelector("#cached"), state.cached.map((id) => el("option", { value: id })));
}

root.querySelector(".add form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = root.querySelector(".folder");
  if (await act("add", field.value)) field.value = "";
});
root.querySelector(".empty-trash").addEventListener("click", () => confirm(t("Delete these for good? They cannot be brought back.")) && act("empty_trash"));
act("load");
