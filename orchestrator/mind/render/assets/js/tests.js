// Every test, with search and filters. Only the rows in view exist; they are reused as the list scrolls.

const DEBOUNCE = 70; // milliseconds
const TALLEST = 8_000_000; // pixels: browsers clamp taller elements, so longer lists scroll proportionally

/** The tests that match, as indexes in the wanted order. */
const testFilter = (() => {
  const orders = new Map();
  let haystack = null;

  function index() {
    if (haystack) return;
    haystack = new Array(total);
    for (let i = 0; i < total; i++) haystack[i] = nodeId(i).toLowerCase();
    for (const [i, { message }] of details) if (message) haystack[i] += `\n${message.toLowerCase()}`;
  }

  function order(name) {
    if (orders.has(name)) return orders.get(name);
    const all = Uint32Array.from({ length: total }, (_, i) => i);
    if (name === "slowest") all.sort((a, b) => tests.took[b] - tests.took[a] || a - b);
    if (name === "name") {
      index();
      all.sort((a, b) => (haystack[a] < haystack[b] ? -1 : haystack[a] > haystack[b] ? 1 : a - b));
    }
    orders.set(name, all);
    return all;
  }

  return ({ query, outcomes, tier, worker, sort }) => {
    const terms = query.toLowerCase().split(/\s+/).filter(Boolean);
    if (terms.length) index();
    const found = new Uint32Array(total);
    let count = 0;
    for (const i of order(sort)) {
      if (outcomes.size && !outcomes.has(tests.codes[i])) continue;
      if (tier >= 0 && tierIndex[i] !== tier) continue;
      if (worker !== "" && workerOf(i) !== worker) continue;
      if (terms.length && !terms.every((term) => haystack[i].includes(term))) continue;
      found[count++] = i;
    }
    return found.subarray(0, count);
  };
})();

function testsSection() {
  if (!total) return;
  const state = { query: "", outcomes: new Set(), tier: -1, worker: "", sort: "order" };
  const list = testList();
  const count = h("p", { class: "quiet", id: "tests-count", role: "status", "aria-live": "polite" });
  let pending = 0;
  const apply = () => {
    const found = testFilter(state);
    list.show(found);
    count.textContent = found.length === total ? plural(total, "test") : `${whole(found.length)} of ${plural(total, "test")}`;
  };
  const soon = () => {
    clearTimeout(pending);
    pending = setTimeout(apply, DEBOUNCE);
  };
  const controls = testControls(state, { soon, apply });
  controls.chips.append(count);
  section("tests", "All tests", total, controls.node, list.node);
  apply();
  // The numbers in the table of tiers lead to their tests.
  for (const link of document.querySelectorAll("a[data-tier]")) {
    link.addEventListener("click", () => controls.set({ tier: Number(link.dataset.tier), outcome: link.dataset.outcome }));
  }
}

function testControls(state, { soon, apply }) {
  const search = h("input", { type: "search", id: "tests-search", placeholder: "Search names and messages", autocomplete: "off", spellcheck: "false", oninput: () => {
    state.query = search.value;
    soon();
  } });
  const select = (label, options, onpick) => {
    const node = h("select", { "aria-label": label, onchange: () => {
      onpick(node.value);
      apply();
    } }, ...options.map(([value, text]) => h("option", { value }, text)));
    return node;
  };
  const tallies = ["f", "e", "u", "p", "X", "x", "s"].map((key) => [key, tests.codes.split(key).length - 1]).filter(([, number]) => number);
  const chips = tallies.map(([key, number]) => {
    const word = data.outcomes[key];
    return h("button", { class: `chip v-${word}`, "aria-pressed": "false", "data-code": key, onclick: (event) => {
      if (!state.outcomes.delete(key)) state.outcomes.add(key);
      event.currentTarget.setAttribute("aria-pressed", String(state.outcomes.has(key)));
      apply();
    } }, icon(word), word, h("span", { class: "count" }, whole(number)));
  });
  const group = h("div", { class: "chips", role: "group", "aria-label": "Outcomes" }, ...chips);
  const tiers = select("Tier", [["-1", "All tiers"], ...data.tiers.map((tier, i) => [String(i), tier.name])], (value) => (state.tier = Number(value)));
  const names = [...new Set(data.tiers.flatMap((tier) => tier.workers))];
  const workers = select("Worker", [["", "All workers"], ...names.map((name) => [name, visible(name)])], (value) => (state.worker = value));
  const sorts = select("Order", [["order", "As collected"], ["slowest", "Slowest first"], ["name", "By name"]], (value) => (state.sort = value));
  const node = h("div", { class: "controls", role: "search", "aria-label": "Filter the tests" },
    h("label", { class: "sr", for: "tests-search" }, "Search names and messages"), search,
    data.tiers.length > 1 ? tiers : null, names.length > 1 ? workers : null, sorts, group);
  const set = ({ tier, outcome: word }) => {
    const key = Object.keys(data.outcomes).find((candidate) => data.outcomes[candidate] === word);
    Object.assign(state, { query: "", tier, worker: "", outcomes: new Set(key ? [key] : []) });
    search.value = workers.value = "";
    tiers.value = String(tier);
    for (const chip of chips) chip.setAttribute("aria-pressed", String(chip.dataset.code === key));
    apply();
  };
  return { node, set, chips: group };
}

/** The scrolling list itself: a grid whose rows are focusable one at a time (arrows, Page Up and Down, Home, End). */
function testList() {
  const rows = new Map(); // position in `found` → element
  const spare = [];
  let found = new Uint32Array(0);
  let active = 0;
  let height = 28;
  let scale = 1; // virtual pixels per scrolled pixel; 1 unless the list is taller than a browser allows
  const body = h("div", { class: "rows", role: "none" });
  const head = h("div", { class: "row head", role: "row" }, ...["Outcome", "Test", "Tier", "Worker", "Time"].map((name) => h("span", { role: "columnheader" }, name)));
  const view = h("div", { class: "viewport", role: "rowgroup", tabindex: "-1" }, body);
  const node = h("div", { class: "grid", role: "grid", "aria-label": "All tests", "aria-describedby": "tests-help" }, h("div", { role: "rowgroup" }, head), view);
  const help = h("p", { class: "sr", id: "tests-help" }, "Arrow keys move between tests, Enter opens one, Control+C copies its node id.");

  const top = () => view.scrollTop * scale;

  function fill(row, position) {
    const i = found[position];
    const [mark, name, tier, worker, time] = row.children;
    row.position = position;
    row.setAttribute("aria-rowindex", String(position + 2));
    row.className = `row v-${outcome(i)}`;
    mark.replaceChildren(icon(outcome(i)), h("span", null, outcome(i)));
    name.replaceChildren(...testName(i).childNodes);
    tier.textContent = oneLine(tierOf(i).name);
    worker.textContent = oneLine(workerOf(i) ?? "");
    time.textContent = duration(seconds(i));
  }

  function render() {
    const first = Math.max(0, Math.floor(top() / height) - 6);
    const last = Math.min(found.length, Math.ceil((top() + view.clientHeight) / height) + 6);
    for (const [position, row] of rows) {
      if (position >= first && position < last) continue;
      if (row.contains(document.activeElement)) view.focus({ preventScroll: true });
      rows.delete(position);
      row.remove();
      spare.push(row);
    }
    for (let position = first; position < last; position++) {
      let row = rows.get(position);
      if (!row) {
        row = spare.pop() ?? h("div", { role: "row" }, ...[0, 1, 2, 3, 4].map(() => h("span", { role: "gridcell" })));
        fill(row, position);
        rows.set(position, row);
        const next = rows.get(position + 1);
        if (next?.parentNode === body) body.insertBefore(row, next);
        else body.append(row);
      }
      row.style.transform = `translateY(${position * height - top() + view.scrollTop}px)`;
    }
    // One row is in the tab order: the active one, or the first in view when that is scrolled away.
    const stop = rows.has(active) ? active : Math.ceil(top() / height);
    for (const [position, row] of rows) row.tabIndex = position === stop ? 0 : -1;
  }

  function layout() {
    height = parseFloat(getComputedStyle(node).getPropertyValue("--row")) || 28;
    const tall = found.length * height;
    body.style.height = `${Math.min(tall, TALLEST)}px`;
    scale = tall > TALLEST ? (tall - view.clientHeight) / (TALLEST - view.clientHeight) : 1;
    render();
  }

  function go(position) {
    active = Math.max(0, Math.min(found.length - 1, position));
    const start = active * height;
    if (start < top()) view.scrollTop = start / scale;
    else if (start + height > top() + view.clientHeight) view.scrollTop = (start + height - view.clientHeight) / scale;
    render();
    rows.get(active)?.focus({ preventScroll: true });
  }

  view.addEventListener("scroll", () => requestAnimationFrame(render), { passive: true });
  new ResizeObserver(layout).observe(view);
  view.addEventListener("keydown", (event) => {
    const at = event.target.closest(".row")?.position ?? active;
    const page = Math.max(1, Math.floor(view.clientHeight / height) - 1);
    const steps = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: found.length - 1 };
    if (event.key in steps) go(steps[event.key]);
    else if (event.key === "Enter") openTest(found[at]);
    else if (event.key === "c" && (event.ctrlKey || event.metaKey) && !String(getSelection())) copy(nodeId(found[at]), "the node id");
    else return;
    event.preventDefault();
  });
  view.addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (!row || String(getSelection())) return;
    active = row.position;
    openTest(found[active]);
  });

  return { node: h("div", null, help, node), show(next) {
    found = next;
    active = 0;
    for (const row of rows.values()) {
      row.remove();
      spare.push(row);
    }
    rows.clear();
    node.setAttribute("aria-rowcount", String(found.length + 1));
    node.classList.toggle("empty", !found.length);
    view.scrollTop = 0;
    layout();
  } };
}
