// What broke, grouped by cause: tests that stopped at the same line with the same exception are one entry.

function causeOf(i) {
  const { message, file, line } = details.get(i) ?? {};
  const kind = (message ?? outcome(i)).split(/[:\n]/, 1)[0];
  return file && line ? `${kind}\0${file}\0${line}` : `${outcome(i)}\0${message ?? nodeId(i)}`;
}

function failuresSection() {
  const bad = [];
  for (let i = 0; i < total; i++) if (isBad(i)) bad.push(i);
  if (!bad.length) return;
  const groups = new Map();
  for (const i of bad) {
    const cause = causeOf(i);
    if (groups.has(cause)) groups.get(cause).push(i);
    else groups.set(cause, [i]);
  }
  const ranked = [...groups.values()].sort((a, b) => b.length - a.length || a[0] - b[0]);
  const open = ranked.length <= 3 ? ranked.length : 1;
  section("failures", "Failures", bad.length,
    ...limitNotes(),
    rerunAll(bad),
    ...more(h("div"), ranked, 50, "causes", (group) => failureCard(group, ranked.indexOf(group) < open)),
  );
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

function failureCard(group, open) {
  const [first] = group;
  const detail = details.get(first) ?? {};
  const tiers = [...new Set(group.map((i) => tierOf(i).name))];
  const several = group.length > 1;
  const summary = h("summary", null,
    outcomeMark(first),
    several ? h("span", { class: "title" }, `${plural(group.length, "test")} with one cause`) : h("span", { class: "title" }, testName(first)),
    h("span", { class: "aside" }, `${tiers.join(", ")}${several ? "" : ` · ${duration(seconds(first))}`}`),
    h("span", { class: "message" }, (detail.message ?? "").split("\n", 1)[0]),
  );
  const card = h("details", { class: `card v-${outcome(first)}` }, summary);
  // Bodies are built when first opened: five hundred closed tracebacks cost nothing.
  const fill = () => {
    if (card.childElementCount > 1) return;
    const which = several ? [h("p", { class: "label" }, "The first of them"), h("p", null, testLink(first))] : [];
    const others = several ? [h("p", { class: "label" }, "The others"), ...otherTests(group.slice(1))] : [];
    card.append(h("div", { class: "card-body" }, ...which, ...testBody(first, { withMessage: (detail.message ?? "").includes("\n") }), ...others));
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
  const flaky = data.details.filter((detail) => detail.attempts && !isBad(detail.test)).map((detail) => detail.test);
  if (!flaky.length) return;
  section("flaky", "Flaky", flaky.length,
    h("p", { class: "quiet" }, "Failed first, then passed on a retry."),
    ...more(h("div"), flaky, 50, "tests", (i) =>
      h("details", { class: "card v-flaky" },
        h("summary", null,
          h("span", { class: "v v-flaky" }, icon("flaky"), "flaky"),
          h("span", { class: "title" }, testName(i)),
          h("span", { class: "aside" }, tierOf(i).name),
        ),
        h("div", { class: "card-body" }, ...testBody(i, { withMessage: true })),
      ),
    ),
  );
}
