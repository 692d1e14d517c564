/* A chart on the page: its legend that tells values at the cursor, marks of alerts, the cursor and the choice of a time. */
const Figures = (() => {
  const { GRID } = Charts, NEAR_PX = 6;

  function make(tag, more = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(more)) {
      if (key in element && key !== "role") element[key] = value;
      else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }

  class Figure {
    /* `page` has the view {from, to, sizeMs, theme, alerts, measures} and takes setCursor(ms, figure) and setRange(from, to). */
    constructor(chart, page) {
      Object.assign(this, { chart, page, series: null, hidden: new Set(), lines: [], engine: null, stale: true, isNear: false });
      const measure = page.view.measures.get(chart.lines[0].measure), unit = Words.UNITS[measure.unit];
      const title = make("a", { href: "", textContent: chart.title });
      title.addEventListener("click", (event) => { event.preventDefault(); page.goTo(chart.key); });
      const help = make("p", { className: "help", id: `help-${chart.key}`, hidden: true, textContent: `${chart.help}${measure.counted ? ` Grey where there are fewer than ${measure.least} ${measure.counted}.` : ""}` });
      const why = make("button", { type: "button", className: "why", textContent: "?", "aria-label": `What ${chart.title} is`, "aria-expanded": "false", "aria-controls": help.id });
      why.addEventListener("click", () => { help.hidden = !help.hidden; why.setAttribute("aria-expanded", String(!help.hidden)); });
      this.legend = make("div", { className: "legend", role: "group", "aria-label": `Lines of ${chart.title}` });
      this.canvas = make("div", { className: "canvas" });
      this.marks = make("div", { className: "over" });
      this.cursor = make("div", { className: "cursor" });
      this.brush = make("div", { className: "brush" });
      this.tip = make("div", { className: "tip" });
      this.empty = make("p", { className: "empty" });
      this.marks.append(this.brush, this.cursor);
      this.stage = make("div", { className: "stage", tabIndex: 0, role: "img" }, this.canvas, this.marks, this.tip, this.empty);
      this.element = make("figure", { className: "plot", id: chart.key }, make("figcaption", {}, make("h3", {}, title), make("span", { className: "unit", textContent: unit }), why), help, this.legend, this.stage);
      this.listen();
    }

    get box() {
      const width = this.stage.clientWidth, height = this.stage.clientHeight;
      return { left: GRID.left, right: width - GRID.right, bottom: height - GRID.bottom, width, height };
    }
    x(ms) {
      const { left, right } = this.box, { from, to } = this.page.view;
      return left + ((ms - from) / (to - from)) * (right - left);
    }
    ms(x) {
      const { left, right } = this.box, { from, to } = this.page.view;
      return from + ((Math.min(right, Math.max(left, x)) - left) / (right - left)) * (to - from);
    }
    /* The window that is nearest, if there is one. */
    nearest(ms) {
      const starts = this.series?.start_ms ?? [];
      if (!starts.length) return -1;
      let low = 0, high = starts.length - 1;
      while (low < high) { const mid = (low + high) >> 1; if (starts[mid] < ms) low = mid + 1; else high = mid; }
      if (low > 0 && ms - starts[low - 1] < starts[low] - ms) low--;
      return Math.abs(starts[low] - ms) <= this.page.view.sizeMs ? low : -1;
    }

    listen() {
      const { stage, page } = this, at = (event) => event.clientX - stage.getBoundingClientRect().left;
      let pressed = null;
      stage.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        if (event.pointerType === "mouse") { pressed = at(event); stage.setPointerCapture(event.pointerId); }
        page.setCursor(this.ms(at(event)), this, at(event));
      });
      stage.addEventListener("pointermove", (event) => {
        if (pressed !== null && Math.abs(at(event) - pressed) > 4) {
          const { left, right, bottom } = this.box, [a, b] = [pressed, at(event)].sort((a, b) => a - b).map((x) => Math.min(right, Math.max(left, x)));
          Object.assign(this.brush.style, { display: "block", left: `${a}px`, width: `${b - a}px`, height: `${bottom}px` });
        }
        page.setCursor(this.ms(at(event)), this, at(event));
      });
      stage.addEventListener("pointerup", (event) => {
        if (pressed !== null && Math.abs(at(event) - pressed) > 4) page.setRange(...[this.ms(pressed), this.ms(at(event))].sort((a, b) => a - b));
        pressed = null;
        this.brush.style.display = "none";
      });
      stage.addEventListener("pointercancel", () => { pressed = null; this.brush.style.display = "none"; });
      stage.addEventListener("pointerleave", () => { if (pressed === null) page.setCursor(null, this); });
      stage.addEventListener("blur", () => page.setCursor(null, this));
      stage.addEventListener("dblclick", () => page.zoom(2));
      stage.addEventListener("keydown", (event) => {
        const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key], { from, to, sizeMs, cursor } = page.view;
        if (event.key === "Escape") page.setCursor(null, this);
        if (!by) return;
        event.preventDefault();
        const next = Math.min(to - sizeMs, Math.max(from, (cursor ?? to) + by * sizeMs * (event.shiftKey ? 10 : 1)));
        page.setCursor(next, this, this.x(next));
      });
    }

    show(series, empty) {
      this.series = series;
      this.lines = series ? Charts.linesOf(this.chart, this.page.view.measures, Object.keys(series.values)) : [];
      const none = !this.lines.length || !series.start_ms.length;
      this.empty.textContent = none ? empty : "";
      this.stage.classList.toggle("is-empty", none);
      this.element.classList.toggle("wide", this.lines.length > 6);
      this.makeLegend();
      this.mark();
      this.stale = true;
      this.draw();
    }

    /* Only what is near the screen, and once the engine is there; the rest when it comes near. */
    draw(all = false) {
      if (!(this.stale && (this.isNear || all) && window.echarts)) return;
      this.stale = false;
      const { from, to, theme } = this.page.view, { width, height } = this.box;
      this.engine ??= echarts.init(this.canvas, null, { renderer: "canvas", width, height });
      if (this.engine.getWidth() !== width) this.engine.resize({ width, height });
      const lines = this.lines.map((line) => ({ ...line, hidden: this.hidden.has(line.name) }));
      this.engine.setOption(Charts.option({ lines, series: this.series ?? { start_ms: [], values: {} }, from, to, theme, width }), { notMerge: true });
      this.stage.dataset.drawn = `${width} ${from} ${to} ${this.series?.start_ms.length ?? 0}`;
    }

    mark() {
      const { alerts, from, to } = this.page.view, { left, right, bottom } = this.box, found = [];
      const shown = this.chart.lines.map((line) => line.measure), inside = (x) => Math.min(right, Math.max(left, x));
      for (const alert of alerts) {
        const end = alert.cleared_ms ?? to, own = shown.includes(Words.measureOf(alert.metric)) ? " own" : "";
        if (alert.start_ms >= to || end <= from) continue;
        const [a, b] = [inside(this.x(alert.start_ms)), inside(this.x(end))];
        const during = make("div", { className: `during${own}`, "data-tone": alert.severity });
        Object.assign(during.style, { left: `${a}px`, width: `${Math.max(1, b - a)}px`, height: `${bottom}px` });
        found.push(during);
        if (alert.start_ms < from) continue;
        const line = make("div", { className: `mark${own}`, "data-tone": alert.severity, "data-alert": alert.id });
        Object.assign(line.style, { left: `${a}px`, height: `${bottom}px` });
        found.push(line);
      }
      this.marks.replaceChildren(...found, this.brush, this.cursor);
    }

    makeLegend() {
      const { theme } = this.page.view, focused = this.legend.contains(document.activeElement) ? document.activeElement.dataset.name : null;
      this.legend.replaceChildren(...this.lines.map((line) => {
        const { color, dash } = Charts.look(line, theme), swatch = make("i", { className: dash === "solid" ? "" : "dash" });
        swatch.style.borderTopColor = color;
        const button = make("button", { type: "button", "data-name": line.name, "aria-pressed": String(!this.hidden.has(line.name)) }, swatch, make("span", { textContent: line.label }), make("b"));
        button.classList.toggle("lone", this.lines.length === 1 && !line.label);
        button.addEventListener("click", () => {
          if (!this.hidden.delete(line.name)) this.hidden.add(line.name);
          this.makeLegend();
          this.stale = true;
          this.draw();
        });
        return button;
      }));
      if (focused) [...this.legend.children].find((b) => b.dataset.name === focused)?.focus();
      this.tellValues();
    }

    /* In the legend: what the lines are at the cursor, or in the last window. */
    tellValues() {
      const { cursor, to, sizeMs } = this.page.view, column = (line) => this.series.values[line.name];
      const i = !this.series ? -1 : cursor === null ? this.series.start_ms.findLastIndex((ms) => ms < to) : this.nearest(cursor);
      const told = [];
      this.lines.forEach((line, k) => {
        const button = this.legend.children[k], value = i < 0 ? null : column(line).value[i], n = i < 0 ? 0 : column(line).n[i];
        button.lastChild.textContent = Words.figure(value, line.measure.unit);
        button.classList.toggle("few", n < line.measure.least);
        if (Base.known(value)) told.push(`${line.label || this.chart.title} ${Words.figure(value, line.measure.unit)}${n < line.measure.least ? " (too few)" : ""}`);
      });
      const at = i < 0 ? "" : ` at ${Words.clock(this.series.start_ms[i])}, window of ${Words.SIZE_TITLES[sizeMs]}`;
      this.stage.setAttribute("aria-label", `${this.chart.title}: ${told.join(", ") || this.empty.textContent || "no value"}${told.length ? at : ""}`);
    }

    showCursor(ms, isHere, x) {
      const i = ms === null ? -1 : this.nearest(ms);
      this.cursor.style.display = ms === null ? "none" : "block";
      if (ms !== null) Object.assign(this.cursor.style, { left: `${this.x(i < 0 ? ms : this.series.start_ms[i])}px`, height: `${this.box.bottom}px` });
      this.tellValues();
      this.tip.style.display = "none";
      if (ms !== null && isHere) this.showTip(i, x);
    }

    showTip(i, x) {
      const { alerts, sizeMs } = this.page.view, rows = [];
      if (i >= 0) {
        for (const line of this.lines.filter((line) => !this.hidden.has(line.name))) {
          const { value, n, error } = this.series.values[line.name], few = n[i] < line.measure.least;
          const sure = Base.known(error[i]) ? `± ${Words.figure(1.96 * error[i], line.measure.unit)}` : "";
          const count = line.measure.counted ? `${Base.grouped(n[i], 0)} ${line.measure.counted}` : "";
          const swatch = make("i");
          swatch.style.borderTopColor = Charts.look(line, this.page.view.theme).color;
          rows.push(make("tr", { className: few ? "few" : "" }, make("td", {}, swatch, line.label || this.chart.title), ...[Words.figure(value[i], line.measure.unit), sure, count].map((text, k) => make("td", { textContent: text, className: k ? "soft" : "" }))));
        }
      }
      const near = alerts.filter((alert) => Math.abs(this.x(alert.start_ms) - x) <= NEAR_PX);
      if (!rows.length && !near.length) return;
      const start = i >= 0 ? this.series.start_ms[i] : null;
      this.tip.replaceChildren(
        ...(start === null ? [] : [make("div", { className: "soft", textContent: `${Words.day(start)} ${Words.clock(start)} – ${Words.clock(start + sizeMs)} UTC` })]),
        make("table", {}, make("tbody", {}, ...rows.slice(0, 12))),
        ...near.map((alert) => make("div", { className: "alerted", "data-tone": alert.severity, textContent: `${alert.rule}: ${alert.reason}` })),
      );
      this.tip.style.display = "block";
      const { width } = this.box, wide = this.tip.offsetWidth, left = x + 14 + wide > width ? x - 14 - wide : x + 14;
      Object.assign(this.tip.style, { left: `${Math.max(0, Math.min(width - wide, left))}px`, top: `${Math.max(-8, 14)}px` });
    }
  }

  return { Figure, make };
})();
