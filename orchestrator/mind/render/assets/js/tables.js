// The slowest tests and the benchmarks.

const SLOWEST = 20;

function slowestSection() {
  const order = Array.from({ length: total }, (_, i) => i).filter((i) => tests.took[i] > 0);
  if (order.length < 2) return;
  order.sort((a, b) => tests.took[b] - tests.took[a]);
  const all = tests.took.reduce((sum, took) => sum + took, 0);
  const top = order.slice(0, SLOWEST);
  const share = top.reduce((sum, i) => sum + tests.took[i], 0);
  const columns = [["Test", "path"], ["Tier", ""], ["Time", "num"], ["Of all test time", "num"]];
  section("slowest", "Slowest tests", null,
    h("p", { class: "quiet" }, `The slowest ${top.length} of ${plural(total, "test")} took ${percent(share, all)} of all test time.`),
    table("The slowest tests", columns, top.map((i) => [
      testLink(i),
      tierOf(i).name,
      [duration(seconds(i)), bar(tests.took[i] / tests.took[top[0]])],
      percent(tests.took[i], all),
    ])),
    ...slower(),
  );
}

// What changed against the base, and what may have; the sentence above the table counts the others.
function comparison(tier, { headline, rows, remarks, detail }) {
  const columns = [["Benchmark", "path"], ["Change", ""], ["Time", "num"], ["99 % interval", ""], ["Now", "num"]];
  return [
    h("p", null, headline),
    ...(rows.length ? longTable(`Benchmarks of ${tier} that are not the same`, columns, rows, ([name, change, moved, interval, now]) => [
      h("code", null, name), change, moved, interval, now ? benchmarkTime(now) : "–",
    ], 50, "benchmarks") : []),
    ...remarks.map((remark) => h("p", { class: "quiet" }, remark)),
    ...(detail ? [h("pre", null, detail)] : []),
  ];
}

function slower() {
  const rows = data.insight.slower;
  if (!rows.length) return [];
  const columns = [["Test", "path"], ["Tier", ""], ["Time", "num"], ["Usually", "num"]];
  return [
    h("p", { class: "quiet" }, `${plural(rows.length, "test")} slower than in earlier runs:`),
    table("Tests slower than in earlier runs", columns, rows.map(([i, before]) => [
      testLink(i), tierOf(i).name, duration(seconds(i)), duration(before / data.ticks),
    ])),
  ];
}

// Columns about GPUs only where a benchmark has something for them.
function measured(tier, rows) {
  const own = [["GPU memory", 6], ["Throughput", 7]].filter(([, at]) => rows.some((row) => row[at]));
  const names = ["Minimum", "Median", "Mean", "Std. dev.", "Rounds", ...own.map(([name]) => name)];
  const columns = [["Benchmark", "path"], ...names.map((name) => [name, "num"])];
  return longTable(`Benchmarks of ${tier}`, columns, rows, (row) => [
    h("code", null, row[0]),
    ...row.slice(1, 5).map(benchmarkTime),
    whole(row[5]),
    ...own.map(([, at]) => row[at]),
  ], 50, "benchmarks");
}

function benchmarksSection() {
  if (!data.benchmarks.length) return;
  const count = data.benchmarks.reduce((sum, tier) => sum + tier.rows.length, 0);
  const parts = data.benchmarks.flatMap(({ tier, machine, rows, compared }) => [
    h("p", { class: "quiet" }, [tier, ...machine].join(" · ")),
    ...(compared ? comparison(tier, compared) : []),
    ...measured(tier, rows),
  ]);
  section("benchmarks", "Benchmarks", count, ...parts);
}
