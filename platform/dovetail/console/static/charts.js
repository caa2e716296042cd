"use strict";
// Draws the charts of a page by Vega, whose script comes from this console. The figures below each stand open until it
// is drawn, and where it cannot be.
const charts = document.querySelectorAll("figure[data-chart]");
const draw = async (figure) => {
  await vegaEmbed(figure.querySelector(".drawing"), JSON.parse(figure.dataset.chart), {
    mode: "vega-lite",
    renderer: "svg",
    ast: true, // expressions are interpreted: the policy of these pages lets no script be made of text
    actions: false,
    defaultStyle: false,
    tooltip: false,
  });
  figure.querySelector("details").open = false;
};
const vega = document.querySelector("[data-vega]")?.dataset.vega;
if (charts.length && vega) {
  // The first who asks waits for the script to be made; the page is whole before.
  addEventListener("load", () => {
    const script = document.createElement("script");
    script.src = vega;
    script.addEventListener("load", () => charts.forEach(draw));
    document.head.append(script);
  });
}
