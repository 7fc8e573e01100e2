// Who ran what when: one lane per worker, time to the right. uPlot draws the axes and zooms; the lanes are its hook.

const LANE = 22; // pixels
const AXIS = 26;

/** Each worker's tests by start, and how much of the tier's time it was busy. */
function lanesOf(tier) {
  const lanes = tier.workers.map((name) => ({ name, tests: [], busy: 0, idle: 0, idleFrom: 0 }));
  let end = tier.took;
  for (let i = tier.first; i < tier.end; i++) {
    if (tests.started[i] < 0 || tests.workers[i] < 0) continue;
    lanes[tests.workers[i]].tests.push(i);
    end = Math.max(end, tests.started[i] + tests.took[i]);
  }
  for (const lane of lanes) {
    lane.tests.sort((a, b) => tests.started[a] - tests.started[b]);
    let until = 0;
    const gap = (from, to) => {
      if (to - from > lane.idle) [lane.idle, lane.idleFrom] = [to - from, from];
    };
    for (const i of lane.tests) {
      gap(until, tests.started[i]);
      lane.busy += Math.max(0, tests.started[i] + tests.took[i] - Math.max(until, tests.started[i]));
      until = Math.max(until, tests.started[i] + tests.took[i]);
    }
    gap(until, end);
  }
  return { lanes: lanes.filter((lane) => lane.tests.length), end: end / data.ticks };
}

function timelineSection() {
  const charted = data.tiers.map((tier) => ({ tier, ...lanesOf(tier) })).filter(({ lanes }) => lanes.length);
  if (!charted.length || !byId("charts").textContent) return;
  const figures = charted.map((entry) => timelineFigure(entry));
  section("timeline", "Timeline", null,
    h("p", { class: "quiet legend" },
      h("span", { class: "key ran" }, "test"), h("span", { class: "key bad" }, "failed"), h("span", { class: "key skipped" }, "skipped"),
      h("span", { class: "key idle" }, "idle"),
      h("span", { class: "mouse" }, "Drag to zoom, double-click to zoom out. "), "Click a test to open it."),
    ...figures.map(({ node }) => node),
  );
  drawWhenSeen(figures);
}

function timelineFigure({ tier, lanes, end }) {
  const busy = lanes.reduce((sum, lane) => sum + lane.busy, 0) / data.ticks;
  const worst = lanes.reduce((a, b) => (b.idle > a.idle ? b : a));
  const said = `${plural(lanes.length, "worker")}, busy ${percent(busy, end * lanes.length)} of ${duration(end)}`;
  const gone = worst.idleFrom + worst.idle >= end * data.ticks - 1;
  const when = !worst.idleFrom ? "before its first test" : gone ? "after its last test" : `from ${duration(worst.idleFrom / data.ticks)}`;
  const idle = worst.idle ? `; longest idle: ${worst.name}, ${duration(worst.idle / data.ticks)} ${when}` : "";
  const host = h("div", { class: "chart", role: "img", "aria-label": `Timeline of ${tier.name}: ${said}${idle}. The table below has the figures.` });
  host.style.height = `${lanes.length * LANE + AXIS}px`;
  const columns = [["Worker", ""], ["Tests", "num"], ["Busy", "num"], ["Busy share", "num"], ["Longest idle", "num"]];
  const rows = lanes.map((lane) => [
    lane.name, whole(lane.tests.length), duration(lane.busy / data.ticks), percent(lane.busy / data.ticks, end), duration(lane.idle / data.ticks),
  ]);
  const node = h("figure", { class: "timeline" },
    h("figcaption", null, h("strong", null, tier.name), ` ${said}${idle}`),
    host,
    h("details", null, h("summary", null, "Workers as a table"), table(`Workers of ${tier.name}`, columns, rows)),
  );
  return { node, host, draw: () => drawTimeline(host, tier, lanes, end) };
}

function drawTimeline(host, tier, lanes, end) {
  const tip = h("div", { class: "tip", hidden: true });
  const chart = new uPlot({
    width: host.clientWidth,
    height: lanes.length * LANE + AXIS,
    padding: [0, 24, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { show: false }, drag: { x: true, y: false, dist: 4 } },
    scales: { x: { time: false, range: (_, from, to) => [Math.max(0, from), Math.min(end, to)] }, y: { range: [-0.5, lanes.length - 0.5], dir: -1 } },
    axes: [
      { font: chartFont(), stroke: ink, size: AXIS, grid: { stroke: () => colour("line"), width: 1 }, ticks: { show: false }, values: (_, splits) => splits.map(clock) },
      { font: chartFont(), stroke: ink, size: 64, grid: { show: false }, ticks: { show: false }, splits: () => lanes.map((_, row) => row), values: () => lanes.map((lane) => visible(lane.name)) },
    ],
    series: [{}, { paths: () => null, points: { show: false } }],
    hooks: {
      drawAxes: [(u) => drawLanes(u, lanes)],
      setCursor: [(u) => showTip(u, lanes, tip)],
      ready: [(u) => {
        u.over.append(tip);
        u.over.addEventListener("click", () => {
          const i = testUnder(u, lanes);
          if (i !== null && !u.select.width) openTest(i);
        });
      }],
    },
  }, [[0, end], [null, null]], host);
  keepFitting(chart, host);
}

const clock = (value) => (value < 60 ? `${+value.toFixed(3)} s` : duration(value));

function drawLanes(u, lanes) {
  const { ctx } = u;
  const { left, top, width, height } = u.bbox;
  const [ran, alternate, bad, skipped, idle] = ["lane", "lane-2", "lane-bad", "lane-skipped", "lane-idle"].map(colour);
  const perTick = width / ((u.scales.x.max - u.scales.x.min) * data.ticks);
  const from = u.scales.x.min * data.ticks;
  const tall = (height / lanes.length) * 0.72;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  lanes.forEach((lane, row) => {
    const y = u.valToPos(row, "y", true) - tall / 2;
    ctx.fillStyle = idle;
    ctx.fillRect(left, y, width, tall);
    const rect = (i, least) => {
      const x = left + (tests.started[i] - from) * perTick;
      const wide = Math.max(least, tests.took[i] * perTick);
      if (x + wide >= left && x <= left + width) ctx.fillRect(x, y, wide > 4 ? wide - 1 : wide, tall);
    };
    // Narrow tests keep their true width, so that a lane of many looks as full as it was; failures stay visible.
    lane.tests.forEach((i, position) => {
      ctx.fillStyle = code(i) === "s" ? skipped : position % 2 ? alternate : ran;
      rect(i, 0);
    });
    ctx.fillStyle = bad;
    lane.tests.filter(isBad).forEach((i) => rect(i, 2 * devicePixelRatio));
  });
  ctx.restore();
}

/** The test at the cursor, or null. */
function testUnder(u, lanes) {
  const { left, top } = u.cursor;
  if (left === undefined || left < 0) return null;
  const lane = lanes[Math.round(u.posToVal(top, "y"))];
  const at = u.posToVal(left, "x") * data.ticks;
  const reach = 3 * (u.posToVal(1, "x") - u.posToVal(0, "x")) * data.ticks;
  if (!lane) return null;
  let [low, high] = [0, lane.tests.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (tests.started[lane.tests[middle]] <= at) low = middle + 1;
    else high = middle;
  }
  const near = lane.tests.slice(Math.max(0, low - 3), low + 2).filter((i) => at >= tests.started[i] - reach && at <= tests.started[i] + tests.took[i] + reach);
  return near.find(isBad) ?? near.find((i) => at >= tests.started[i] && at <= tests.started[i] + tests.took[i]) ?? near[0] ?? null;
}

function showTip(u, lanes, tip) {
  const i = testUnder(u, lanes);
  tip.hidden = i === null;
  u.over.classList.toggle("pointing", i !== null);
  if (i === null) return;
  tip.replaceChildren(h("div", null, outcomeMark(i), ` ${duration(seconds(i))}`), testName(i));
  placeTip(u, tip);
}
