// The forms of the page: made from each model's signature, which the page carries as JSON.
// Values stay JSON text from end to end: a number typed here reaches the model digit by digit.

const MORE_AT_ONCE = 120; // fields drawn at first, and with each "more"
const FILTER_FROM = 25; // fewer fields need no search box
const OPTIONS_LIMIT = 200; // longer lists of categories become a box with suggestions
const ROWS_SHOWN = 200;
const BARS_SHOWN = 12;
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/;
const KEY = "lagar-key";
const TYPES = { json: "application/json", csv: "text/csv", ndjson: "application/x-ndjson" };

const facts = JSON.parse(document.getElementById("models").textContent);
let serial = 0;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// ---- values -------------------------------------------------------------------------------------------------------

/** JSON text → what a person reads and edits. */
function shown(token) {
  if (token === null || token === "null") return "";
  return token.startsWith('"') ? JSON.parse(token) : token;
}

/** What a person typed → JSON text; null: leave the field out. What is no number goes as text, and the server says so. */
function written(field, text) {
  if (text === "") {
    if (field.nullable) return "null";
    return field.type === "string" && !field.optional ? '""' : null;
  }
  if (field.type === "string") return JSON.stringify(text);
  const trimmed = text.trim();
  if (field.type !== "bool" && NUMBER.test(trimmed)) return numeral(trimmed);
  if (field.type === "unknown") {
    try {
      JSON.parse(trimmed);
      return trimmed;
    } catch {
      return JSON.stringify(text);
    }
  }
  return trimmed === "true" || trimmed === "false" ? trimmed : JSON.stringify(text);
}

/** "+3", "007", ".5" and "5." as JSON writes them. */
function numeral(text) {
  const [, sign, whole, fraction, power] = /^([+-]?)(\d*)\.?(\d*)([eE].*)?$/.exec(text);
  const head = whole.replace(/^0+(?=\d)/, "") || "0";
  return (sign === "-" ? "-" : "") + head + (fraction ? "." + fraction : "") + (power || "");
}

// ---- one field ----------------------------------------------------------------------------------------------------

class FieldBox {
  constructor(field) {
    this.field = field;
    this.id = "f" + ++serial;
    this.token = field.example;
    this.box = null;
  }

  draw() {
    if (this.box) return this.box;
    const { field, id } = this;
    this.control = this.control_();
    this.control.id = id;
    this.hint = make("p", { class: "hint", id: id + "-hint" }, field.hint);
    this.wrong = make("p", { class: "wrong", id: id + "-wrong", hidden: true });
    this.control.setAttribute("aria-describedby", `${id}-hint ${id}-wrong`);
    this.box = make("div", { class: "field" }, make("label", { for: id }, field.name), this.control);
    if (this.other) this.box.append(this.other);
    this.box.append(this.hint, this.wrong);
    if (this.control.tagName === "TEXTAREA") this.box.classList.add("wide");
    const changed = () => {
      this.token = this.read();
      this.clear();
      this.box.dispatchEvent(new CustomEvent("asked", { bubbles: true }));
    };
    this.box.addEventListener("input", changed);
    this.box.addEventListener("change", () => this.token !== this.read() && changed());
    this.fill();
    return this.box;
  }

  control_() {
    const { field } = this;
    if (field.categories && field.categories.length <= OPTIONS_LIMIT) return this.choices(field.categories);
    if (field.type === "bool") return this.choices(["true", "false"]);
    const text = field.example ? shown(field.example) : "";
    if (field.type === "string" && !field.categories && (text.length > 40 || text.includes("\n") || this.alone)) {
      return make("textarea", { rows: 3, spellcheck: "false", placeholder: field.nullable ? "null" : "" });
    }
    const mode = field.type === "float" ? "decimal" : field.type === "int" ? "numeric" : "text";
    const box = make("input", { type: "text", inputmode: mode, autocomplete: "off", spellcheck: "false" });
    if (field.nullable) box.placeholder = "null";
    else if (field.optional) box.placeholder = "default";
    if (field.categories) {
      const list = make("datalist", { id: this.id + "-list" }, ...field.categories.map((token) => make("option", { value: shown(token) })));
      box.setAttribute("list", list.id);
      document.body.append(list);
    }
    return box;
  }

  choices(tokens) {
    const { field } = this;
    const select = make("select");
    if (field.optional) select.append(make("option", { value: "" }, "(default)"));
    if (field.nullable && !tokens.includes("null")) select.append(make("option", { value: "null" }, "(null)"));
    if (!field.optional && field.example === null) select.append(make("option", { value: "" }, "(choose)"));
    for (const token of tokens) select.append(make("option", { value: token }, token === "null" ? "(null)" : shown(token) || "(empty text)"));
    if (field.open && field.categories) {
      select.append(make("option", { value: "other" }, "other…"));
      this.other = make("input", { type: "text", hidden: true, autocomplete: "off", "aria-label": field.name + ", another value" });
      select.addEventListener("change", () => {
        this.other.hidden = select.value !== "other";
        if (!this.other.hidden) this.other.focus();
      });
    }
    return select;
  }

  /** Puts the token into the control. */
  fill() {
    if (!this.control) return;
    if (this.control.tagName !== "SELECT") {
      this.control.value = shown(this.token);
      return;
    }
    const token = this.token ?? "";
    const known = [...this.control.options].some((option) => option.value === token);
    this.control.value = known ? token : this.other ? "other" : "";
    if (this.other) {
      this.other.hidden = known;
      this.other.value = known ? "" : shown(this.token);
    }
  }

  read() {
    const { control, field } = this;
    if (control.tagName !== "SELECT") {
      const known = (field.categories || []).find((token) => shown(token) === control.value);
      return known ?? written(field, control.value);
    }
    if (control.value === "other") return written(field, this.other.value);
    return control.value === "" ? null : control.value;
  }

  reset() {
    this.token = this.field.example;
    this.fill();
    this.clear();
  }

  clear() {
    if (!this.box) return;
    this.wrong.hidden = true;
    this.wrong.textContent = "";
    for (const control of [this.control, this.other]) control?.removeAttribute("aria-invalid");
  }

  fail(message) {
    this.wrong.textContent = message;
    this.wrong.hidden = false;
    const control = this.other && !this.other.hidden ? this.other : this.control;
    control.setAttribute("aria-invalid", "true");
    control.focus();
    this.box.scrollIntoView({ block: "nearest" });
  }
}

// ---- one version --------------------------------------------------------------------------------------------------

class Version {
  constructor(article, form) {
    this.article = article;
    this.form = form;
    this.boxes = form.fields.map((field) => new FieldBox(field));
    if (this.boxes.length <= 2) for (const box of this.boxes) box.alone = true;
    this.limit = MORE_AT_ONCE;
    this.ready = false;
  }

  find(selector) {
    return this.article.querySelector(selector);
  }

  /** Draws the form when the version is first looked at. */
  open() {
    if (this.ready) return;
    this.ready = true;
    this.tabs();
    this.asForm();
    this.asBatch();
    this.find(".copy").addEventListener("click", (event) => copy(this.find(".curl"), event.currentTarget));
    if (!this.boxes.length) this.choose("batch");
    this.retell();
  }

  tabs() {
    const tabs = [...this.article.querySelectorAll("[role=tab]")];
    for (const tab of tabs) {
      tab.addEventListener("click", () => this.choose(tab.dataset.tab));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
        this.choose(next.dataset.tab);
        next.focus();
      });
    }
  }

  choose(name) {
    for (const tab of this.article.querySelectorAll("[role=tab]")) {
      const chosen = tab.dataset.tab === name;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !chosen;
    }
    this.tab = name;
    this.retell();
  }

  asForm() {
    const form = this.find(".form");
    const filter = this.find(".filter");
    this.places = this.find(".fields");
    this.search = filter.querySelector("input");
    filter.hidden = this.boxes.length < FILTER_FROM;
    this.places.classList.toggle("long", !filter.hidden);
    if (!this.boxes.length) {
      this.places.replaceWith(make("p", { class: "note" }, "The fields of this model are unknown: paste rows as JSON or CSV."));
      this.find(".form .actions").hidden = true;
      return;
    }
    this.search.addEventListener("input", () => {
      this.limit = MORE_AT_ONCE;
      this.draw();
    });
    this.draw();
    form.addEventListener("asked", () => this.retell());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send(event.submitter);
    });
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      for (const box of this.boxes) box.reset();
      this.retell();
    });
    submitFromText(form);
  }

  draw() {
    const wanted = this.search.value.trim().toLowerCase();
    const matching = this.boxes.filter((box) => box.field.name.toLowerCase().includes(wanted));
    const drawn = matching.slice(0, this.limit);
    this.places.replaceChildren(...drawn.map((box) => box.draw()));
    if (drawn.length < matching.length) {
      const more = make("button", { type: "button", class: "quiet" }, `Show ${Math.min(MORE_AT_ONCE, matching.length - drawn.length)} more`);
      more.addEventListener("click", () => {
        this.limit += MORE_AT_ONCE;
        this.draw();
        matching[drawn.length].control.focus();
      });
      this.places.append(more);
    }
    this.find(".count").textContent = wanted ? `${matching.length} of ${this.boxes.length} fields` : `${this.boxes.length} fields; all of them are sent, shown or not`;
  }

  asBatch() {
    const form = this.find(".batch");
    const kind = form.querySelector(".kind");
    const text = form.querySelector("textarea");
    const refill = () => {
      text.value = this.form[kind.value];
      this.retell();
    };
    for (const option of [...kind.options]) if (option.value !== "json" && !this.form[option.value] && this.form.json) option.remove();
    text.value = this.form.json;
    text.addEventListener("input", () => this.retell());
    kind.addEventListener("change", refill);
    form.querySelector("[type=file]").addEventListener("change", async (event) => {
      const file = event.target.files[0];
      if (!file) return;
      const ending = file.name.split(".").pop().toLowerCase();
      kind.value = { csv: "csv", ndjson: "ndjson", jsonl: "ndjson" }[ending] || "json";
      text.value = await file.text();
      this.retell();
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send(event.submitter);
    });
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      form.querySelector("[type=file]").value = "";
      refill();
    });
    submitFromText(form);
  }

  /** What would be sent now: its content type and body. */
  asked() {
    if (this.tab === "batch") {
      const kind = this.find(".kind").value;
      return { kind, type: TYPES[kind], body: this.find("textarea.body").value };
    }
    const parts = this.boxes.filter((box) => box.token !== null).map((box) => `  ${JSON.stringify(box.field.name)}: ${box.token}`);
    return { kind: "form", type: TYPES.json, body: parts.length ? "{\n" + parts.join(",\n") + "\n}" : "{}" };
  }

  /** Shows the request as a command. */
  retell() {
    if (!this.ready) return;
    const { type, body } = this.asked();
    const lines = [`curl ${quoted(location.origin + this.form.path)}`, `-H 'Content-Type: ${type}'`];
    if (facts.wantsKey) lines.push('-H "Authorization: Bearer $LAGAR_KEY"');
    lines.push(`--data-binary ${quoted(body)}`);
    this.find(".curl").textContent = lines.join(" \\\n  ");
  }

  async send(button) {
    for (const box of this.boxes) box.clear();
    const { kind, type, body } = this.asked();
    const headers = { "Content-Type": type, Accept: "application/json" };
    const key = sessionStorage.getItem(KEY);
    if (key) headers.Authorization = "Bearer " + key;
    button?.setAttribute("aria-busy", "true");
    const started = performance.now();
    try {
      // With the origin, since a page that was opened with a key in its address gives relative ones that key too.
      const response = await fetch(location.origin + this.form.path, { method: "POST", headers, body });
      const text = await response.text();
      const status = `${response.status} in ${(performance.now() - started).toFixed(0)} ms · request ${response.headers.get("X-Request-Id") || "without id"}`;
      let answer;
      try {
        answer = JSON.parse(text);
      } catch {
        answer = undefined;
      }
      if (response.ok) this.show(answer, text, status);
      else this.refused(response.status, answer?.error, text, status, kind);
    } catch (error) {
      this.result(make("p", { class: "failure" }, make("strong", {}, "No answer: "), String(error.message || error)));
    } finally {
      button?.removeAttribute("aria-busy");
    }
  }

  result(...parts) {
    this.find(".result").replaceChildren(...parts);
    this.find(".answer").scrollIntoView({ block: "nearest" });
  }

  show(answer, text, status) {
    const parts = [];
    if (Array.isArray(answer?.predictions)) parts.push(answer.predictions.length === 1 ? one(answer) : many(answer));
    else if (answer && typeof answer === "object") parts.push(...shaped(answer));
    const raw = make("pre", { tabindex: "0" }, answer === undefined ? text : JSON.stringify(answer, null, 2));
    parts.push(make("details", { class: "raw", open: parts.length === 0 }, make("summary", {}, "The whole answer"), raw));
    this.result(...parts, make("p", { class: "status" }, status));
  }

  refused(code, error, text, status, kind) {
    const message = typeof error === "string" ? error : error?.message || text || "no reason given";
    const where = [];
    if (error?.field) where.push(`field ${error.field}`);
    if (Number.isInteger(error?.row) && kind !== "form") where.push(`row ${error.row}, counted from 0`);
    const failure = make("p", { class: "failure" }, make("strong", {}, where.length ? where.join(", ") + ": " : "Refused: "), message);
    this.result(failure, make("p", { class: "status" }, status));
    if (code === 401 || code === 403) askForKey(message);
    else if (kind === "form") this.point(error?.field, message);
    else this.pointLine(kind, error?.row);
  }

  /** Puts the error beside its field, which may be filtered out or not drawn yet. */
  point(name, message) {
    const at = this.boxes.findIndex((box) => box.field.name === name);
    if (at < 0) return;
    if (!this.boxes[at].box?.isConnected) {
      this.search.value = "";
      this.limit = Math.max(this.limit, at + 1);
      this.draw();
    }
    this.boxes[at].fail(message);
  }

  pointLine(kind, row) {
    if (!Number.isInteger(row) || kind === "json") return;
    const text = this.find("textarea.body");
    const lines = text.value.split("\n");
    const line = row + (kind === "csv" ? 1 : 0);
    if (line >= lines.length) return;
    const start = lines.slice(0, line).reduce((sum, other) => sum + other.length + 1, 0);
    text.focus();
    text.setSelectionRange(start, start + lines[line].length);
  }
}

// ---- answers ------------------------------------------------------------------------------------------------------

function plain(value) {
  if (Array.isArray(value)) return value.map(plain).join(", ");
  if (typeof value === "number" && !Number.isInteger(value)) return String(Number(value.toPrecision(8)));
  return value !== null && typeof value === "object" ? JSON.stringify(value) : String(value);
}

function percent(share) {
  return (100 * share).toFixed(share > 0.9995 || share < 0.0005 ? 2 : 1) + " %";
}

function track(share) {
  const fill = make("div", { class: "fill" });
  fill.style.width = `${Math.max(0, Math.min(100, 100 * share))}%`;
  return make("div", { class: "track", "aria-hidden": "true" }, fill);
}

/** Further outputs of a row, by name: decision_function, transform, … */
function further(answer, row) {
  const known = new Set(["model", "version", "id", "ids", "predictions", "probabilities", "classes"]);
  return Object.entries(answer)
    .filter(([name, values]) => !known.has(name) && Array.isArray(values) && values.length === answer.predictions.length)
    .map(([name, values]) => [name, plain(values[row])]);
}

function chances(answer, row) {
  const shares = answer.probabilities?.[row];
  if (!Array.isArray(shares) || !shares.every((share) => typeof share === "number")) return [];
  return shares.map((share, index) => [plain(answer.classes?.[index] ?? index), share]).sort((a, b) => b[1] - a[1]);
}

function one(answer) {
  const box = make("div", {}, make("p", { class: "prediction" }, plain(answer.predictions[0])));
  const pairs = chances(answer, 0);
  if (pairs.length) {
    const list = make("ul", { class: "chances", "aria-label": "Probabilities" });
    pairs.slice(0, BARS_SHOWN).forEach(([label, share], index) => {
      list.append(
        make("li", { class: index ? "chance" : "chance top" }, make("span", { class: "label" }, label), make("span", { class: "share" }, percent(share)), track(share)),
      );
    });
    box.append(list);
    if (pairs.length > BARS_SHOWN) box.append(make("p", { class: "note" }, `${pairs.length - BARS_SHOWN} less likely classes are in the whole answer.`));
  }
  for (const [name, value] of further(answer, 0)) box.append(make("p", { class: "further" }, make("code", {}, name), " " + value));
  return box;
}

/** An answer that the model's own postprocess shaped: its words and numbers, where it is no deeper than that. */
function shaped(answer) {
  const isFlat = (value) => value === null || typeof value !== "object" || (Array.isArray(value) && value.length <= BARS_SHOWN && value.every((item) => item === null || typeof item !== "object"));
  if (Array.isArray(answer)) return isFlat(answer) ? [make("p", { class: "prediction" }, plain(answer))] : [];
  const pairs = Object.entries(answer);
  if (!pairs.length || !pairs.every(([, value]) => isFlat(value))) return [];
  const [[firstName, first], ...rest] = pairs;
  return [
    make("p", { class: "further" }, make("code", {}, firstName)),
    make("p", { class: "prediction" }, plain(first)),
    ...rest.map(([name, value]) => make("p", { class: "further" }, make("code", {}, name), " " + plain(value))),
  ];
}

function many(answer) {
  const n = answer.predictions.length;
  const extra = n ? further(answer, 0).map(([name]) => name) : [];
  const likely = Array.isArray(answer.probabilities) && n > 0 && chances(answer, 0).length > 0;
  const heads = ["Row", "Prediction", ...(likely ? ["Probability"] : []), ...extra];
  const head = make("thead", {}, make("tr", {}, ...heads.map((name) => make("th", { scope: "col" }, name))));
  const body = make("tbody");
  for (let row = 0; row < Math.min(n, ROWS_SHOWN); row++) {
    const cells = [make("th", { scope: "row" }, String(row)), make("td", {}, plain(answer.predictions[row]))];
    if (likely) {
      const [, share] = chances(answer, row)[0];
      cells.push(make("td", { class: "figure" }, percent(share), track(share)));
    }
    for (const [, value] of further(answer, row)) cells.push(make("td", { class: "figure" }, value));
    body.append(make("tr", {}, ...cells));
  }
  const note = n > ROWS_SHOWN ? `${n} rows; the first ${ROWS_SHOWN} are shown.` : `${n} rows.`;
  return make("div", {}, make("p", { class: "note" }, note), make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Predictions" }, make("table", {}, head, body)));
}

// ---- around them --------------------------------------------------------------------------------------------------

/** A word for a POSIX shell. */
function quoted(text) {
  if (/^[\w@%+=:,./-]+$/.test(text)) return text;
  return "'" + text.replaceAll("'", "'\\''") + "'";
}

async function copy(place, button) {
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(place.textContent);
  } catch {
    // The clipboard API exists on https and localhost only; a selection is copied everywhere.
    getSelection().selectAllChildren(place);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = said === "Copied" ? "Copy" : said), 1500);
}

function submitFromText(form) {
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(form.querySelector("[type=submit]"));
  });
}

function askForKey(message) {
  const form = document.getElementById("key");
  form.hidden = false;
  form.classList.add("refused");
  document.getElementById("key-note").textContent = message;
  document.getElementById("key-value").focus();
}

function keepKey() {
  const form = document.getElementById("key");
  const value = document.getElementById("key-value");
  value.value = sessionStorage.getItem(KEY) || "";
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const key = value.value.trim();
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
    form.classList.remove("refused");
    document.getElementById("key-note").textContent = key ? "Kept in this tab; predictions are sent with it." : "Forgotten.";
  });
}

function start() {
  keepKey();
  const versions = new Map();
  document.querySelectorAll("article.version").forEach((article, index) => {
    const form = facts.versions[index];
    versions.set(form.key, new Version(article, form));
  });
  const turn = () => {
    const asked = decodeURIComponent(location.hash.slice(1));
    const chosen = versions.has(asked) ? asked : facts.versions[0]?.key;
    for (const [key, version] of versions) {
      version.article.hidden = key !== chosen;
      if (key === chosen) version.open();
    }
    for (const link of document.querySelectorAll(".models a")) {
      if (link.dataset.key === chosen) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  addEventListener("hashchange", () => {
    turn();
    scrollTo(0, 0);
  });
  turn();
}

start();
