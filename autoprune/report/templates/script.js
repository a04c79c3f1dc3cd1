"use strict";
/* Unpacks plotly, draws every figure in place of its still picture, and makes tables, choices and copy buttons work. */
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
  document.querySelectorAll(".pick").forEach((part) => { part.hidden = false; });

  /* Tables: a figure is the number that a cell begins with, of a cost the percentage below it. */
  const prefixes = { k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18 };
  const number = (said) => {
    const found = /^([+\-\u2212]?[\d.,]+(?:e[+-]?\d+)?)\s*([kMGTPE]?)(?![a-z])/.exec(said.trim());
    return found ? parseFloat(found[1].replaceAll(",", "").replace("\u2212", "-")) * (prefixes[found[2]] ?? 1) : NaN;
  };
  const figure = (cell) => {
    const small = cell.querySelector("small");
    const share = small && /%$/.test(small.textContent.trim()) ? number(small.textContent) : NaN;
    return Number.isNaN(share) ? number(cell.firstChild?.textContent ?? "") : share;
  };

  function sortable(table) {
    const body = table.tBodies[0];
    for (const head of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const sign = head.ariaSort === "ascending" ? -1 : 1;
        for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
        head.ariaSort = sign > 0 ? "ascending" : "descending";
        const rows = [...body.rows].filter((row) => !row.classList.contains("dense"));
        const before = (a, b) => {
          const [x, y] = [a, b].map((row) => row.cells[head.cellIndex]);
          const [m, n] = [figure(x), figure(y)];
          if (Number.isNaN(m) && Number.isNaN(n)) return sign * x.textContent.localeCompare(y.textContent);
          return Number.isNaN(m) ? 1 : Number.isNaN(n) ? -1 : sign * (m - n);
        };
        body.append(...rows.sort(before));
      });
    }
  }
  document.querySelectorAll("table.points, table.results").forEach(sortable);

  const form = document.getElementById("filter");
  form?.addEventListener("submit", (event) => event.preventDefault());
  form?.addEventListener("input", () => {
    const { column, way, bound } = form.elements;
    const rows = [...document.querySelectorAll("table.points tbody tr:not(.dense)")];
    for (const row of rows) {
      const value = figure(row.cells[+column.value]);
      row.hidden = bound.value !== "" && !(+way.value * value <= +way.value * +bound.value);
    }
    form.querySelector("output").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} points`;
  });

  /* Layers of the chosen point. */
  const shown = document.getElementById("shown");
  function showLayers() {
    const cells = JSON.parse(text("layers"))[+shown.value];
    [...document.querySelector("table.layers").tBodies[0].rows].forEach((row, i) => {
      cells[i].forEach(([said, remark, share], j) => {
        const small = document.createElement("small");
        small.textContent = remark;
        row.cells[j + 1].replaceChildren(said, small);
        row.cells[j + 1].style.setProperty("--kept", share || "0%");
      });
    });
  }
  /* The page of a point, which the reader keeps as a file. */
  for (const button of document.querySelectorAll("button.page")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const id = button.dataset.id ?? shown.selectedOptions[0].dataset.id;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([JSON.parse(await unpack(text("pages")))[id]], { type: "text/html" }));
      link.download = `point-${id}.html`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    });
  }
  shown?.addEventListener("change", () => { showLayers(); choose(shown.selectedOptions[0].dataset.id, false); });

  function choose(id, scroll) {
    const row = document.getElementById(`point-${id}`);
    if (!row) return;
    document.querySelectorAll("tr.chosen").forEach((other) => other.classList.remove("chosen"));
    row.classList.add("chosen");
    if (scroll) row.scrollIntoView({ block: "center" });
    const option = shown?.querySelector(`option[data-id="${id}"]`);
    if (scroll && option) {
      option.selected = true;
      showLayers();
    }
  }

  /* Pictures; dark ones have other colors for ink and paper. */
  const night = window.matchMedia("(prefers-color-scheme: dark)");
  const colors = {
    white: "#0d1117", "#1f2328": "#e6edf3", "#59636e": "#9da7b3", "#8c959f": "#768390", "#e8ebee": "#2a313a",
    "#0072B2": "#56b4e9", "#00224e": "#3b5b92",
  };
  const plain = text("figures");
  const dyed = () => JSON.parse(night.matches ? plain.replace(/"(white|#[0-9a-fA-F]{6})"/g, (all, color) => `"${colors[color] ?? color}"`) : plain);
  let figures = dyed();
  if (text("plotly")) {
    const library = document.createElement("script");
    library.textContent = await unpack(text("plotly"));
    document.head.append(library);
  }
  const buttons = [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]];
  const config = { responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtons: buttons };
  const plane = document.getElementById("plane");
  const places = [...document.querySelectorAll(".plot")];
  /* On a narrow screen: small letters, and a heat map without numbers and with its scale above. */
  const few = (all) => all.filter((_, i) => i % Math.ceil(all.length / 6) === 0);
  const fitted = ({ data, layout }) => (window.innerWidth > 600 ? { data, layout } : {
    data: data.map((trace) => (trace.type !== "heatmap" ? trace : {
      ...trace, texttemplate: "", colorbar: { ...trace.colorbar, orientation: "h", y: 1, yanchor: "bottom", title: {} },
    })),
    layout: {
      ...layout,
      margin: { ...layout.margin, l: 8, r: 8, t: layout.margin.t + (data[0]?.type === "heatmap" ? 40 : 0) },
      font: { ...layout.font, size: 11 },
      xaxis: data[0]?.type !== "heatmap" ? layout.xaxis : { ...layout.xaxis, tickvals: few(layout.xaxis.tickvals), ticktext: few(layout.xaxis.ticktext) },
      legend: { ...layout.legend, font: { size: 10 } },
    },
  });
  const draw = (place) => {
    const { data, layout } = fitted(figures[(place.id === "front" && plane?.value) || place.id]);
    return Plotly.react(place, data, layout, config);
  };
  for (const place of places) {
    place.replaceChildren();
    await draw(place);
    place.on("plotly_click", (event) => choose(event.points[0].customdata, true));
  }
  plane?.addEventListener("change", () => draw(document.getElementById("front")));
  night.addEventListener("change", () => { figures = dyed(); places.forEach(draw); });
  /* Paper has its own width: draw again for it, and again for the screen. */
  const refit = () => places.forEach((place) => Plotly.Plots.resize(place));
  window.addEventListener("beforeprint", refit);
  window.addEventListener("afterprint", refit);
  document.documentElement.dataset.drawn = "true";
})();
