// One test in full: what a failure's card and the dialog of any test show.

const EXCERPT = 14; // lines of a traceback before the rest is folded

/** A node id with the file quiet and the test's own name plain. */
const testName = (i) => {
  const head = h("span", { class: "head" }, oneLine(tests.heads[tests.head[i]]));
  return h("code", { class: "test-name" }, head, h("span", { class: "tail" }, oneLine(tests.names[i])));
};

const outcomeMark = (i) => h("span", { class: `v v-${outcome(i)}` }, icon(outcome(i)), outcome(i));

/** A traceback with the error's lines told apart; long ones show their end first. */
function traceback(text) {
  const lines = visible(text).replace(/\n+$/, "").split("\n");
  const paint = (line) => {
    const kind = /^E(\s|$)/.test(line) ? "error" : /^>/.test(line) ? "at" : null;
    return kind ? h("span", { class: kind }, `${line}\n`) : `${line}\n`;
  };
  const pre = h("pre", { tabindex: "0" }, ...lines.slice(-EXCERPT).map(paint));
  if (lines.length <= EXCERPT) return [pre];
  const button = h("button", { class: "more", onclick: () => {
    pre.replaceChildren(...lines.map(paint));
    pre.focus();
    button.remove();
  } }, `Show all ${whole(lines.length)} lines`);
  return [button, pre];
}

function attempts(detail) {
  return h("ol", { class: "attempts" }, ...detail.attempts.map(([attemptCode, took, message]) => {
    const word = data.outcomes[attemptCode];
    const said = message ? `: ${message}` : "";
    return h("li", null, h("span", { class: `v v-${word}` }, icon(word), word), ` after ${duration(took / data.ticks)}${said}`);
  }));
}

/** Message, place, earlier attempts, traceback and the command that runs the test again. */
function testBody(i, { withMessage, command = true }) {
  const detail = details.get(i) ?? {};
  const reason = skipReason.get(i);
  const body = [];
  if (withMessage && detail.message) body.push(h("p", { class: "message" }, detail.message));
  if (reason) body.push(h("p", { class: "message quiet" }, reason));
  if (detail.file) body.push(h("p", { class: "where" }, "at ", place(detail.file, detail.line)));
  if (detail.attempts) body.push(h("p", { class: "label" }, "Earlier attempts"), attempts(detail));
  if (detail.text) body.push(...traceback(detail.text));
  else if (isBad(i) && !detail.message) body.push(h("p", { class: "quiet" }, "Nothing more is kept in this report; see junit.xml."));
  if (command) body.push(h("p", { class: "rerun" }, h("code", null, rerun(i)), copyButton(rerun(i), "the command")));
  return body;
}

/** Opens the dialog of one test. */
function openTest(i) {
  const worker = workerOf(i);
  const facts = [
    ["Tier", tierOf(i).name],
    ["Took", duration(seconds(i))],
    ["Worker", worker === null ? "unknown" : worker],
    ["Started", tests.started[i] < 0 ? "unknown" : `${duration(tests.started[i] / data.ticks)} into the tier`],
  ];
  const close = h("button", { class: "copy close", "aria-label": "Close", onclick: () => dialog.close() }, icon("close"));
  const dialog = h(
    "dialog",
    { "aria-labelledby": "dialog-title", onclose: () => dialog.remove(), onclick: (event) => event.target === dialog && dialog.close() },
    h("div", { class: "dialog-body" },
      h("div", { class: "dialog-head" }, outcomeMark(i), close),
      h("h3", { id: "dialog-title" }, testName(i), copyButton(nodeId(i), "the node id")),
      h("dl", { class: "facts" }, ...facts.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value)))),
      ...testBody(i, { withMessage: true }),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
}

const testLink = (i) => h("button", { class: "link", onclick: () => openTest(i) }, testName(i));
