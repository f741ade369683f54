// Draws the charts. Plotly lies in the page gzipped: unpacked here, so that the file stays small enough to mail.
"use strict";

const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

async function loadPlotly() {
  const packed = document.getElementById("plotly").textContent;
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Every "var(--name)" in a figure as the colour that it has in the present theme.
function themed(value) {
  if (Array.isArray(value)) return value.map(themed);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, themed(inner)]));
  }
  const name = typeof value === "string" && /^var\((--[a-z-]+)\)$/.exec(value);
  return name ? colour(name[1]) : value;
}

function layoutOf(figure) {
  const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"), fixedrange: true };
  const { xaxis, yaxis, ...rest } = themed(figure.layout);
  for (const own of [xaxis, yaxis]) if (own.title) own.title.font = { size: 13 };
  return {
    height: figure.height,
    margin: { l: 50, r: 16, t: 30, b: 48 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--muted") },
    hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
    hovermode: "closest",
    dragmode: false,
    ...rest,
    xaxis: { ...axis, ...xaxis },
    yaxis: { ...axis, ...yaxis },
  };
}

function draw() {
  for (const [name, figure] of Object.entries(figures)) {
    const place = document.getElementById(`chart-${name}`);
    if (!place) continue;
    Plotly.react(place, themed(figure.data), layoutOf(figure), { displayModeBar: false, responsive: true });
  }
}

if (Object.keys(figures).length) {
  loadPlotly().then(() => {
    draw();
    dark.addEventListener("change", draw);
    document.body.dataset.charts = "drawn";
  }).catch((error) => {
    console.warn(`no charts: ${error}; the tables below them hold the same figures`);
    document.body.dataset.charts = "failed";
  });
}
