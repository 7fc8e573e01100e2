// The columns that orchestrator/render/report_data.py wrote; the two change together.

const data = JSON.parse(byId("data").textContent);
const tests = data.tests;
const total = tests.names.length;
const BAD = "feu";

const nodeId = (i) => tests.heads[tests.head[i]] + tests.names[i];
const code = (i) => tests.codes[i];
const outcome = (i) => data.outcomes[tests.codes[i]];
const seconds = (i) => tests.took[i] / data.ticks;
const isBad = (i) => BAD.includes(tests.codes[i]);

const tierIndex = new Uint16Array(total);
data.tiers.forEach((tier, index) => {
  tier.end = data.tiers[index + 1]?.first ?? total;
  tierIndex.fill(index, tier.first, tier.end);
});
const tierOf = (i) => data.tiers[tierIndex[i]];
const workerOf = (i) => (tests.workers[i] < 0 ? null : tierOf(i).workers[tests.workers[i]]);

const details = new Map(data.details.map((detail) => [detail.test, detail]));
const skipReason = new Map(data.skips.tests.map((test, position) => [test, data.skips.reasons[data.skips.reason[position]]]));

const rerun = (i) => `python -m pytest ${shellWord(nodeId(i))}`;

/** The address of a line on GitHub at the tested commit; null where there is none. */
function sourceLink(file, lines) {
  if (!data.source || !file || file.startsWith("/") || file.split("/").includes("..")) return null;
  return data.source + file.split("/").map(encodeURIComponent).join("/") + (lines ? `#L${String(lines).replace("-", "-L")}` : "");
}

const place = (file, line) => {
  const text = h("code", null, line ? `${file}:${line}` : file);
  const href = sourceLink(file, line);
  return href ? h("a", { href, rel: "noopener noreferrer" }, text) : text;
};
