/* What the page does: draws its charts again for its width and colours, sorts its table, turns runs on and off. */
(() => {
  const study = JSON.parse(document.getElementById("study").textContent);
  const root = document.documentElement, { colours, press } = Base;
  const { ofLine, ofRun } = Plot.looks(study);
  const MANY = 8, SHOWN = 5;

  const pen = document.createElement("canvas").getContext("2d");
  function measure(text, bold) {
    pen.font = `${bold ? 700 : 400} 12px ${getComputedStyle(root).getPropertyValue("--sans")}`;
    return Math.ceil(pen.measureText(text).width) + 2;
  }

  const figures = [...document.querySelectorAll("figure[data-chart]")].map((figure) => {
    const runs = study.runs.filter((run) => run.group === figure.dataset.group);
    return { figure, runs, hidden: new Set(), engine: null, drawn: "" };
  });

  /* Of many runs, the first line of the axis is shown at first, or else the best few; and the reference. */
  for (const it of figures.filter((it) => it.figure.dataset.chart === "time" && it.runs.length > MANY)) {
    const line = [...Plot.linesOf(it.runs).values()][0];
    const ordered = line && line.length > 1 ? [...line, ...it.runs.filter((run) => !line.includes(run))] : [...it.runs].sort((a, b) => (b.auc.value ?? -1) - (a.auc.value ?? -1));
    const n = line && line.length > 1 ? Math.min(line.length, MANY) : SHOWN;
    for (const run of ordered.slice(n)) if (study.references[run.group] !== run.name) it.hidden.add(run.name);
  }

  function draw(it) {
    const { figure, runs, hidden } = it, box = figure.querySelector(".chart");
    const width = box.clientWidth, theme = colours(), { chart: kind, measure: key, group } = figure.dataset;
    const made = Charts[kind]({ study, group, runs, key, theme, width, ofLine, ofRun, hidden, measure });
    box.style.height = `${made.height}px`;
    it.engine ??= echarts.init(box, null, { renderer: "svg", width, height: made.height });
    it.engine.resize({ width, height: made.height });
    it.engine.setOption(made.option, { notMerge: true });
    if (made.legend) toggles(it, made.legend, theme);
    if (made.swatches) swatches(it, made.swatches, theme);
    it.drawn = `${width}`;
  }

  /* Escaped by the browser: titles go into text nodes only. */
  function swatch({ color, symbol, dash, itemStyle }) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("width", 26);
    svg.setAttribute("height", 12);
    svg.setAttribute("aria-hidden", "true");
    const add = (name, attributes) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [k, v] of Object.entries(attributes)) element.setAttribute(k, v);
      svg.append(element);
    };
    add("line", { x1: 1, x2: 25, y1: 6, y2: 6, stroke: color, "stroke-width": 2, "stroke-dasharray": dash === "solid" ? "" : dash.join(" ") });
    const paint = itemStyle ? { fill: itemStyle.color, stroke: color, "stroke-width": 1.5 } : {};
    if (symbol === "circle") add("circle", { cx: 13, cy: 6, r: 3.5, ...paint });
    if (symbol === "rect") add("rect", { x: 9.5, y: 2.5, width: 7, height: 7, ...paint });
    if (symbol === "triangle") add("path", { d: "M13 1.8 17 10h-8z", ...paint });
    if (symbol === "diamond") add("path", { d: "M13 1.5 17.5 6 13 10.5 8.5 6z", ...paint });
    return svg;
  }

  function toggles(it, runs, theme) {
    const legend = it.figure.querySelector(".legend");
    const focused = legend.contains(document.activeElement) ? document.activeElement.dataset.run : null;
    const buttons = runs.map((run) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.run = run.name;
      button.setAttribute("aria-pressed", String(!it.hidden.has(run.name)));
      button.append(swatch(Plot.look(theme, ofRun.get(run.name))), run.title);
      button.addEventListener("click", () => {
        if (!it.hidden.delete(run.name)) it.hidden.add(run.name);
        draw(it);
      });
      return button;
    });
    const some = runs.some((run) => it.hidden.has(run.name)), all = document.createElement("button");
    all.type = "button";
    all.className = "all";
    all.dataset.run = "";
    all.textContent = some ? `show all ${runs.length}` : "show none";
    all.addEventListener("click", () => {
      it.hidden = new Set(some ? [] : runs.map((run) => run.name));
      draw(it);
    });
    legend.replaceChildren(...(runs.length > 1 ? [...buttons, all] : []));
    if (focused !== null) [...legend.children].find((b) => b.dataset.run === focused)?.focus();
  }

  function swatches(it, lines) {
    const legend = it.figure.querySelector(".legend");
    legend.replaceChildren(...lines.map((line) => {
      const span = document.createElement("span");
      span.className = "key";
      span.append(swatch(line), line.title);
      return span;
    }));
  }

  const drawAll = () => figures.forEach(draw);
  for (const it of figures) {
    const choices = it.figure.querySelectorAll(".choice button");
    for (const button of choices) {
      button.addEventListener("click", () => {
        it.figure.dataset.measure = button.dataset.measure;
        press(choices, button);
        draw(it);
      });
    }
  }

  /* Numbers best first where more is better is not known here: the first press sorts downwards, texts upwards. */
  const table = document.getElementById("runs"), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const firstOrder = [...body.rows];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const raw = (row) => row.cells[column].dataset.sort;
      const isText = ["title", "group"].includes(head.dataset.key);
      const first = isText ? "ascending" : "descending", now = head.getAttribute("aria-sort");
      const next = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
      const sign = next === "ascending" ? 1 : -1;
      const compare = (a, b) => (isText ? (a < b ? -1 : a > b ? 1 : 0) : Number(a) - Number(b));
      const known = firstOrder.filter((row) => raw(row) !== undefined).sort((a, b) => sign * compare(raw(a), raw(b)));
      body.append(...known, ...firstOrder.filter((row) => raw(row) === undefined));
      for (const other of heads) other.setAttribute("aria-sort", other === head ? next : "none");
    });
  });

  let waiting = 0;
  new ResizeObserver(() => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => {
      for (const it of figures) if (it.drawn !== `${it.figure.querySelector(".chart").clientWidth}`) draw(it);
    });
  }).observe(document.body);
  Base.theme(drawAll);
})();
