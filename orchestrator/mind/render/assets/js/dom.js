// Building blocks. Strings become text nodes with every hidden character spelt out, never markup: there is no other way
// to put data on the page here.

const byId = (id) => document.getElementById(id);

/** An element with attributes (`on…`: listeners) and children (nodes, or strings as text; null is left out). */
function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  const present = children.flat().filter((child) => child !== null && child !== undefined && child !== false);
  node.append(...present.map((child) => (typeof child === "string" ? visible(child) : child)));
  return node;
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const icon = (name) => svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));

const bar = (share, tone) =>
  svg(
    "svg",
    { class: `bar ${tone ?? ""}`, viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { width: 100, height: 4 }),
    svg("rect", { class: "fill", width: (100 * Math.min(1, Math.max(0, share))).toFixed(1), height: 4 }),
  );

/** Appends a section with its heading and its entry in the navigation. */
function section(id, title, count, ...children) {
  const heading = h("h2", { id: `${id}-title` }, title, count === null ? null : h("span", { class: "count" }, whole(count)));
  const node = h("section", { id, "aria-labelledby": `${id}-title` }, heading, ...children);
  byId("main").append(node);
  byId("sections").append(
    h("li", null, h("a", { href: `#${id}` }, title, count === null ? null : h("span", { class: "count" }, whole(count)))),
  );
  return node;
}

/**
 * A table: `columns` are [heading, class], each row an array of cells (node, string, or array of both). The roles say
 * again what the elements are, because a phone's layout takes the table display away.
 */
function table(caption, columns, rows) {
  const head = columns.map(([name, kind]) => h("th", { scope: "col", role: "columnheader", class: kind }, name));
  const cell = (content, [name, kind], first) =>
    first
      ? h("th", { scope: "row", role: "rowheader", class: kind }, content)
      : h("td", { role: "cell", class: kind, "data-label": name }, isEmpty(content) ? null : h("span", null, content));
  const line = (cells) => h("tr", { role: "row" }, ...cells.map((content, i) => cell(content, columns[i], i === 0)));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", { role: "table" },
      h("caption", { class: "sr" }, caption),
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...head)),
      h("tbody", { role: "rowgroup" }, ...rows.map(line))));
}

const isEmpty = (content) => content === null || content === undefined || content === "";

/** `items` through `render` into `list`, the first `step` at once and the rest on demand. */
function more(list, items, step, noun, render) {
  let shown = 0;
  const button = h("button", { class: "more", onclick: () => show() });
  const show = () => {
    const next = items.slice(shown, shown + step);
    const nodes = next.map(render);
    list.append(...nodes);
    if (shown) nodes[0]?.querySelector("a, button, summary")?.focus();
    shown += next.length;
    button.textContent = `Show ${whole(Math.min(step, items.length - shown))} more of ${whole(items.length)} ${noun}`;
    button.hidden = shown >= items.length;
  };
  show();
  return [list, button];
}

function announce(text) {
  byId("status").textContent = text;
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers without the clipboard interface on file: addresses still copy a selection.
    const area = h("textarea", { class: "sr", "aria-hidden": "true" });
    area.value = text;
    const host = document.querySelector("dialog[open]") ?? document.body;
    const before = document.activeElement;
    host.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    before?.focus();
  }
  announce(`Copied ${what}`);
}

const copyButton = (text, what) =>
  h("button", { class: "copy", title: `Copy ${what}`, "aria-label": `Copy ${what}`, onclick: (event) => {
    copy(text, what);
    const button = event.currentTarget;
    button.classList.add("done");
    button.addEventListener("blur", () => button.classList.remove("done"), { once: true });
  } }, icon("copy"));

// How numbers and foreign text are written; the same words as orchestrator/render/forms.py and words.py.

const whole = (number) => number.toLocaleString("en-US");
const plural = (number, noun) => `${whole(number)} ${noun}${number === 1 ? "" : "s"}`;
const percent = (part, all) => (all ? `${(Math.floor((1000 * part) / all + 1e-9) / 10).toFixed(1)}%` : "–");

function duration(seconds) {
  if (!(seconds >= 0) || !Number.isFinite(seconds)) return "unknown";
  if (seconds < 0.9995) {
    const ms = seconds * 1000;
    return `${ms.toFixed(ms > 0 && ms < 9.95 ? 1 : 0)} ms`;
  }
  if (seconds < 9.995) return `${seconds.toFixed(2)} s`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const all = Math.round(seconds);
  const pad = (n) => String(n).padStart(2, "0");
  const minutes = Math.floor((all % 3600) / 60);
  return all >= 3600 ? `${Math.floor(all / 3600)}h ${pad(minutes)}m` : `${minutes}m ${pad(all % 60)}s`;
}

function benchmarkTime(seconds) {
  if (seconds === null) return "unknown";
  const [unit, name] = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]].find(([least]) => seconds >= least) ?? [1e-9, "ns"];
  return `${(seconds / unit).toPrecision(4)} ${name}`;
}

const ANSI = /\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)/g;
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/gu; // controls, bidi overrides, surrogates, private use, separators

/** Text without terminal colours, every character spelt out that hides or reorders its neighbours. */
const visible = (text) =>
  text
    .replace(/\r\n/g, "\n")
    .replace(ANSI, "")
    .replace(HIDDEN, (char) => {
      if (char === "\n" || char === "\t") return char;
      if (char === "\r") return "\\r";
      const number = char.codePointAt(0).toString(16);
      if (number.length <= 2) return `\\x${number.padStart(2, "0")}`;
      return number.length <= 4 ? `\\u${number.padStart(4, "0")}` : `\\U${number.padStart(8, "0")}`;
    });

/** The same on one line. */
const oneLine = (text) => visible(text).replaceAll("\n", "\\n").replaceAll("\t", "\\t");

/** One word of a shell's command line. */
function shellWord(text) {
  if (/^[\w./:=@%+,-]+$/.test(text)) return text;
  if (!/[\x00-\x1f\x7f]/.test(text)) return `'${text.replaceAll("'", "'\\''")}'`;
  const spell = (char) => (char < " " || char === "\x7f" ? `\\x${char.charCodeAt(0).toString(16).padStart(2, "0")}` : `\\${char}`);
  return `$'${text.replace(/[\x00-\x1f\x7f'\\]/g, spell)}'`;
}
