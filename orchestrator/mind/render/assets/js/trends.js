// What tiers and benchmarks took in their newest runs: a line through the runs, a band for what was expected of them.

const TREND_HEIGHT = 150; // pixels

function trendsSection() {
  if (!data.trends.length || !byId("charts").textContent) return;
  const figures = data.trends.map(trendFigure);
  section("trends", "Trends", null,
    h("p", { class: "quiet legend" },
      "The newest runs on this kind of machine, this run last. The band is what was expected of a tier, or reaches from a benchmark\u2019s minimum to its median.",
      data.trendsLeftOut ? ` ${plural(data.trendsLeftOut, "more benchmark")} in the history.` : ""),
    ...figures.map(({ node }) => node),
  );
  drawWhenSeen(figures);
}

function trendFigure(trend) {
  const time = trend.benchmark === null ? duration : benchmarkTime;
  const last = trend.points[trend.points.length - 1];
  const usual = median(trend.points.slice(0, -1).map(([, , seconds]) => seconds));
  const limit = trend.limit ? ` of ${duration(trend.limit)}` : "";
  const said = `${time(last[2])}${limit}, ${time(usual)} in the ${plural(trend.points.length - 1, "run")} before`;
  const host = h("div", { class: "chart", role: "img", "aria-label": `Trend of ${trend.name}: ${said}. The table below has the figures.` });
  host.style.height = `${TREND_HEIGHT}px`;
  const columns = [["Commit", ""], ["When", ""], ["Took", "num"], ["Band", "num"]];
  const rows = trend.points.map(([at, sha, seconds, low, high]) => [
    sha ? h("code", null, sha) : "\u2013", day(at), time(seconds), low === null || high === null ? "" : `${time(low)} \u2013 ${time(high)}`,
  ]).reverse();
  const node = h("figure", { class: "timeline" },
    h("figcaption", null, h("strong", null, trend.name), ` ${said}`),
    host,
    h("details", null, h("summary", null, "Runs as a table"), table(`Runs of ${trend.name}`, columns, rows)),
  );
  return { node, host, draw: () => drawTrend(host, trend, time) };
}

const day = (at) => (at ? new Date(at * 1000).toISOString().slice(0, 10) : "\u2013");

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function drawTrend(host, trend, time) {
  const column = (index) => trend.points.map((point) => point[index]);
  const numbers = trend.points.map((_, index) => index);
  const known = trend.points.flatMap(([, , ...values]) => values).filter((value) => value !== null);
  const highest = Math.max(...known);
  // The budget is drawn where it is near; a tier that uses a tenth of it would else be a line on the ground.
  const limit = trend.limit && trend.limit < 2 * highest ? trend.limit : null;
  const tip = h("div", { class: "tip", hidden: true });
  const edge = { stroke: () => colour("line"), width: 1, points: { show: false } };
  const chart = new uPlot({
    width: host.clientWidth,
    height: TREND_HEIGHT,
    padding: [8, 24, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false } },
    scales: { x: { time: false, range: [-0.5, trend.points.length - 0.5] }, y: { range: [0, 1.1 * Math.max(highest, limit ?? 0)] } },
    axes: [
      { font: chartFont(), stroke: ink, size: 26, grid: { show: false }, ticks: { show: false }, space: 90, incrs: [1, 2, 5, 10], values: (_, splits) => splits.map((n) => (trend.points[n] ? day(trend.points[n][0]) : "")) },
      { font: chartFont(), stroke: ink, size: 64, grid: { stroke: () => colour("line"), width: 1 }, ticks: { show: false }, values: (_, splits) => splits.map((value) => (value ? time(value) : "0")) },
    ],
    bands: [{ series: [2, 1], fill: () => colour("lane-idle") }],
    series: [
      {},
      { ...edge },
      { ...edge },
      { stroke: () => colour("lane-2"), width: 2, points: { show: true, size: 6, fill: () => colour("lane-2") } },
      { stroke: () => colour("lane-bad"), width: 1, dash: [6, 4], points: { show: false } },
    ],
    hooks: {
      setCursor: [(u) => {
        const point = trend.points[u.cursor.idx];
        tip.hidden = !point || u.cursor.left < 0;
        if (tip.hidden) return;
        tip.replaceChildren(h("div", null, `${time(point[2])} \u00b7 ${day(point[0])}`), h("code", null, point[1] || "no commit"));
        placeTip(u, tip);
      }],
      ready: [(u) => u.over.append(tip)],
    },
  }, [numbers, column(3), column(4), column(2), numbers.map(() => limit)], host);
  keepFitting(chart, host);
}
