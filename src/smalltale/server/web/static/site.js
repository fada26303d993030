// Shows the visitor's local time next to AOE and UTC, and updates countdowns by the server's clock.
"use strict";
const localFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
for (const time of document.querySelectorAll("time[datetime]")) {
  const local = localFormat.format(new Date(time.dateTime));
  if (time.classList.contains("when")) {
    const also = document.createElement("span");
    also.className = "also";
    also.textContent = " · " + local + " your time";
    time.append(also);
  } else {
    time.title = (time.title ? time.title + " · " : "") + local + " your time";
  }
}
function duration(seconds) {
  if (seconds <= 0) return "over";
  const parts = [[Math.floor(seconds / 86400), "day"], [Math.floor((seconds % 86400) / 3600), "hour"], [Math.floor((seconds % 3600) / 60), "minute"], [Math.floor(seconds % 60), "second"]];
  const nonzero = parts.filter(([count]) => count).slice(0, 2).map(([count, unit]) => count + " " + unit + (count === 1 ? "" : "s"));
  return nonzero.join(" ") || "less than a second";
}
const loaded = performance.now();
const clocks = document.querySelectorAll(".countdown[data-end]");
function tick() {
  const passed = (performance.now() - loaded) / 1000;
  for (const clock of clocks) clock.textContent = duration(Number(clock.dataset.end) - Number(clock.dataset.now) - passed);
}
if (clocks.length) setInterval(tick, 1000);
