// The sections in the order in which they are read: what broke first.

failuresSection();
flakySection();
coverageSection();
benchmarksSection();
timelineSection();
trendsSection();
slowestSection();
skipsSection();
testsSection();

for (const time of document.querySelectorAll("time")) time.title = new Date(time.dateTime).toLocaleString();

// Paper cannot be unfolded.
window.addEventListener("beforeprint", () => {
  for (const card of [...document.querySelectorAll("#failures details")].slice(0, 50)) {
    card.open = true;
    card.fill?.();
  }
});

if (location.hash.length > 1) byId(location.hash.slice(1))?.scrollIntoView();
