// Sorting, filters, tabs, addresses and tips. Pages are whole without it; it writes text only, never markup.
"use strict";

document.documentElement.classList.add("js");

const ROWS_SHOWN = 200;
const VERDICTS = { above: "▲ above random", same: "= no different", below: "▼ below random" };

function make(name, properties, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

// What a cell sorts by: the number that the page gives, else the number or the text that it shows.
function sortKey(cell) {
  const said = cell.dataset.v ?? cell.textContent.trim().replace(/^\u2212/, "-");
  const number = parseFloat(said);
  return Number.isNaN(number) ? said.toLowerCase() : number;
}

function compare(a, b) {
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1; // what has no number comes last
}

// One table: its rows in the order of the page, and what is asked of them.
class Rows {
  constructor(table) {
    this.table = table;
    this.heads = [...table.tHead.rows[0].cells];
    this.rows = [...table.tBodies].flatMap((body) => [...body.rows]);
    this.names = this.rows.map((row) => (row.querySelector(".method")?.textContent ?? "").toLowerCase());
    this.more = table.tBodies[1] ?? table.createTBody();
    this.more.className = "more";
    this.heads.forEach((head, i) => {
      if (!head.dataset.sort) return;
      const button = make("button", { type: "button" });
      button.append(...head.childNodes);
      button.addEventListener("click", () => this.onsort(i));
      head.append(button);
    });
    this.button = make("button", { type: "button", className: "plain", hidden: true });
    this.button.addEventListener("click", () => { table.classList.toggle("whole"); this.show(this.asked); });
    table.after(this.button);
  }

  // Order first, then filter, then the first rows of what is left; random draws are never filtered away.
  show(asked) {
    this.asked = asked;
    const column = asked.sort ? this.heads.findIndex((head) => head.dataset.sort === asked.sort) : -1;
    let order = this.rows.map((_, i) => i);
    if (column >= 0) {
      const keys = this.rows.map((row) => sortKey(row.cells[column]));
      const sign = asked.down ? -1 : 1;
      order.sort((a, b) => (typeof keys[a] === typeof keys[b] ? sign : 1) * compare(keys[a], keys[b]) || a - b);
    }
    this.heads.forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", asked.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const words = asked.q.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (i) => this.rows[i].classList.contains("random") || (
      words.every((word) => this.names[i].includes(word)) && (!asked.verdict || this.rows[i].dataset.verdict === asked.verdict));
    const kept = new Set(order.filter(fits));
    this.rows.forEach((row, i) => { row.hidden = !kept.has(i); });
    const shown = order.filter((i) => kept.has(i));
    const late = new Set(shown.slice(ROWS_SHOWN));
    this.table.tBodies[0].append(...order.filter((i) => !late.has(i)).map((i) => this.rows[i]));
    this.more.append(...[...late].map((i) => this.rows[i]));
    const whole = this.table.classList.contains("whole");
    this.button.hidden = late.size === 0;
    this.button.textContent = whole ? `Show the first ${ROWS_SHOWN} rows` : `Show all ${shown.length} rows`;
    return shown.length;
  }

  onsort(i) {
    const name = this.heads[i].dataset.sort;
    const down = this.asked.sort === name ? !this.asked.down : this.heads[i].dataset.first === "down";
    this.changed({ ...this.asked, sort: name, down });
  }
}

// The address after "#": a part of the page, then what is asked of its tables: #hard-convnet?q=dm&sort=worth&down=1
function readAddress() {
  const [part, query] = location.hash.slice(1).split("?");
  const given = new URLSearchParams(query ?? "");
  const verdict = given.get("verdict") in VERDICTS ? given.get("verdict") : "";
  return { part, q: given.get("q") ?? "", verdict, sort: given.get("sort") ?? "", down: given.get("down") === "1" };
}

function writeAddress(state) {
  const given = new URLSearchParams();
  for (const name of ["q", "verdict", "sort"]) if (state[name]) given.set(name, state[name]);
  if (state.sort && state.down) given.set("down", "1");
  const query = given.toString();
  history.replaceState(null, "", `#${state.part}${query ? "?" + query : ""}`);
}

function controls(tables, state, changed) {
  const search = make("input", { type: "search", value: state.q, placeholder: "method or name" });
  const verdict = make("select", {}, make("option", { value: "", textContent: "any verdict" }),
    ...Object.entries(VERDICTS).map(([value, textContent]) => make("option", { value, textContent })));
  const sorter = make("select", {}, make("option", { value: "", textContent: "as listed" }),
    ...tables[0].heads.filter((h) => h.dataset.sort).map((h) => make("option", { value: h.dataset.sort, textContent: h.textContent })));
  const count = make("output", { className: "count" });
  search.addEventListener("input", () => changed({ q: search.value }));
  verdict.addEventListener("change", () => changed({ verdict: verdict.value }));
  sorter.addEventListener("change", () => {
    const head = tables[0].heads.find((h) => h.dataset.sort === sorter.value);
    changed({ sort: sorter.value, down: head?.dataset.first === "down" });
  });
  const bar = make("div", { className: "controls", role: "search" }, make("label", {}, "Filter ", search));
  if (tables.some((rows) => rows.rows.some((row) => row.dataset.verdict))) bar.append(make("label", {}, "Verdict ", verdict));
  bar.append(make("label", { className: "sorter" }, "Sort by ", sorter), count);
  bar.show = (asked, shown, all) => {
    if (search.value !== asked.q) search.value = asked.q;
    verdict.value = asked.verdict;
    sorter.value = asked.sort;
    count.textContent = shown === all ? `${all} rows` : `${shown} of ${all} rows`;
  };
  return bar;
}

function startTables() {
  const tables = [...document.querySelectorAll("table.rows")].map((table) => new Rows(table));
  const parts = [...document.querySelectorAll("section.tab")];
  if (!tables.length && !parts.length) return;
  let state = readAddress();
  const bar = tables.length ? controls(tables, state, (change) => update(change)) : null;
  if (bar) (document.querySelector("nav.tabs") ?? tables[0].table.closest(".scroll") ?? tables[0].table).before(bar);

  function show() {
    const part = parts.find((p) => p.id === state.part) ?? parts[0];
    parts.forEach((p) => p.classList.toggle("shown", p === part));
    document.querySelectorAll("nav.tabs a").forEach((a) => {
      if (part && a.hash === `#${part.id}`) a.setAttribute("aria-current", "true");
      else a.removeAttribute("aria-current");
    });
    let shown = 0, all = 0;
    for (const rows of tables) {
      if (part && !part.contains(rows.table)) continue; // other parts are brought up to date when they are opened
      shown += rows.show(state);
      all += rows.rows.length;
    }
    bar?.show(state, shown, all);
  }
  function update(change) {
    state = { ...state, ...change };
    if (parts.length && !parts.some((p) => p.id === state.part)) state.part = parts[0].id;
    writeAddress(state);
    show();
  }
  tables.forEach((rows) => { rows.changed = update; });
  document.querySelectorAll("nav.tabs a").forEach((a) => a.addEventListener("click", (event) => {
    event.preventDefault();
    update({ part: a.hash.slice(1) });
  }));
  addEventListener("hashchange", () => { state = readAddress(); show(); });
  show();
}

// A head of a column that has an entry in the list of terms shows it on hover and focus.
function startTips() {
  let tip = null;
  const hide = () => { tip?.remove(); tip = null; };
  const open = (head, text) => {
    hide();
    tip = make("div", { className: "tip", id: "tip", role: "tooltip", textContent: text });
    document.body.append(tip);
    const box = head.getBoundingClientRect();
    const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    // the style of an element may be set from a script of the page itself; markup with styles is what the policy refuses
    tip.style.left = `${Math.max(8, left) + scrollX}px`;
    tip.style.top = `${box.bottom + 6 + scrollY}px`;
    (head.querySelector("button") ?? head).setAttribute("aria-describedby", "tip");
  };
  document.querySelectorAll("[data-tip]").forEach((head) => {
    const text = document.getElementById(`term-${head.dataset.tip}`)?.textContent;
    if (!text) return;
    for (const name of ["mouseenter", "focusin"]) head.addEventListener(name, () => open(head, text.trim()));
    for (const name of ["mouseleave", "focusout"]) head.addEventListener(name, hide);
  });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
}

document.addEventListener("DOMContentLoaded", () => { startTables(); startTips(); });
