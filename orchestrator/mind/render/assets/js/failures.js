// What broke, grouped by cause: tests that stopped at the same line with the same exception are one entry.

function failuresSection() {
  const bad = [];
  for (let i = 0; i < total; i++) if (isBad(i)) bad.push(i);
  if (!bad.length) return;
  const { causes } = data.insight;
  const open = causes.length <= 3 ? causes.length : 1;
  section("failures", "Failures", bad.length,
    ...limitNotes(),
    rerunAll(bad),
    ...more(h("div"), causes, 50, "causes", (cause) => failureCard(cause, causes.indexOf(cause) < open)),
  );
}

/** Sentences about a cause or a flaky test, and the command for exactly it. */
function said({ remarks, rerun: command }) {
  const parts = remarks.length ? [h("ul", { class: "plain" }, ...remarks.map((remark) => h("li", null, remark)))] : [];
  if (command) parts.push(h("p", { class: "rerun" }, h("code", null, command), copyButton(command, "the command")));
  return parts;
}

function limitNotes() {
  const { shortened, withoutText, leftOut } = data.limits;
  const notes = [];
  if (shortened) notes.push(`${plural(shortened, "long traceback")} shortened in the middle`);
  if (withoutText) notes.push(`${plural(withoutText, "traceback")} left out to keep this file small`);
  if (leftOut) notes.push(`messages and tracebacks of ${plural(leftOut, "more test")} left out to keep this file small`);
  return notes.length ? [h("p", { class: "quiet" }, `${notes.join("; ")}. junit.xml has them all.`)] : [];
}

function rerunAll(bad) {
  if (bad.length < 2 || bad.length > 200) return null;
  const command = `python -m pytest ${bad.map((i) => shellWord(nodeId(i))).join(" ")}`;
  return h("p", { class: "quiet" }, `Run all ${bad.length} again: `, copyButton(command, "the command for all failing tests"));
}

function failureCard(cause, open) {
  const group = cause.tests;
  const [first] = group;
  const detail = details.get(first) ?? {};
  const tiers = [...new Set(group.map((i) => tierOf(i).name))];
  const several = new Set(group.map(nodeId)).size > 1;
  const standing = cause.standing === "unknown" ? "" : ` · ${cause.standing}`;
  const summary = h("summary", null,
    outcomeMark(first),
    several ? h("span", { class: "title" }, `${plural(group.length, "test")} with one cause`) : h("span", { class: "title" }, testName(first)),
    h("span", { class: "aside" }, `${tiers.join(", ")}${several ? "" : ` · ${duration(seconds(first))}`}${standing}`),
    h("span", { class: "message" }, (detail.message ?? "").split("\n", 1)[0]),
  );
  const card = h("details", { class: `card v-${outcome(first)}` }, summary);
  // Bodies are built when first opened: five hundred closed tracebacks cost nothing.
  const fill = () => {
    if (card.childElementCount > 1) return;
    const which = several ? [h("p", { class: "label" }, "The first of them"), h("p", null, testLink(first))] : [];
    const others = group.length > 1 ? [h("p", { class: "label" }, "The others"), ...otherTests(group.slice(1))] : [];
    const body = testBody(first, { withMessage: (detail.message ?? "").includes("\n"), command: false });
    card.append(h("div", { class: "card-body" }, ...which, ...body, ...said(cause), ...others));
  };
  card.addEventListener("toggle", fill);
  card.fill = fill;
  if (open) {
    card.open = true;
    fill();
  }
  return card;
}

function otherTests(group) {
  return more(h("ul", { class: "plain" }), group, 20, "tests", (i) => h("li", null, testLink(i), h("span", { class: "aside" }, tierOf(i).name)));
}

function flakySection() {
  const { flaky } = data.insight;
  if (!flaky.length) return;
  section("flaky", "Flaky", flaky.length,
    h("p", { class: "quiet" }, "Failed first, then passed on a retry. Shown is the first attempt."),
    ...more(h("div"), flaky, 50, "tests", (flake) =>
      h("details", { class: "card v-flaky" },
        h("summary", null,
          h("span", { class: "v v-flaky" }, icon("flaky"), "flaky"),
          h("span", { class: "title" }, testName(flake.test)),
          h("span", { class: "aside" }, tierOf(flake.test).name),
        ),
        h("div", { class: "card-body" }, ...testBody(flake.test, { withMessage: true, command: false }), ...said(flake)),
      ),
    ),
  );
}
