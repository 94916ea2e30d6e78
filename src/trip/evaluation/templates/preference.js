"use strict";

const study = JSON.parse(document.getElementById("data").textContent);
const HOLD = 0.5; // seconds that the last frame stays before a clip repeats
const find = (id) => document.getElementById(id);
const fields = [...document.querySelectorAll("fieldset")];

let state = null; // what is stored: rater, started, finished, kept, votes by pair
let order = []; // this rater's order of the pairs
let place = 0; // index in order
let question = 0; // that the keys answer
let shownAt = 0;

// ------------------------------------------------------------------------------------------------ the rater's order

function hashed(text) {
  let value = 2166136261; // FNV-1a
  for (const byte of new TextEncoder().encode(text)) value = Math.imul(value ^ byte, 16777619) >>> 0;
  return value;
}

function draws(seed) {
  return () => { // mulberry32
    seed = (seed + 0x6d2b79f5) >>> 0;
    let value = Math.imul(seed ^ (seed >>> 15), seed | 1);
    value ^= value + Math.imul(value ^ (value >>> 7), value | 61);
    return ((value ^ (value >>> 14)) >>> 0) / 4294967296;
  };
}

function orderOf(rater) {
  const draw = draws(hashed(study.page + rater));
  const mixed = study.pairs.slice();
  for (let last = mixed.length - 1; last > 0; last--) {
    const other = Math.floor(draw() * (last + 1));
    [mixed[last], mixed[other]] = [mixed[other], mixed[last]];
  }
  return mixed;
}

// ---------------------------------------------------------------------------------------------------------- storage

// Kept twice: in the browser's storage, for another day and other raters, and in the tab's history entry, which survives
// a reload where storage is switched off or, as Chromium's does on a busy machine, shows what was last written to disk.

const lastKey = `trip-preference:${study.page}`;
const storageKey = (rater) => `${lastKey}:${rater}`;

function stored(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null; // storage is switched off
  }
}

function keep() {
  state.kept = Date.now();
  try {
    localStorage.setItem(storageKey(state.rater), JSON.stringify(state));
    localStorage.setItem(lastKey, state.rater);
  } catch { /* as above */ }
  try {
    history.replaceState({ [lastKey]: state }, "");
  } catch { /* Safari takes 100 in half a minute */ }
}

const ofTab = () => history.state?.[lastKey];

function restored(rater) {
  const copies = [JSON.parse(stored(storageKey(rater)) ?? "null"), ofTab()].filter((copy) => copy?.rater === rater);
  return copies.sort((one, other) => other.kept - one.kept)[0] ?? null;
}

const complete = (vote) => vote !== undefined && study.questions.every((name) => name in vote.answers);
const answered = (of) => study.pairs.filter((pair) => complete(of.votes[pair.pair])).length;

// ---------------------------------------------------------------------------------------------------------- playing

const player = {
  sheets: null, pair: null, start: 0, at: 0, playing: !matchMedia("(prefers-reduced-motion: reduce)").matches,

  async show(pair) {
    this.sheets = null;
    this.pair = pair;
    for (const side of ["left", "right"]) {
      const canvas = find(side);
      [canvas.width, canvas.height] = [pair.width, pair.height];
    }
    const sheets = await Promise.all(["left", "right"].map(async (side) => {
      const sheet = new Image();
      sheet.src = pair[side];
      await sheet.decode();
      return [side, sheet];
    }));
    if (this.pair !== pair) return;
    this.sheets = sheets;
    this.restart();
  },

  restart() {
    this.at = 0;
    this.start = performance.now();
    this.draw();
  },

  toggle() {
    this.playing = !this.playing;
    this.start = performance.now() - this.at * 1000;
    label();
  },

  tick(now) {
    if (this.sheets && this.playing) {
      this.at = ((now - this.start) / 1000) % (this.pair.frames / this.pair.fps + HOLD);
      this.draw();
    }
    requestAnimationFrame((time) => this.tick(time));
  },

  draw() { // both clips at the same frame, always
    const { frames, columns, width, height, fps } = this.pair;
    const frame = Math.max(0, Math.min(Math.floor(this.at * fps), frames - 1));
    const [x, y] = [(frame % columns) * width, Math.floor(frame / columns) * height];
    for (const [side, sheet] of this.sheets ?? []) {
      find(side).getContext("2d").drawImage(sheet, x, y, width, height, 0, 0, width, height);
      find(side).dataset.frame = frame;
    }
  },
};

const label = () => { find("pause").textContent = player.playing ? "Pause" : "Play"; };

// ---------------------------------------------------------------------------------------------------------- screens

function screen(id) {
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== id;
  scrollTo(0, 0);
}

function begin(rater) {
  state = restored(rater) ?? { rater, started: new Date().toISOString(), finished: null, votes: {} };
  order = orderOf(rater);
  keep();
  const open = order.findIndex((pair) => !complete(state.votes[pair.pair]));
  if (open < 0) finish();
  else show(open, 0);
}

function show(index, at) {
  [place, question, shownAt] = [index, at, performance.now()];
  const pair = order[place];
  screen("study");
  label();
  find("place").textContent = `Pair ${place + 1} of ${order.length}`;
  find("prompt").textContent = pair.prompt ? `“${pair.prompt}”` : "";
  player.show(pair);
  const { answers = {} } = state.votes[pair.pair] ?? {};
  for (const field of fields) {
    for (const input of field.querySelectorAll("input")) input.checked = answers[field.dataset.question] === input.value;
  }
  if (at === 0) question = Math.max(0, fields.findIndex((field) => !(field.dataset.question in answers)));
  refresh();
}

function refresh() {
  const vote = state.votes[order[place].pair];
  find("bar").max = order.length;
  find("bar").value = answered(state);
  find("back").disabled = place === 0 && question === 0;
  find("next").disabled = !complete(vote);
  find("next").textContent = place === order.length - 1 ? "Finish" : "Next pair";
  fields.forEach((field, index) => field.classList.toggle("current", index === question));
}

function answer(name, value) {
  const label = order[place].pair;
  const vote = (state.votes[label] ??= { answers: {}, seconds: 0 });
  vote.answers[name] = value;
  vote.answered = new Date().toISOString();
  vote.seconds += (performance.now() - shownAt) / 1000;
  shownAt = performance.now();
  keep();
  const field = fields.findIndex((one) => one.dataset.question === name);
  for (const input of fields[field].querySelectorAll("input")) input.checked = input.value === value;
  question = Math.min(field + 1, fields.length);
  refresh();
  if (complete(vote) && question === fields.length) find("next").focus();
}

function next() {
  if (!complete(state.votes[order[place].pair])) return;
  document.activeElement.blur();
  if (place + 1 < order.length) show(place + 1, 0);
  else finish();
}

function back() {
  if (question > 0) {
    question -= 1;
    refresh();
  } else if (place > 0) show(place - 1, fields.length - 1);
}

function finish() {
  const open = order.findIndex((pair) => !complete(state.votes[pair.pair]));
  if (open >= 0) {
    show(open, 0);
    return;
  }
  state.finished ??= new Date().toISOString();
  keep();
  screen("done");
  find("summary").textContent = `You have answered all ${order.length} pairs, ${state.rater}.`;
  find("save").focus();
}

// ---------------------------------------------------------------------------------------------------------- the file

function ballot() {
  const votes = order.flatMap((pair, position) => {
    const vote = state.votes[pair.pair];
    return vote ? [{ pair: pair.pair, position, ...vote, seconds: Math.round(vote.seconds * 10) / 10 }] : [];
  });
  return { format: study.format, page: study.page, rater: state.rater, started: state.started, finished: state.finished, votes };
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(ballot(), null, 2) + "\n"], { type: "application/json" }));
  link.download = `votes-${state.rater.replace(/[^\p{L}\p{N}_-]+/gu, "-")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// ---------------------------------------------------------------------------------------------------------- controls

const KEYS = {
  ArrowLeft: () => question < fields.length && answer(fields[question].dataset.question, "left"),
  ArrowRight: () => question < fields.length && answer(fields[question].dataset.question, "right"),
  ArrowDown: () => question < fields.length && answer(fields[question].dataset.question, "tie"),
  Enter: next,
  Backspace: back,
  p: () => player.toggle(),
  r: () => player.restart(),
};

document.addEventListener("keydown", (event) => {
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  const own = event.key === "Enter" && event.target.closest("button"); // the button's own business
  if (find("study").hidden || !act || own || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act();
});

find("start").addEventListener("submit", (event) => {
  event.preventDefault();
  const rater = find("rater").value.trim();
  if (rater) begin(rater);
});

function greet() {
  const known = restored(find("rater").value.trim());
  find("known").textContent = known ? `${answered(known)} of ${study.pairs.length} pairs are answered under this name; you go on from there.` : "";
}

find("rater").addEventListener("input", greet);
find("questions").addEventListener("submit", (event) => event.preventDefault());
find("questions").addEventListener("change", (event) => answer(event.target.name, event.target.value));
find("pause").addEventListener("click", () => player.toggle());
find("replay").addEventListener("click", () => player.restart());
find("back").addEventListener("click", back);
find("next").addEventListener("click", next);
find("review").addEventListener("click", () => show(order.length - 1, fields.length - 1));
find("save").addEventListener("click", save);

find("count").textContent = study.pairs.length;
find("rater").value = ofTab()?.rater ?? stored(lastKey) ?? "";
greet();
requestAnimationFrame((time) => player.tick(time));
