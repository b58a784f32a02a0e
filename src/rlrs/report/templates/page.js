// Draws the figures from the JSON beside them, in the colours of the reader's theme, and again when it changes.
(() => {
  const twins = JSON.parse(document.getElementById("dark-twins").textContent);
  const plots = [...document.querySelectorAll("script.plot-data")].map((script) => ({
    element: document.getElementById(script.dataset.plot),
    spec: JSON.parse(script.textContent),
  }));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // A finger on a plot should scroll the page, not zoom.
  const touch = matchMedia("(pointer: coarse)").matches;
  // px; fits A4 and letter, and the height that style.css or the page gives
  const printed = (element) => ({
    width: element.closest(".small") ? 200 : 640,
    height: Number(element.dataset.height) || 290,
  });

  const themed = (value, swap) => {
    if (typeof value === "string") return (swap && twins[value]) || value;
    if (Array.isArray(value)) return value.map((item) => themed(item, swap));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item, swap)]));
  };

  const draw = (printing) => {
    const swap = dark.matches && !printing;
    for (const { element, spec } of plots) {
      const { data, layout } = themed(spec, swap);
      if (touch) layout.dragmode = false;
      if (printing) Object.assign(layout, printed(element));
      Plotly.react(element, data, layout, { displayModeBar: false, responsive: true, showTips: false });
    }
  };

  draw(false);
  dark.addEventListener("change", () => draw(false));
  addEventListener("beforeprint", () => draw(true));
  addEventListener("afterprint", () => draw(false));

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = document.getElementById(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
  }
})();
