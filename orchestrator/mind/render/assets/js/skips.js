// What was skipped or expected to fail, by reason: what was not tested is as much a result as what failed.

function skipsSection() {
  const { reasons, tests: skipped, reason } = data.skips;
  if (!skipped.length) return;
  const groups = new Map();
  skipped.forEach((test, position) => {
    const key = `${code(test)}${reason[position]}`;
    if (!groups.has(key)) groups.set(key, { word: outcome(test), reason: reasons[reason[position]], tests: [] });
    groups.get(key).tests.push(test);
  });
  const ranked = [...groups.values()].sort((a, b) => b.tests.length - a.tests.length);
  const title = ranked.some((group) => group.word !== "skipped") ? "Skipped and xfailed" : "Skipped";
  section("skips", title, skipped.length, ...more(h("div"), ranked, 20, "reasons", (group) => {
    const tiers = [...new Set(group.tests.map((i) => tierOf(i).name))].join(", ");
    const card = h("details", { class: "card" }, h("summary", null,
      h("span", { class: `v v-${group.word}` }, icon(group.word), group.word),
      h("span", { class: "title" }, group.reason),
      h("span", { class: "aside" }, `${plural(group.tests.length, "test")} · ${tiers}`),
    ));
    card.addEventListener("toggle", () => {
      if (card.childElementCount > 1) return;
      card.append(h("div", { class: "card-body" }, ...more(h("ul", { class: "plain" }), group.tests, 50, "tests", (i) => h("li", null, testLink(i)))));
    });
    return card;
  }));
}
