// What every chart needs: uPlot out of the file when the first one comes into view, colours and fonts of the page.

let chartsLoaded = false;

/** Runs the charting library that lies in the file as text, once, when a timeline first comes into view. */
function loadCharts() {
  if (chartsLoaded) return;
  chartsLoaded = true;
  const source = byId("charts").textContent;
  const script = document.createElement("script");
  const policy = window.trustedTypes?.createPolicy("mltiers-charts", { createScript: (text) => text });
  script.text = policy ? policy.createScript(source) : source;
  document.head.append(script);
}

/** Draws each of `{ host, draw }` once, when its host is about to be seen, or printed. */
function drawWhenSeen(figures) {
  const drawn = new Set();
  const once = ({ host, draw }) => {
    if (drawn.has(host)) return;
    drawn.add(host);
    loadCharts();
    draw();
  };
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((seen) => seen.isIntersecting)) {
      watch.unobserve(entry.target);
      once(figures.find(({ host }) => host === entry.target));
    }
  }, { rootMargin: "300px" });
  figures.forEach(({ host }) => watch.observe(host));
  window.addEventListener("beforeprint", () => figures.forEach(once));
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const ink = () => colour("muted");
const chartFont = () => `12px ${getComputedStyle(document.body).fontFamily}`;

/** Follows the width of its host and the reader's choice of light and dark. */
function keepFitting(chart, host) {
  new ResizeObserver(() => host.clientWidth && chart.setSize({ width: host.clientWidth, height: chart.height })).observe(host);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => chart.redraw());
}

/** Puts a tip beside the cursor, on the side where there is room. */
function placeTip(u, tip) {
  const right = u.cursor.left > u.over.clientWidth / 2;
  tip.style.left = right ? "auto" : `${u.cursor.left + 12}px`;
  tip.style.right = right ? `${u.over.clientWidth - u.cursor.left + 12}px` : "auto";
  tip.style.top = `${u.cursor.top + 14}px`;
}
