// Asks for what is new every two seconds, and writes it into the page: the list beside, the one that is selected, its
// curves. What has not changed is left alone, so that focus, zoom and selection stay.
(() => {
  const json = (id) => JSON.parse(document.getElementById(id).textContent);
  const said = json("said");
  const looks = json("looks");
  const PERIOD = 2000;
  const main = document.getElementById("main");
  const list = document.getElementById("list");
  const pulse = document.getElementById("pulse");
  const language = document.documentElement.lang;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const known = {}; // address -> { tag, data }
  const logarithmic = { "loss.y": false, "loss.x": false, lr: true, grad_norm: true, update_ratio: true };
  let shown = ""; // address of what main holds
  let detail = null;

  // Words and numbers
  const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
  const number = (value, digits) =>
    value === null || value === undefined ? "–" : typeof value === "number" ? value.toPrecision(digits) : escaped(value);
  const nats = (value) => (typeof value === "number" ? value.toFixed(4) : "–");
  const count = (value) => typeof value === "number" ? value.toLocaleString(language) : escaped(value);
  const span = (seconds) =>
    seconds < 90 ? `${Math.ceil(seconds)} ${said.seconds}`
      : seconds < 5400 ? `${Math.round(seconds / 60)} ${said.minutes}` : `${(seconds / 3600).toFixed(1)} ${said.hours}`;
  const component = (name) => {
    if (name === "") return said.base;
    const [base, ...part] = name.split("/");
    return [said[`component.${base}`] || base, ...part].join("/");
  };
  const arm = (search) => {
    const [stage, name, ...rest] = search.split("/");
    return [said[`place.${stage}`] || stage, said[`arm.${name}`] || name, ...rest].join(" / ");
  };
  const lookOf = (kind, name) => looks[`${kind}.${name.split("/")[0]}`] || looks[kind === "component" && name ? "component.other" : "ink"];

  // Light, dark, or as the system has it
  const theme = document.getElementById("theme");
  const dark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : system.matches;
  };
  const colour = (look) => (dark() ? look.dark : look.light);
  const wear = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    theme.textContent = theme.dataset[name];
    theme.value = name;
    draw();
  };
  theme.addEventListener("click", () => wear({ auto: "light", light: "dark", dark: "auto" }[theme.value]));
  system.addEventListener("change", () => draw());

  // Replaces what an element holds only where it is another; what had the focus gets it back.
  const fill = (element, html) => {
    if (element.written === html) return;
    const focused = element.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const scrolled = element.querySelector(".list") ? element.querySelector(".list").scrollTop : 0;
    element.innerHTML = html;
    element.written = html;
    if (focused) element.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
    if (scrolled) element.querySelector(".list")?.scrollTo(0, scrolled);
  };
  const state = (name) => `<span class="state ${name}">${said[`state.${name}`]}</span>`;
  const place = () => decodeURIComponent(location.hash.slice(1)).split("/");

  // The list beside
  const progressed = (item) => item.kind === "study" && item.state === "finished" ? "" : (item.steps ? `${count(item.step)} / ${count(item.steps)}` : item.step ? count(item.step) : "");
  const drawList = (items) => {
    const [selected] = place();
    fill(list, items.map((item) => `<li><a href="#${item.id}" data-key="${item.id}" title="${escaped(item.path)}"
      ${item.id === selected ? 'aria-current="page"' : ""}><span class="name">${escaped(item.name)}</span>
      <span class="sub">${state(item.state)}<span>${said[`kind.${item.kind}`]}</span>
      <span>${escaped(item.stage || "")} ${progressed(item)}</span>
      ${item.loss === null ? "" : `<span>${nats(item.loss)}</span>`}
      ${item.alarms ? `<span class="alarms">▲ ${said.alarms} ${count(item.alarms)}</span>` : ""}</span></a></li>`).join(""));
  };

  // Parts of main
  const facts = (pairs) => `<dl class="facts">${pairs.filter(([, value]) => value && value !== "–")
    .map(([name, value]) => `<div><dt>${name}</dt><dd>${escaped(value)}</dd></div>`).join("")}</dl>`;
  const head = (d) => `${place()[1] ? `<a class="back" data-key="back" href="#${place()[0]}">${said.back}</a>` : ""}
    <div class="head"><h2>${escaped(d.name)}</h2>${state(d.state)}</div>
    <p class="path">${escaped(d.path)}</p>
    ${d.why ? `<p class="why">${escaped(d.why)}</p>` : ""}
    ${d.problems.map((text) => `<p class="problem">${escaped(text)}</p>`).join("")}`;
  const bar = (done, total, name) =>
    total ? `<progress value="${Math.min(done, total)}" max="${total}" aria-label="${escaped(name)}"></progress>` : "";
  const course = (d) => d.course.length === 0 ? "" : `<section><h3>${said.course}</h3><ul class="course">
    ${d.course.map((e) => `<li><span class="from">${e.at} UTC · ${escaped(said[`entry.${e.kind}`] || e.kind)}</span> ${escaped(e.text)}</li>`).join("")}
    </ul></section>`;
  const alarmList = (d) => `<section id="alarms"><h3>${said.alarms}${d.list.length ? ` (${count(d.list.length)})` : ""}</h3>
    ${d.list.length === 0 ? `<p class="none">${d.checked ? said.no_alarm_checked : said.no_alarm}</p>` : ""}
    <ul class="list" tabindex="0" data-key="alarms" ${d.list.length ? "" : "hidden"} aria-label="${said.alarms}">
    ${d.list.slice().reverse().map((a) => `<li class="alarm"><b>${escaped(a.check)}</b> · ${escaped(a.component ? component(a.component) : said.whole_model)}
      · ${said.step} ${a.run ? `<a href="#${place()[0]}/${escaped(a.run)}">${count(a.step)}, ${escaped(a.run)}</a>` : count(a.step)}
      · ${number(a.value, 3)}, ${said.threshold} ${number(a.threshold, 3)}
      <p>${said.cause}: ${escaped(a.cause || "–")}</p><p>${said.remedy}: ${escaped(a.remedy || "–")}</p>
      ${a.action ? `<p>${said.done}: ${escaped(a.action)}</p>` : ""}
      <p class="from">${a.recorded ? said.recorded : said.checked_here}</p></li>`).join("")}</ul></section>`;
  const figure = (id, title, small) => `<section><div class="bar"><h3>${title}</h3><div class="buttons" data-for="${id}"></div></div>
    <div class="plot ${small ? "small" : ""}" id="plot-${id}" role="img" aria-label="${title}"></div><ul class="key" id="key-${id}"></ul></section>`;
  const skeletons = {
    run: `<div id="top"></div>${figure("loss", said.loss)}<div id="middle"></div>
      <div class="parts">${figure("lr", said.rates, 1)}${figure("grad_norm", said.gradients, 1)}${figure("update_ratio", said.updates, 1)}</div><div id="bottom"></div>`,
    study: `<div id="top"></div><div id="middle"></div>${figure("scores", said.trials)}<div id="bottom"></div>`,
    rollout: `<div id="top"></div><div id="middle"></div><div id="bottom"></div>`,
  };
  const at = (id) => document.getElementById(id);

  const fillRun = (d) => {
    const n = d.numbers;
    fill(at("top"), head(d) + bar(d.step, d.steps, said.step) + facts([
      [said.step, progressed(d)], [said.train, nats(n.loss)], [said.valid, nats(n.valid_loss)],
      [said.base_rate, number(n.lr_base, 3)], [said.tokens_per_second, n.tokens_per_second ? count(Math.round(n.tokens_per_second)) : ""],
      [said.left, n.seconds_left === null ? "" : span(n.seconds_left)]]));
    fill(at("middle"), alarmList(d));
    fill(at("bottom"), course(d));
  };
  const fillStudy = (d) => {
    fill(at("top"), head(d) + (d.verdict ? `<section class="verdict"><h3>${said.verdict}: ${escaped(d.verdict.headline)}</h3>
      <p>${escaped(d.verdict.sentence)}</p></section>` : "") + (d.report ? `<p class="why">${said.report} <code>${escaped(d.report)}</code></p>` : "") +
      (d.state === "finished" ? "" : facts([[said.stage, d.stage], [said.ended_of, progressed(d)]]) + bar(d.step, d.steps, d.stage)));
    fill(at("middle"), d.searches.length === 0 ? "" : `<section><h3>${said.searches}</h3><div class="scroll"><table><thead><tr><th>${said.run}</th>
      <th class="number">${said.ended_of}</th><th class="number">${said.at_work}</th><th class="number">${said.score}</th><th>${said.best}</th></tr></thead><tbody>
      ${d.searches.map((s) => `<tr><td>${escaped(arm(s.name))}</td><td class="number">${s.ended} / ${s.total}</td><td class="number">${s.running}</td>
      <td class="number">${s.best.length ? nats(s.best[0].score) : "–"}</td><td>${s.best.length ? `${said.trial} ${s.best[0].number}: ${escaped(s.best[0].move)}` : "–"}</td></tr>`).join("")}
      </tbody></table></div></section>`);
    const best = d.searches.filter((s) => s.name.startsWith("proxy/") && s.best.length);
    fill(at("bottom"), (best.length ? `<section><h3>${said.best}</h3><div class="scroll"><table><thead><tr><th>${said.run}</th><th class="number">${said.trial}</th>
      <th class="number">${said.score}</th><th class="number">${said.base_rate}</th><th>${said.move}</th></tr></thead><tbody>
      ${best.flatMap((s) => s.best.map((t) => `<tr><td>${escaped(arm(s.name))}</td><td class="number">${t.number}</td><td class="number">${nats(t.score)}</td>
      <td class="number">${number(t.lr, 3)}</td><td>${escaped(t.move)}</td></tr>`)).join("")}</tbody></table></div></section>` : "") +
      alarmList(d) +
      (d.runs.length ? `<section><h3>${said.runs}</h3><div class="scroll"><table><thead><tr><th>${said.run}</th><th>${said.state}</th>
      <th class="number">${said.step}</th><th class="number">${said.loss}</th></tr></thead><tbody>
      ${d.runs.map((r) => `<tr><td><a href="#${place()[0]}/${escaped(r.id)}" data-key="${escaped(r.id)}">${escaped(r.id)}</a></td><td>${state(r.state)}</td>
      <td class="number">${progressed(r)}</td><td class="number">${nats(r.loss)}</td></tr>`).join("")}</tbody></table></div></section>` : "") + course(d));
  };
  const fillRollout = (d) => {
    fill(at("top"), head(d) + bar(d.step, d.steps, said.stages));
    fill(at("middle"), `<section><h3>${said.stages}</h3><table><thead><tr><th>${said.stage}</th><th>${said.status}</th><th class="number">${said.pairs}</th>
      <th class="number">${said.looks}</th></tr></thead><tbody>${d.stages.map((s) => `<tr><td>${escaped(s.name)}</td><td>${escaped(s.status)}</td>
      <td class="number">${s.pairs}</td><td class="number">${s.looks}</td></tr>`).join("")}</tbody></table></section>`);
    fill(at("bottom"), alarmList(d) + course(d));
  };

  // Figures
  const line = (points, name, look, hover) => ({
    type: "scatter", mode: points[0].length > 1 ? "lines" : "markers", x: points[0], y: points[1], name,
    line: { color: colour(look), width: 1.8, dash: look.dash }, marker: { color: colour(look), size: 7 },
    hovertemplate: `${hover || "%{y:.5g}"}<extra>%{fullData.name}</extra>`,
  });
  const nearest = (points, step) => {
    let found = null;
    for (let i = 0; i < points[0].length; i++) {
      if (points[1][i] === null) continue;
      if (found !== null && points[0][i] > step) break;
      found = points[1][i];
    }
    return found;
  };
  const marks = (alarms, points) => alarms.length === 0 ? [] : [{
    type: "scatter", mode: "markers", name: said.alarms, x: alarms.map((a) => a.step), y: alarms.map((a) => nearest(points(a), a.step)),
    text: alarms.map((a) => escaped(`${a.check} ${a.component ? component(a.component) : ""}`)), hovertemplate: "%{text}<extra></extra>",
    marker: { symbol: "triangle-down", size: 12, color: colour(looks.wrong), line: { color: dark() ? "#14171a" : "#ffffff", width: 1 } },
  }];
  // Whole powers of ten where there are enough of them: plotly's digits between them are too many for a small figure.
  const ticks = (data, logarithmically) => {
    const values = data.flatMap((trace) => trace.y).filter((value) => value > 0);
    const decades = values.length ? Math.log10(values.reduce((a, b) => Math.max(a, b)) / values.reduce((a, b) => Math.min(a, b))) : 0;
    if (!logarithmically) return { exponentformat: "power", nticks: 7 };
    return decades > 2.2 ? { dtick: 1, exponentformat: "power" } : { dtick: "D2", exponentformat: "none" };
  };
  const plot = (id, data, options) => {
    const element = at(`plot-${id}`);
    if (!element) return;
    const axis = { gridcolor: colour(looks.grid), linecolor: colour(looks.grid), zeroline: false, automargin: true };
    const steps = options.alarms || [];
    Plotly.react(element, data, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, uirevision: `${shown} ${id} ${options.revision || ""}`,
      font: { color: colour(looks.muted), size: 12, family: getComputedStyle(document.body).fontFamily },
      margin: { l: 8, r: 8, t: 10, b: 30 }, hovermode: "x unified", dragmode: touch ? false : "zoom",
      hoverlabel: { bgcolor: dark() ? "#1c2024" : "#ffffff", font: { color: colour(looks.ink) } },
      xaxis: { ...axis, title: { text: options.x, standoff: 6 }, type: options.logX ? "log" : "linear", nticks: 7 },
      yaxis: { ...axis, type: options.logY ? "log" : "linear", ...ticks(data, options.logY) },
      shapes: steps.slice(-100).map((a) => ({ type: "line", x0: a.step, x1: a.step, yref: "paper", y0: 0, y1: 1,
        line: { color: colour(looks.wrong), width: 1, dash: "dot" } })),
    }, { displayModeBar: false, responsive: true, showTips: false });
  };
  const key = (id, names) => fill(at(`key-${id}`), names.map(([name, look]) => `<li><svg width="22" height="8" aria-hidden="true">
    <line x1="0" x2="22" y1="4" y2="4" stroke="${colour(look)}" stroke-width="2.5" stroke-dasharray="${{ dash: "7 4", dot: "2 3", dashdot: "7 3 2 3", longdash: "11 4" }[look.dash] || "none"}"/></svg>${escaped(name)}</li>`).join(""));
  const toggles = (id, names) => {
    const box = document.querySelector(`[data-for="${id}"]`);
    if (!box || box.children.length) return;
    for (const [name, label] of names) {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.log = name;
      button.textContent = label;
      button.setAttribute("aria-pressed", String(logarithmic[name]));
      button.addEventListener("click", () => {
        logarithmic[name] = !logarithmic[name];
        button.setAttribute("aria-pressed", String(logarithmic[name]));
        draw();
      });
      box.append(button);
    }
  };
  const TOLD = { lr: ["rate_off_schedule"], grad_norm: ["gradient_spike", "clip_starvation", "dead_component"],
    update_ratio: ["update_ratio_high", "update_ratio_low"] };
  const drawRun = (d) => {
    const { losses, parts, not_finite } = d.curves;
    const blue = looks["component.embedding"], ink = looks.ink;
    const data = [];
    if (losses.loss[0].length) data.push(line(losses.loss, said.train, blue));
    if (losses.valid_loss[0].length) data.push({ ...line(losses.valid_loss, said.valid, ink), mode: "lines+markers", marker: { color: colour(ink), size: 5 } });
    const bad = not_finite.map((step) => ({ step, check: said.not_finite, component: "" }));
    const base = losses.loss[0].length ? losses.loss : losses.valid_loss;
    data.push(...marks([...d.list, ...bad], () => base));
    at("plot-loss").closest("section").hidden = data.length === 0;
    toggles("loss", [["loss.x", said.log_x], ["loss.y", said.log_y]]);
    plot("loss", data, { x: said.step, logX: logarithmic["loss.x"], logY: logarithmic["loss.y"], alarms: d.list,
      revision: `${logarithmic["loss.x"]}${logarithmic["loss.y"]}` });
    key("loss", [...(losses.loss[0].length ? [[said.train, blue]] : []), ...(losses.valid_loss[0].length ? [[said.valid, ink]] : []),
      ...(d.list.length || bad.length ? [[`▼ ${said.alarms}`, looks.wrong]] : [])]);
    at("plot-loss").setAttribute("aria-label", `${said.loss}: ${said.train} ${nats(d.numbers.loss)}, ${said.valid} ${nats(d.numbers.valid_loss)}`);
    for (const part of ["lr", "grad_norm", "update_ratio"]) {
      const series = Object.entries(parts[part]);
      const look = (name) => (name === "" ? { ...looks.muted, dash: "dash" } : lookOf("component", name));
      const alarms = d.list.filter((a) => TOLD[part].includes(a.check) && a.component in parts[part]);
      at(`plot-${part}`).closest("section").hidden = series.length === 0;
      if (series.length === 0) continue;
      toggles(part, [[part, said.log_y]]);
      plot(part, [...series.map(([name, points]) => line(points, component(name), look(name), "%{y:.3g}")),
        ...marks(alarms, (a) => parts[part][a.component])], { x: said.step, logY: logarithmic[part], revision: logarithmic[part] });
      key(part, series.map(([name]) => [name === "" && part === "grad_norm" ? said.whole_model : component(name), look(name)]));
    }
  };
  const drawStudy = (d) => {
    const mine = d.searches.filter((s) => s.scores.some(([, score]) => score !== null));
    const data = mine.flatMap((s) => {
      const look = s.name.startsWith("proxy/") ? lookOf("arm", s.arm) : { ...lookOf("arm", s.arm), dash: "dot" };
      const kept = s.scores.filter(([, score]) => score !== null);
      let least = Infinity;
      const best = kept.filter(([, , , whole]) => whole).map(([n, score]) => [n, (least = Math.min(least, score))]);
      return [
        { ...line([kept.map(([n]) => n), kept.map(([, score]) => score)], arm(s.name), look), mode: "markers",
          marker: { color: colour(look), size: 7, symbol: kept.map(([, , , whole]) => (s.name.startsWith("proxy/") ? "circle" : "diamond") + (whole ? "" : "-open")) } },
        { ...line([best.map(([n]) => n), best.map(([, score]) => score)], `${arm(s.name)}: ${said.best_so_far}`, look), mode: "lines",
          line: { color: colour(look), width: 1.5, dash: look.dash, shape: "hv" }, hoverinfo: "skip", hovertemplate: null },
      ];
    });
    toggles("scores", [["loss.y", said.log_y]]);
    at("plot-scores").closest("section").hidden = mine.length === 0;
    if (mine.length) plot("scores", data, { x: said.trial, logY: logarithmic["loss.y"], revision: logarithmic["loss.y"] });
    key("scores", mine.map((s) => [arm(s.name), s.name.startsWith("proxy/") ? lookOf("arm", s.arm) : { ...lookOf("arm", s.arm), dash: "dot" }]));
  };

  const draw = () => {
    if (!detail || !skeletons[detail.kind]) return;
    ({ run: drawRun, study: drawStudy, rollout: () => {} })[detail.kind](detail);
  };
  const show = (d) => {
    const address = location.hash + d.kind;
    if (shown !== address) {
      for (const element of main.querySelectorAll(".plot")) Plotly.purge(element);
      main.innerHTML = skeletons[d.kind] || `<p class="none">${said.gone}</p>`;
      shown = address;
    }
    detail = d;
    if (!skeletons[d.kind]) return;
    ({ run: fillRun, study: fillStudy, rollout: fillRollout })[d.kind](d);
    draw();
  };

  // Asking
  const ask = async (address) => {
    const old = known[address];
    const answer = await fetch(address, { headers: old ? { "If-None-Match": old.tag } : {}, cache: "no-store" });
    if (answer.status === 304) return [old.data, false];
    if (!answer.ok) throw new Error(String(answer.status));
    const data = await answer.json();
    known[address] = { tag: answer.headers.get("ETag"), data };
    return [data, true];
  };
  let asking = Promise.resolve();
  const look = async (anew) => {
    try {
      const [overview] = await ask("overview.json");
      if (!place()[0] && overview.items.length) history.replaceState(null, "", `#${overview.items[0].id}`);
      drawList(overview.items);
      const [item, run] = place();
      if (item) {
        const [data, changed] = await ask(`detail.json?item=${encodeURIComponent(item)}${run ? `&run=${encodeURIComponent(run)}` : ""}`);
        if (place().join("/") === [item, run].filter((part) => part !== undefined).join("/") && (changed || anew)) show(data);
      }
      pulse.textContent = `${said.updated} ${new Date().toLocaleTimeString(language)}`;
      pulse.classList.remove("lost");
    } catch (error) {
      pulse.textContent = said.lost;
      pulse.classList.add("lost");
    }
  };
  const again = (anew) => (asking = asking.then(() => look(anew)));
  addEventListener("hashchange", () => again(true).then(() => main.focus({ preventScroll: false })));
  document.addEventListener("visibilitychange", () => document.hidden || again(false));
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  wear("auto");
  const turn = async () => {
    if (!document.hidden) await again(shown === "");
    setTimeout(turn, PERIOD);
  };
  turn();
})();
