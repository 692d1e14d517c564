/* The alerts as a list, and the slices as a table. */
const Lists = (() => {
  const { make } = Figures, { known } = Base;
  const SHOWN = 30;
  const SEVERITIES = { page: "page", ticket: "ticket", note: "note" };

  function alerts(found, view, { goTo, jump }, all = false, more = () => {}) {
    if (!found.length) return [make("p", { className: "quiet", textContent: "None was raised." })];
    const ordered = [...found].sort((a, b) => (a.cleared_ms === null) - (b.cleared_ms === null) || a.start_ms - b.start_ms).reverse();
    const list = make("ul", { className: "alerts" }, ...(all ? ordered : ordered.slice(0, SHOWN)).map((alert) => one(alert, view, goTo, jump)));
    if (all || ordered.length <= SHOWN) return [list];
    const button = make("button", { type: "button", className: "act", textContent: `show all ${ordered.length}` });
    button.addEventListener("click", more);
    return [list, button];
  }

  function one(alert, view, goTo, jump) {
    const open = alert.cleared_ms === null, measure = view.measures.get(Words.measureOf(alert.metric)), unit = measure?.unit ?? "";
    const took = open ? "open" : `over after ${Words.duration((alert.cleared_ms - alert.start_ms) / 1_000)}`;
    const figure = [`${measure?.title ?? alert.metric} ${Words.of(alert.metric)}`.trim(), `${Words.figure(alert.value, unit)}${known(alert.error) ? ` ± ${Words.figure(1.96 * alert.error, unit)}` : ""}`];
    if (known(alert.reference)) figure.push(`against ${Words.figure(alert.reference, unit)}${known(alert.reference_error) ? ` ± ${Words.figure(alert.reference_error, unit)}` : ""}`);
    figure.push(`found by ${alert.detector} in windows of ${Words.SIZE_TITLES[alert.size_ms] ?? `${alert.size_ms} ms`}`);
    const show = make("button", { type: "button", className: "act", textContent: "show", "aria-label": `Show the time of ${alert.rule}` });
    show.addEventListener("click", () => jump(alert));
    const again = Object.keys(alert.offsets ?? {}).length ? [make("p", { className: "more" }, "again: ", make("code", { textContent: `instep replay LOG --out DIR --alerts RECORD --from-alert ${alert.id}` }))] : [];
    return make("li", { className: open ? "open" : "over", "data-tone": alert.severity, "data-alert": alert.id },
      make("div", { className: "when" }, make("b", { textContent: alert.rule }), make("span", { className: "severity", textContent: SEVERITIES[alert.severity] ?? alert.severity }), ` · ${took}`, make("br"), `${Words.day(alert.start_ms)} ${Words.clock(alert.start_ms)} UTC`),
      make("div", {}, make("p", { className: "reason", textContent: alert.reason }), make("p", { className: "remedy", textContent: alert.remedy }), make("p", { className: "more", textContent: figure.join(" · ") }), ...again),
      show);
  }

  /* Means over the range, each window as heavy as it has candidates; the worst first, what is of too few last. */
  function sliced(series, measures) {
    const least = measures.get("slices.ne").least, found = [];
    for (const [name, column] of Object.entries(series.values)) {
      if (!name.startsWith("slices.ne.")) continue;
      const of = Words.of(name), ne = mean(column), calibration = series.values[`slices.calibration.${of}`];
      if (ne.n) found.push({ of, ...ne, calibration: calibration ? mean(calibration).value : null, column, few: ne.n < least });
    }
    return found.sort((a, b) => a.few - b.few || b.value - a.value || (a.of < b.of ? -1 : 1));
  }

  function mean({ value, n, error }) {
    let [sum, all, square] = [0, 0, 0];
    value.forEach((v, i) => {
      if (!known(v)) return;
      [sum, all] = [sum + v * n[i], all + n[i]];
      if (known(error[i])) square += (n[i] * error[i]) ** 2;
    });
    return { value: all ? sum / all : null, n: all, error: square ? Math.sqrt(square) / all : null };
  }

  function svg(tag, more, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(more)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  function slices(series, view) {
    const rows = sliced(series, view.measures);
    if (!rows.length) return null;
    const ends = rows.filter((row) => !row.few).flatMap((row) => [row.value - 1.96 * (row.error ?? 0), row.value + 1.96 * (row.error ?? 0)]);
    const { min, max } = Base.bounds(ends.length ? ends : rows.map((row) => row.value), 4, 0.02), x = (v) => `${Math.max(0, Math.min(100, (100 * (v - min)) / (max - min)))}%`;
    const theme = view.theme, head = ["slice", "NE", `from ${Base.grouped(min, 2)} to ${Base.grouped(max, 2)}`, "over time", "calibration", "candidates"];
    const body = rows.map((row) => {
      const [kind, ...rest] = row.of.split("."), color = row.few ? theme.soft : theme.colours[0];
      const bar = svg("svg", { "aria-hidden": "true" }, svg("rect", { x: 0, y: "25%", width: x(row.value), height: "50%", fill: color, opacity: row.few ? 0.35 : 0.75 }));
      if (known(row.error) && !row.few) bar.append(svg("line", { x1: x(row.value - 1.96 * row.error), x2: x(row.value + 1.96 * row.error), y1: "50%", y2: "50%", stroke: theme.ink, "stroke-width": 1.25 }));
      const cells = [make("td", { textContent: Words.figure(row.value, "ratio") }), make("td", { className: "bars" }, bar), make("td", { className: "trend" }, trend(row, view, color)), make("td", { textContent: Words.figure(row.calibration, "ratio") }), make("td", { textContent: Base.grouped(row.n, 0) })];
      return make("tr", { className: row.few ? "few" : "", "data-slice": row.of }, make("th", { scope: "row" }, ...(rest.length ? [make("span", { className: "of", textContent: `${kind} ` }), rest.join(".")] : [kind])), ...cells);
    });
    return make("table", { className: "slices" }, make("thead", {}, make("tr", {}, ...head.map((title, i) => make("th", { scope: "col", textContent: title, className: i === 2 ? "bars" : "" })))), make("tbody", {}, ...body));
  }

  /* NE over the range in a small line of about fifty points. */
  function trend(row, { from, to }, color) {
    const { starts } = row.column, n = 50, sums = Array.from({ length: n }, () => [0, 0]);
    row.column.value.forEach((v, i) => {
      const at = Math.floor((n * (starts[i] - from)) / (to - from));
      if (known(v) && sums[at]) sums[at] = [sums[at][0] + v * row.column.n[i], sums[at][1] + row.column.n[i]];
    });
    const values = sums.map(([sum, all]) => (all ? sum / all : null)), there = values.filter(known);
    const low = Math.min(...there), high = Math.max(...there), place = (v, k) => `${k ? "" : "M"}${v}`;
    const points = values.flatMap((v, i) => (known(v) ? [[(112 * i) / (n - 1), high > low ? 17 - (15 * (v - low)) / (high - low) : 10]] : []));
    const path = points.map(([a, b], k) => `${place(a.toFixed(1), k)} ${b.toFixed(1)}`).join("L");
    return svg("svg", { viewBox: "0 0 112 19", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("path", { d: path, fill: "none", stroke: color, "stroke-width": 1.2, "stroke-linejoin": "round" }));
  }

  return { alerts, slices };
})();
