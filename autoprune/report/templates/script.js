"use strict";
/* Unpacks plotly, draws every figure in place of its still picture, and makes the copy buttons work. */
(async () => {
  const text = (id) => document.getElementById(id).textContent;

  async function unpack(packed) {
    const raw = atob(packed);
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i += 1) bytes[i] = raw.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  async function copy(value) {
    try {
      await navigator.clipboard.writeText(value);
    } catch {
      const area = document.createElement("textarea");
      area.value = value;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }

  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await copy(button.nextElementSibling.textContent);
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
  }

  const figures = JSON.parse(text("figures"));
  if (text("plotly")) {
    const library = document.createElement("script");
    library.textContent = await unpack(text("plotly"));
    document.head.append(library);
  }
  const buttons = [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]];
  const config = { responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtons: buttons };
  for (const [id, figure] of Object.entries(figures)) {
    const place = document.getElementById(id);
    place.replaceChildren();
    await Plotly.newPlot(place, figure.data, figure.layout, config);
    place.on("plotly_click", (event) => {
      const row = document.getElementById(`point-${event.points[0].customdata}`);
      if (row) {
        document.querySelectorAll("tr.chosen").forEach((other) => other.classList.remove("chosen"));
        row.classList.add("chosen");
        row.scrollIntoView({ block: "center" });
      }
    });
  }
  /* Paper has its own width: draw again for it, and again for the screen. */
  const refit = () => Object.keys(figures).forEach((id) => Plotly.Plots.resize(document.getElementById(id)));
  window.addEventListener("beforeprint", refit);
  window.addEventListener("afterprint", refit);
  document.documentElement.dataset.drawn = "true";
})();
