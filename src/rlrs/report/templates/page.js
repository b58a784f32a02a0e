// Unpacks plotly, draws the figures from the JSON beside them in the colours of the reader's theme, and again when it
// changes; and what the buttons do: logarithmic axes, tables, pictures to keep, places of the numbers, copying.
(async () => {
  const json = (id) => JSON.parse(document.getElementById(id).textContent);
  const twins = json("dark-twins");
  const labels = json("labels");
  const plots = [...document.querySelectorAll("script.plot-data")].map((script) => ({
    element: document.getElementById(script.dataset.plot),
    figure: script.closest("figure"),
    spec: JSON.parse(script.textContent),
    switched: {},
  }));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // A finger on a plot should scroll the page, not zoom.
  const touch = matchMedia("(pointer: coarse)").matches;
  // px; fits A4 and letter, and the height that style.css or the page gives
  const printed = (element) => ({
    width: element.closest(".small") ? 200 : 640,
    height: Number(element.dataset.height) || 290,
  });

  const unpack = async (text) => {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  };

  const themed = (value, swap) => {
    if (typeof value === "string") return (swap && twins[value]) || value;
    if (Array.isArray(value)) return value.map((item) => themed(item, swap));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item, swap)]));
  };

  // The axis with the other of the two scales: what was made for the first (range, marks) does not fit it.
  const other = (axis) => {
    const { range, tickvals, ticktext, dtick, tickformat, nticks, rangemode, ...rest } = axis;
    return { ...rest, type: axis.type === "log" ? "linear" : "log", autorange: true };
  };

  const layoutOf = ({ spec, switched }, swap) => {
    const { data, layout } = themed(spec, swap);
    for (const name of ["x", "y"]) if (switched[name]) layout[`${name}axis`] = other(layout[`${name}axis`] || {});
    return { data, layout };
  };

  const draw = (plot, printing) => {
    const { data, layout } = layoutOf(plot, dark.matches && !printing);
    if (touch) layout.dragmode = false;
    if (printing) Object.assign(layout, printed(plot.element));
    Plotly.react(plot.element, data, layout, { displayModeBar: false, responsive: true, showTips: false });
  };
  const drawAll = (printing) => plots.forEach((plot) => draw(plot, printing));

  // What a figure shows, point by point, with the file that each series is from.
  const tableOf = ({ spec, figure }) => {
    const table = document.createElement("table");
    const row = (cells, tag) => {
      const line = document.createElement("tr");
      for (const cell of cells) {
        const box = document.createElement(tag);
        box.textContent = cell;
        if (tag === "th") box.scope = "col";
        line.append(box);
      }
      return line;
    };
    const { xaxis, yaxis } = spec.layout;
    const text = (axis, value) => {
      const place = (axis.tickvals || []).indexOf(value);
      const label = axis.ticktext && axis.type !== "log" ? axis.ticktext[place] : undefined;
      return label ?? (typeof value === "number" ? String(Number(value.toPrecision(5))) : value);
    };
    const x = (xaxis.title && xaxis.title.text) || figure.dataset.title;
    const head = document.createElement("thead");
    head.append(row([labels.series, x, figure.querySelector("figcaption span").textContent, labels.source], "th"));
    const body = document.createElement("tbody");
    for (const trace of spec.data) {
      trace.y.forEach((y, i) => {
        if (y === null || y === undefined || trace.x[i] === null) return;
        body.append(row([trace.name, text(xaxis, trace.x[i]), text(yaxis, y), trace.meta || ""], "td"));
      });
    }
    table.append(head, body);
    return table;
  };

  const save = async (plot, format) => {
    const { data, layout } = layoutOf(plot, false);
    const seen = new Set();
    for (const trace of data) {
      trace.showlegend = Boolean(trace.name) && trace.hoverinfo !== "skip" && !seen.has(trace.name);
      seen.add(trace.name);
    }
    const title = { text: plot.figure.dataset.title, font: { size: 16 }, x: 0.02, xanchor: "left" };
    const shape = { ...layout, title, showlegend: true, paper_bgcolor: "#ffffff", margin: { t: 48, r: 24, l: 24, b: 24 } };
    const size = { format, width: 900, height: 520, scale: 2 };
    const url = await Plotly.toImage({ data, layout: shape }, size);
    const link = document.createElement("a");
    link.href = url;
    link.download = `${plot.element.id}.${format}`;
    link.click();
  };

  const press = (button) => {
    const pressed = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", pressed);
    return pressed;
  };

  for (const plot of plots) {
    const tools = plot.figure.querySelector(".tools");
    const box = plot.figure.querySelector(".table-of");
    tools.hidden = false;
    for (const button of tools.querySelectorAll("[data-log]")) {
      const axis = plot.spec.layout[`${button.dataset.log}axis`] || {};
      if (axis.type === "log") button.textContent = labels[`linear_${button.dataset.log}`];
      button.addEventListener("click", () => {
        plot.switched[button.dataset.log] = press(button);
        draw(plot, false);
      });
    }
    const table = tools.querySelector("[data-table]");
    table.addEventListener("click", () => {
      const shown = press(table);
      if (!box.firstChild) box.append(tableOf(plot));
      box.hidden = !shown;
      plot.element.hidden = shown;
      table.textContent = shown ? labels.figure : labels.table;
      if (!shown) draw(plot, false);
    });
    for (const button of tools.querySelectorAll("[data-save]"))
      button.addEventListener("click", () => save(plot, button.dataset.save));
  }

  for (const element of document.querySelectorAll("[data-from]")) element.title = element.dataset.from;
  const sources = document.getElementById("sources");
  if (sources) {
    sources.hidden = false;
    sources.addEventListener("click", () => document.body.classList.toggle("sources", press(sources)));
  }

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = document.getElementById(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(code.innerText.trim());
        button.textContent = labels.copied;
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = labels.selected;
      }
      setTimeout(() => (button.textContent = labels.copy), 2000);
    });
  }

  const script = document.createElement("script");
  script.textContent = await unpack(document.getElementById("plotly").textContent);
  document.head.append(script);
  drawAll(false);
  dark.addEventListener("change", () => drawAll(false));
  addEventListener("beforeprint", () => drawAll(true));
  addEventListener("afterprint", () => drawAll(false));
})();
