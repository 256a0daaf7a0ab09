"use strict";
// Draws every chart of the page. Colours arrive as roles ("@forecast") and are looked up in the style sheet, so that
// the same chart follows the reader's light or dark setting, and is always light on paper.
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const options = { responsive: true, displayModeBar: false, showTips: false, scrollZoom: false, doubleClick: false };
  const screen = getComputedStyle(document.documentElement);
  const paper = getComputedStyle(document.getElementById("paper-colours"));

  function painted(value, style) {
    if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map((item) => painted(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, painted(item, style)]));
    }
    if (typeof value !== "string" || !value.startsWith("@")) return value;
    return style.getPropertyValue(`--${value.slice(1)}`).trim() || value;
  }

  function draw(style, width) {
    for (const chart of charts) {
      const element = document.getElementById(chart.id);
      const layout = painted(chart.layout, style);
      if (width) {
        const across = width(element);
        Object.assign(layout, { autosize: false, width: across, height: layout.height ?? across / element.dataset.aspect });
      }
      Plotly.react(element, painted(chart.data, style), layout, options);
    }
  }

  draw(screen);
  document.documentElement.dataset.charts = "drawn";
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(screen));
  // A printed page is narrower than the window it is printed from, and Plotly does not notice.
  const onPaper = 660;
  const share = (element) => Math.floor(onPaper / Number(element.dataset.abreast)) - 12;
  addEventListener("beforeprint", () => draw(paper, share));
  addEventListener("afterprint", () => draw(screen));
})();
