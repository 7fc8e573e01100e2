// Coverage of each file; the files of the change first, with the changed lines no test reached.

function lineLinks(file, ranges, kind) {
  if (!ranges) return null;
  const nodes = ranges.split(", ").flatMap((range, index) => {
    const href = /^\d/.test(range) ? sourceLink(file, range) : null;
    const shown = range.replace("-", "–");
    return [index ? ", " : "", href ? h("a", { href, rel: "noopener noreferrer" }, shown) : shown];
  });
  return h("span", { class: kind }, ...nodes);
}

/** The first ranges of a long list, the rest behind a button. */
function missedLines(file, ranges) {
  const all = ranges ? ranges.split(", ") : [];
  if (all.length <= 6) return lineLinks(file, ranges, "quiet");
  const host = h("span", { class: "quiet" });
  host.append(lineLinks(file, all.slice(0, 6).join(", "), ""), " ", h("button", { class: "link", onclick: () => {
    host.replaceChildren(lineLinks(file, ranges, ""));
  } }, `and ${all.length - 6} more`));
  return host;
}

function coverageSection() {
  const coverage = data.coverage;
  if (!coverage || !coverage.files.length) return;
  const columns = [["File", "path"], ["Coverage", "num"], ["Missed", "num"], ["Changed lines not covered", "after"], ["All missed lines", "after"]];
  const row = ([path, covered, statements, missing, uncovered, changed]) => [
    [h("code", null, path), changed ? h("span", { class: "tag" }, "changed") : null],
    [percent(covered, statements), bar(statements ? covered / statements : 1)],
    `${whole(statements - covered)} of ${whole(statements)}`,
    uncovered ? lineLinks(path, uncovered, "bad") : changed ? h("span", { class: "quiet" }, "none") : "",
    missedLines(path, missing),
  ];
  const [branches, allBranches] = coverage.branches;
  const gaps = coverage.gaps.map(([name, said]) => h("li", null, "Known gap ", h("code", null, name), `: ${said}`));
  const untested = coverage.untested.flatMap((name, i) => [i ? ", " : "", h("code", null, name)]);
  const said = [
    ...coverage.said.map((text) => h("li", null, text)),
    ...(untested.length ? [h("li", null, "Changed, and entered by no test: ", ...untested)] : []),
    ...gaps,
  ];
  section("coverage", "Coverage", null,
    allBranches ? h("p", { class: "quiet" }, `Branches: ${percent(branches, allBranches)} of ${whole(allBranches)}.`) : null,
    said.length ? h("ul", { class: "reasons quiet" }, ...said) : null,
    ...longTable("Coverage of each file", columns, coverage.files, row, 25, "files"),
  );
}

/** A table that shows its first rows, and all of them on demand. */
function longTable(caption, columns, items, row, first, noun) {
  const node = table(caption, columns, items.slice(0, first).map(row));
  if (items.length <= first) return [node];
  const button = h("button", { class: "more", onclick: () => {
    const full = table(caption, columns, items.map(row));
    node.replaceChildren(...full.childNodes);
    node.focus();
    button.remove();
  } }, `Show all ${whole(items.length)} ${noun}`);
  return [node, button];
}
