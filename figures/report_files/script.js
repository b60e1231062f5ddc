"use strict";
// The view of single problems. What a study holds is only ever put into text nodes.

const $ = (id) => document.getElementById(id);
const PAGE = 50;
const OUTCOMES = {
  D: ["●", "follows the donor", "follows"],
  K: ["■", "keeps its own", "keeps"],
  I: ["▲", "implied by text and prompt", "implied"],
  B: ["✕", "broken", "broken"],
  "~": ["~", "samples differ", "none"],
  ".": ["·", "says nothing", "none"],
};
const sources = [...document.querySelectorAll("script.model")];
const parsed = [];
const state = { model: 0, what: "", outcomes: new Set(), find: "", page: 0, run: null, pinned: null, looked: null, row: 0 };
let shown = [];

// Elements and texts

function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null));
  return made;
}

// A text in which every character is seen: those that are not, or that turn the line around, as their escape.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}]/gu;

function escaped(character) {
  const code = character.codePointAt(0).toString(16);
  if (code.length <= 2) return "\\x" + code.padStart(2, "0");
  return code.length <= 4 ? "\\u" + code.padStart(4, "0") : "\\U" + code.padStart(8, "0");
}

function visible(text, most = Infinity) {
  const whole = String(text);
  const kept = whole.length > most ? whole.slice(0, most - 1) + "…" : whole;
  const parts = [];
  let from = 0;
  for (const match of kept.matchAll(HIDDEN)) {
    parts.push(kept.slice(from, match.index));
    const newline = match[0] === "\n";
    parts.push(el("span", { className: "escape" }, newline ? "↵" : escaped(match[0])));
    if (newline) parts.push("\n");
    from = match.index + match[0].length;
  }
  parts.push(kept.slice(from));
  return el("bdi", {}, parts.filter((part) => part !== ""));
}

const plain = (text, most = 60) => visible(text, most).textContent.replaceAll("\n", "");
const number = (value, digits = 2) => (value === null ? "–" : value.toFixed(digits).replace(/^-(?=[0.]*$)/, "").replace("-", "−"));
const percent = (value) => (value === null ? "–" : `${Math.round(100 * value)} %`);
const interval = ([rate, low, high]) => (rate === null ? "–" : `${number(rate)} [${number(low)}, ${number(high)}]`);
const count = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

function chip(letter, text = OUTCOMES[letter][1]) {
  const [mark, , look] = OUTCOMES[letter];
  return el("span", { className: `chip ${look}` }, el("span", { ariaHidden: "true" }, mark), " ", text);
}

function table(caption, heads, rows) {
  const made = el("table", {}, el("caption", {}, el("span", {}, caption)));
  made.append(el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))));
  made.append(el("tbody", {}, rows.map((row) => el("tr", {}, row))));
  return el("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: caption }, made);
}

const quiet = (...text) => el("p", { className: "quiet" }, ...text);

// Data

function model() {
  if (!parsed[state.model]) {
    const found = JSON.parse(sources[state.model].textContent);
    found.rows = new Map();
    for (const row of found.cells?.rows ?? []) {
      if (!found.rows.has(row[0])) found.rows.set(row[0], []);
      found.rows.get(row[0]).push(row);
    }
    found.search = found.runs.map((run) => run.prompt.toLowerCase());
    parsed[state.model] = found;
  }
  return parsed[state.model];
}

const tokensOf = (run, from, to) => run.tokens.slice(from, to).map((index) => model().tokens[index]);
const right = (run) => (run.gold === "" ? "unknown" : run.answer === run.gold ? "right" : "wrong");
const slotName = (slot) => (slot === "answer" ? "answer" : slot === "search" ? "answer in the text" : `step.${slot}`);

// The outcomes of a problem under the change that is chosen: one letter a pair, or one for an edge of the ledger.
function outcomes(index) {
  const [kind, at] = state.what.split(":");
  if (kind === "cell") return (model().rows.get(index) ?? []).map((row) => row[3][at]);
  if (kind === "edge") return [...(model().ledger.by[index]?.[at] ?? "")].filter((letter) => letter !== ".");
  return [];
}

// Filters

function fillWhat() {
  const { cells, ledger } = model();
  const groups = [];
  if (cells) {
    const order = [...cells.terms.keys()].sort((a, b) => (b === 4) - (a === 4) || a - b); // tokens first
    const options = order.map((cell) => el("option", { value: `cell:${cell}` }, cell ? cells.terms[cell] : "nothing"));
    groups.push(el("optgroup", { label: "wires set to the donor's value" }, options));
  }
  if (ledger) {
    const options = ledger.edges.map(([target, source], at) =>
      el("option", { value: `edge:${at}` }, `${plain(source)} swapped, ${plain(target)} decoded`));
    groups.push(el("optgroup", { label: "ledger: one source swapped" }, options));
  }
  if (!groups.length) groups.push(el("option", { value: "" }, "nothing was changed in this study"));
  $("what").replaceChildren(...groups);
  state.what = $("what").value;
}

function fillOutcomes() {
  const counts = { D: 0, K: 0, I: 0, B: 0 };
  model().runs.forEach((_, index) => new Set(outcomes(index)).forEach((letter) => letter in counts && counts[letter]++));
  const buttons = Object.entries(counts).map(([letter, n]) => {
    const button = el("button", { type: "button", className: "outcome", ariaPressed: String(state.outcomes.has(letter)) });
    button.dataset.outcome = letter;
    button.append(chip(letter), " ", el("b", {}, n.toLocaleString("en")));
    button.disabled = !n && !state.outcomes.has(letter);
    return button;
  });
  $("outcomes").replaceChildren(...buttons);
}

function filter() {
  const find = state.find.toLowerCase();
  shown = [];
  model().runs.forEach((_, index) => {
    if (find && !model().search[index].includes(find)) return;
    if (state.outcomes.size && !outcomes(index).some((letter) => state.outcomes.has(letter))) return;
    shown.push(index);
  });
  state.page = 0;
  fillList();
  if (!shown.includes(state.run) && shown.length) choose(shown[0]);
}

function fillList() {
  const from = state.page * PAGE;
  const here = shown.slice(from, from + PAGE);
  $("list").start = from + 1;
  $("list").replaceChildren(...here.map(listed));
  $("range").textContent = shown.length
    ? `${(from + 1).toLocaleString("en")}–${(from + here.length).toLocaleString("en")} of ${shown.length.toLocaleString("en")}`
    : "no problem";
  $("before").disabled = !state.page;
  $("after").disabled = from + PAGE >= shown.length;
  rove($("list"), (button) => Number(button.dataset.run) === state.run);
}

function listed(index) {
  const run = model().runs[index];
  const how = right(run);
  const marks = [...new Set(outcomes(index))].map((letter) => {
    const [mark, text, look] = OUTCOMES[letter];
    return el("span", { className: `mark ${look}`, title: text }, mark, el("span", { className: "hidden" }, `, ${text}`));
  });
  const button = el("button", { type: "button", className: "problem", ariaCurrent: String(index === state.run) },
    el("span", { className: "prompt" }, visible(run.prompt.trim(), 160)),
    el("span", { className: "end" }, el("span", { className: "marks" }, marks),
      el("span", { className: `said ${how}` }, "→ ", run.answer === null ? "–" : visible(run.answer, 24),
        el("span", { ariaHidden: "true" }, how === "right" ? " ✓" : how === "wrong" ? " ✗" : ""),
        el("span", { className: "hidden" }, `, ${how}`))));
  button.dataset.run = index;
  return el("li", {}, button);
}

// One tab stop for a row of buttons; arrows move inside it.
function rove(box, isFirst) {
  const buttons = [...box.querySelectorAll("button")];
  const first = buttons.find(isFirst) ?? buttons[0];
  buttons.forEach((button) => { button.tabIndex = button === first ? 0 : -1; });
}

function arrows(box, event) {
  const buttons = [...box.querySelectorAll("button")];
  const at = buttons.indexOf(document.activeElement);
  const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Home: -at, End: buttons.length - 1 - at };
  if (at < 0 || !(event.key in steps)) return;
  event.preventDefault();
  const to = buttons[Math.min(buttons.length - 1, Math.max(0, at + steps[event.key]))];
  buttons.forEach((button) => { button.tabIndex = button === to ? 0 : -1; });
  to.focus();
}

// One problem

function choose(index) {
  state.run = index;
  state.row = 0;
  document.querySelectorAll("#list button").forEach((button) => {
    button.ariaCurrent = String(Number(button.dataset.run) === index);
  });
  const detail = $("detail");
  if (index === null) {
    detail.replaceChildren(quiet("No run is shown."));
    return;
  }
  const run = model().runs[index];
  const segments = run.parts.flatMap(([name, , , inner]) => [name, ...inner.map(([each]) => each)]);
  if (!segments.includes(state.pinned)) state.pinned = segments.find((name) => name.startsWith("step.")) ?? segments[0];
  detail.replaceChildren(heading(run), strip(run), el("p", { id: "say", role: "status" }), el("div", { id: "segment" }),
    el("section", { id: "cells", ariaLabel: "Eight cells" }));
  rove($("strip"), (button) => button.dataset.segment === state.pinned);
  pin(state.pinned);
  fillCells();
}

function heading(run) {
  const how = { right: "right", wrong: "wrong", unknown: "gold answer not known" }[right(run)];
  const facts = [["answer", run.answer === null ? "none that the task can read" : visible(run.answer, 400)],
    ["gold", run.gold === "" ? "not known" : visible(run.gold, 400)], ["it is", how]];
  if (!run.finished) facts.push(["chain", "did not come to its end"]);
  return el("header", {},
    el("h3", {}, visible(run.prompt.trim(), 300)),
    el("dl", { className: "inline" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))));
}

function strip(run) {
  const names = { cot: "chain of thought" };
  const groups = run.parts.map(([name, from, to, inner]) => {
    const label = el("button", { type: "button", className: "segment label" }, names[name] ?? name);
    label.dataset.segment = name;
    const body = el("div", { className: "tokens" });
    let at = from;
    for (const [each, start, stop] of inner) {
      body.append(...tokensOf(run, at, start).map(token));
      const said = tokensOf(run, start, stop);
      const button = el("button", { type: "button", className: "segment" }, el("span", { className: "hidden" }, `${each}: `), said.map(token));
      button.dataset.segment = each;
      body.append(button);
      at = stop;
    }
    body.append(...tokensOf(run, at, to).map(token));
    return el("div", { className: `group ${name}` }, label, body);
  });
  return el("div", { id: "strip", role: "group", ariaLabel: "Tokens of the run. Arrow keys move, Enter selects." }, groups);
}

const token = (text) => el("span", { className: text === "" ? "token part" : "token" }, visible(text));

function pin(name) {
  state.pinned = name;
  look(name);
  document.querySelectorAll("#strip button").forEach((button) => {
    button.ariaPressed = String(button.dataset.segment === name);
  });
  $("say").textContent = summary(name);
}

// What is shown of a segment, without choosing it.
function look(name) {
  state.looked = name;
  document.querySelectorAll("#strip button").forEach((button) => {
    button.classList.toggle("looked", button.dataset.segment === name && name !== state.pinned);
  });
  $("segment").replaceChildren(
    el("section", { className: "card" }, el("h4", {}, "Ledger: ", plain(name)), ledgerOf(name)),
    el("section", { className: "card" }, el("h4", {}, "Probes: ", plain(name)), probesOf(name)));
}

function textOf(name) {
  const run = model().runs[state.run];
  for (const [group, from, to, inner] of run.parts) {
    if (group === name) return tokensOf(run, from, to).join("");
    for (const [each, start, stop] of inner) if (each === name) return tokensOf(run, start, stop).join("");
  }
  return "";
}

function summary(name) {
  const edges = edgesOf(name).filter(([edge]) => edge[1] === name);
  const moved = edges.filter(([, letter]) => letter === "D").map(([edge]) => edge[0]);
  const kept = edges.filter(([, letter]) => letter === "K").map(([edge]) => edge[0]);
  const parts = [`${plain(name)} is “${plain(textOf(name).trim(), 80)}”.`];
  if (moved.length) parts.push(`Swapped alone, it moves ${moved.join(", ")}.`);
  if (kept.length) parts.push(`It leaves ${kept.join(", ")} as ${kept.length > 1 ? "they were" : "it was"}.`);
  return parts.join(" ");
}

// The edges of the ledger from or to a segment, with the outcome for the problem (undefined: not in the ledger).
function edgesOf(name) {
  const ledger = model().ledger;
  const letters = ledger?.by[state.run];
  return (ledger?.edges ?? [])
    .map((edge, at) => [edge, letters?.[at]])
    .filter(([[target, source]]) => target === name || source === name);
}

function ledgerOf(name) {
  const { ledger, reasons } = model();
  if (!ledger) return quiet("There is no ledger. ", reasons.ledger ? visible(reasons.ledger, 600) : "The notes may say why.");
  const edges = edgesOf(name);
  if (!edges.length) return quiet("The ledger swaps variables and steps, and decodes steps and the answer: choose one of these.");
  const found = [];
  if (!(state.run in ledger.by)) {
    found.push(quiet(`This problem is not among the ${ledger.problems} of the ledger; the rates over them are shown.`));
  }
  const heads = ["", "this problem", ledger.scored === "program" ? "rate: moved" : "rate: donor's", "unchanged", "of"];
  const row = (other, [edge, letter]) => [
    el("th", { scope: "row" }, plain(other), edge[2] ? el("span", { className: "quiet" }, " (a copy)") : null),
    el("td", {}, letter ? chip(letter, { D: "moved", K: "unchanged", B: "neither", "~": "samples differ", ".": "says nothing" }[letter]) : "–"),
    el("td", { className: "number" }, interval(edge[3])), el("td", { className: "number" }, number(edge[4][0])),
    el("td", { className: "number" }, edge[3][3] === null ? "–" : String(edge[3][3])),
  ];
  const from = edges.filter(([edge]) => edge[1] === name);
  const to = edges.filter(([edge]) => edge[0] === name);
  if (from.length) found.push(table(`${plain(name)} swapped alone: what is decoded later`, heads, from.map((each) => row(each[0][0], each))));
  if (to.length) found.push(table(`${plain(name)} decoded, with one source swapped before it`, heads, to.map((each) => row(each[0][1], each))));
  return found.length > 1 || from.length || to.length ? el("div", {}, found) : quiet("No pair says anything of it.");
}

// Probes

function probesOf(name) {
  const { probes, beyond, forced, reasons } = model();
  const found = [];
  const place = `${name}[-1]`;
  if (probes) {
    for (const mode of ["cot", "answer-only"]) {
      const at = probes.place.indexOf(`${mode} ${place}`);
      if (at >= 0) found.push(...probes.site.map((site, s) => readings(probes, at, s, mode, site)));
    }
  }
  if (beyond && beyond.place.includes(place)) found.push(beyondOf(beyond, beyond.place.indexOf(place)));
  const step = /^step\.(\d+)$/.exec(name);
  if (forced && step && forced.k.includes(Number(step[1]))) found.push(forcedOf(forced, forced.k.indexOf(Number(step[1]))));
  if (found.length) return el("div", {}, found);
  const none = probes || beyond ? "Probes read the ends of the prompt, of the opening text, of each step and of the cue." :
    "No probe was fitted.";
  return quiet(none, " ", !probes && reasons.decodability ? visible(reasons.decodability, 600) : "");
}

const NOT_READ = (n) => quiet(`This problem is not among the ${n} that were read; the mean over them is shown.`);

function readings(probes, place, site, mode, name) {
  const { layer: layers, variable: variables } = probes;
  const own = probes.by[state.run];
  const value = (from, l, v) => {
    const flat = ((place * probes.site.length + site) * layers.length + l) * variables.length + v;
    return from[flat] === null ? null : from[flat] / 100;
  };
  const most = Math.max(1, ...probes.entropy.filter((bits) => bits !== null));
  const rows = [];
  for (const [told, from] of [["this problem", own], [`mean of ${probes.problems}`, probes.mean]]) {
    if (!from) continue;
    variables.forEach((variable, v) => rows.push([
      el("th", { scope: "row" }, plain(variable), el("span", { className: "quiet" }, ` ${told}`)),
      ...layers.map((_, l) => heat(value(from, l, v), most)),
    ]));
  }
  const run = mode === "cot" ? "in this run" : "where it answers at once";
  const made = table(`Bits read ${run}, by layer (${name})`, ["variable", ...layers.map((layer) => `layer ${layer}`)], rows);
  return el("div", {}, own ? null : NOT_READ(probes.problems), made);
}

function heat(bits, most) {
  const cell = el("td", { className: "number heat" }, number(bits, 1));
  cell.style.setProperty("--heat", `${Math.round(70 * Math.max(0, Math.min(1, (bits ?? 0) / most)))}%`);
  return cell;
}

function beyondOf(beyond, place) {
  const own = beyond.by[state.run];
  const value = (from, c, v) => {
    const bits = from[(c * beyond.variable.length + v) * beyond.place.length + place];
    return bits === null ? null : bits / 100;
  };
  const rows = [];
  for (const [told, from] of [["this problem", own], [`mean of ${beyond.problems}`, beyond.mean]]) {
    if (!from) continue;
    beyond.variable.forEach((variable, v) => rows.push([
      el("th", { scope: "row" }, plain(variable), el("span", { className: "quiet" }, ` ${told}`)),
      ...beyond.curve.map((_, c) => el("td", { className: "number" }, number(value(from, c, v)))),
    ]));
  }
  const heads = ["variable", ...beyond.curve.map((curve) => ({ text: "text so far", state: "state", beyond: "state beyond text" })[curve] ?? curve)];
  return el("div", {}, own ? null : NOT_READ(beyond.problems), table("Bits here, at the layer that each training part chose", heads, rows));
}

function forcedOf(forced, k) {
  const own = forced.by[state.run]?.[k];
  const here = own === undefined || own === null ? "" : own === 100 ? "The answer that is forced here is the final one. " :
    own === 0 ? "The answer that is forced here is another than the final one. " : "Forced here, the final answer ties with others. ";
  const mean = forced.mean[k];
  return quiet(here, mean === null ? "" : `Over ${forced.problems} problems it is the final one in ${percent(mean / 100)}.`);
}

// Eight cells

function fillCells() {
  const { cells } = model();
  const box = $("cells");
  const head = el("h4", {}, "Eight cells");
  if (!cells) {
    const why = model().reasons.channels;
    box.replaceChildren(head, quiet("No wires were measured. ", why ? visible(why, 600) : "The notes may say why."));
    return;
  }
  const rows = model().rows.get(state.run) ?? [];
  const row = rows[Math.min(state.row, rows.length - 1)];
  const target = cells.target === cells.slot ? cells.target : `${cells.target} (${slotName(cells.slot)})`;
  const said = [quiet("Each of the three wires from the prompt to the target carries this problem's value or that of a donor, a prompt that differs in one variable. ",
    `Target: ${target}. Of each answer it is kept whose it is, not its text; “broken” is another one, or none.`)];
  if (!row) said.push(quiet("This problem is in no measured pair; the rates over all pairs are shown."));
  if (rows.length) said.push(pairChoice(rows, row));
  box.replaceChildren(head, ...said, cellTable(cells, row));
}

function pairChoice(rows, row) {
  const donor = typeof row[1] === "number" ? model().runs[row[1]].prompt : row[1];
  const select = el("select", { id: "row" }, rows.map((each, at) => {
    const text = typeof each[1] === "number" ? model().runs[each[1]].prompt : each[1];
    return el("option", { value: String(at), selected: each === row }, `${plain(model().cells.variables[each[2]])}: ${plain(text.trim(), 50)}`);
  }));
  select.addEventListener("change", () => { state.row = Number(select.value); fillCells(); $("row").focus(); });
  const go = typeof row[1] === "number" ? el("button", { type: "button" }, "Show the donor's run") : null;
  go?.addEventListener("click", () => { choose(row[1]); $("detail").focus(); });
  return el("div", { className: "donor" }, el("div", { className: "field" }, el("label", { htmlFor: "row" }, `Donor (${count(rows.length, "pair")})`), select), go,
    el("p", { className: "text" }, visible(donor.trim(), 400)));
}

function cellTable(cells, row) {
  const wires = ["direct", "relay", "tokens"];
  const variable = row ? row[2] : null;
  const n = variable === null ? cells.pairs.reduce((sum, each) => sum + each, 0) : cells.pairs[variable];
  const rate = (cell, code) => (variable !== null ? cells.rates[variable][cell][code]
    : cells.rates.reduce((sum, each, v) => sum + (each[cell][code] ?? 0) * cells.pairs[v], 0) / n);
  const body = cells.terms.map((_, cell) => {
    const marks = wires.map((wire, bit) => {
      const on = Boolean((cell >> bit) & 1);
      return el("td", { className: "wire" }, el("span", { className: `dot ${wire} ${on ? "on" : ""}`, ariaHidden: "true" }), el("span", { className: "hidden" }, on ? "donor's" : "own"));
    });
    const own = !row ? [] : [
      el("td", {}, chip(row[3][cell])), el("td", { className: "number" }, number(row[4][cell], 1)),
      el("td", { className: "number" }, number(row[5][cell])), el("td", { className: "number" }, number(row[6][cell]))];
    const all = [0, 1, 2, 3].map((code) => [["D", "K", "I", "B"][code], rate(cell, code)]);
    return [...marks, ...own, el("td", { className: "rates" }, bar(all))];
  });
  const own = row ? ["answer", "log-odds (nats)", "p(donor's)", "p(own)"] : [];
  const of = variable === null ? "all variables" : plain(cells.variables[variable]);
  const made = table("A filled dot: the wire carries the donor's value", [...wires, ...own, `all ${n} pairs, ${of}`], body);
  made.classList.add("eight");
  return made;
}

// How often each outcome is met, as a bar and in words.
function bar(rates) {
  const parts = rates.filter(([, rate]) => rate > 0);
  const drawn = el("span", { className: "bar", ariaHidden: "true" }, parts.map(([letter, rate]) => {
    const part = el("span", { className: OUTCOMES[letter][2] });
    part.style.setProperty("flex-grow", String(rate));
    return part;
  }));
  const [letter, rate] = [...parts].sort((a, b) => b[1] - a[1])[0] ?? [".", null];
  const words = parts.map(([each, share]) => `${OUTCOMES[each][1]} ${percent(share)}`).join(", ");
  return el("span", { className: "rate", title: words }, drawn, el("span", { ariaHidden: "true" }, `${OUTCOMES[letter][0]} ${percent(rate)}`), el("span", { className: "hidden" }, words));
}

// Start

function useModel(index) {
  Object.assign(state, { model: index, run: null });
  state.outcomes.clear();
  const { runs, problems, samples, mode } = model();
  const chains = mode === "cot" ? "runs with a chain of thought" : "answers at once";
  const kept = runs.length < problems ? `${count(runs.length, "problem")} of ${problems.toLocaleString("en")} are kept`
    : `All ${count(problems, "problem")} that were run are kept`;
  const sampled = samples > 1 ? ` Of ${samples} samples the first is shown.` : "";
  $("coverage").textContent = problems ? `${kept}: ${chains}.${sampled} Not every analysis is of every problem; what is not of one is said there.`
    : "This study kept no runs of single problems.";
  fillWhat();
  fillOutcomes();
  filter();
  if (!shown.length) choose(null);
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = `Theme: ${name}`;
}

function start() {
  const themes = ["auto", "light", "dark"];
  let stored = null;
  try { stored = localStorage.getItem("loadbearing-theme"); } catch { /* a page from a file may have no storage */ }
  theme(themes.includes(stored) ? stored : "auto");
  $("theme").hidden = false;
  $("theme").addEventListener("click", () => {
    theme(themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length]);
    try { localStorage.setItem("loadbearing-theme", document.documentElement.dataset.theme); } catch { /* as above */ }
  });
  if (!sources.length) return;
  $("browser").hidden = false;
  $("model").replaceChildren(...sources.map((source, at) => el("option", { value: String(at) }, plain(source.dataset.name, 60))));
  $("model").parentElement.hidden = sources.length < 2;
  listen();
  useModel(0);
}

function listen() {
  $("model").addEventListener("change", () => useModel(Number($("model").value)));
  $("what").addEventListener("change", () => {
    state.what = $("what").value;
    state.outcomes.clear();
    fillOutcomes();
    filter();
  });
  $("outcomes").addEventListener("click", (event) => {
    const letter = event.target.closest("button")?.dataset.outcome;
    if (!letter) return;
    if (!state.outcomes.delete(letter)) state.outcomes.add(letter);
    event.target.closest("button").ariaPressed = String(state.outcomes.has(letter));
    filter();
  });
  $("find").addEventListener("input", () => { state.find = $("find").value; filter(); });
  $("before").addEventListener("click", () => { state.page--; fillList(); });
  $("after").addEventListener("click", () => { state.page++; fillList(); });
  $("list").addEventListener("keydown", (event) => arrows($("list"), event));
  $("list").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) choose(Number(button.dataset.run));
  });
  const detail = $("detail");
  const segment = (event) => event.target.closest?.("#strip button")?.dataset.segment;
  detail.addEventListener("click", (event) => { if (segment(event)) pin(segment(event)); });
  detail.addEventListener("keydown", (event) => { if (segment(event)) arrows($("strip"), event); });
  detail.addEventListener("pointerover", (event) => {
    const name = segment(event) ?? state.pinned;
    if (event.pointerType !== "touch" && $("strip") && name !== state.looked) look(name);
  });
}

start();
