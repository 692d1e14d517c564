/* Charts as options of ECharts: functions of columns, range, colours and size alone. */
const Charts = (() => {
  const { known, axis, bounds, mixed } = Base;
  const { MINUTE, HOUR, DAY } = Words;
  const GRID = { left: 50, right: 10, top: 10, bottom: 20 };
  const STEPS = [MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY];
  const SECONDS = [30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400, 172_800];
  const MOST_BANDS = 3;

  /* The lines of a chart: a value's name, its measure, what it is called here. */
  function linesOf(chart, measures, names) {
    const lines = [];
    for (const { measure, label } of chart.lines) {
      for (const name of names.filter((name) => Words.measureOf(name) === measure)) {
        const of = Words.of(name).replaceAll(".", " ");
        lines.push({ name, measure: measures.get(measure), label: [label, of].filter(Boolean).join(" ") });
      }
    }
    return lines.map((line, i) => ({ ...line, slot: i, of: lines.length }));
  }

  /* Colour of a line; tenths go from pale to full. */
  function look(line, theme) {
    if (line.measure.of.endsWith("tenth")) return { color: mixed(theme.colours[0], theme.raised, 0.78 * (1 - line.slot / Math.max(1, line.of - 1))), dash: "solid" };
    return { color: theme.colours[line.slot % 8], dash: line.slot < 8 ? "solid" : [5, 3] };
  }

  /* Points in runs: of enough, and of too few, which are drawn otherwise. Runs touch; gaps of windows part them. */
  function runs(series, column, least) {
    const found = [], { start_ms: starts, size_ms: size } = series;
    let run = null, before = null;
    for (let i = 0; i < starts.length; i++) {
      const value = column.value[i];
      if (!known(value)) { run = before = null; continue; }
      const few = column.n[i] < least, point = [starts[i], value, column.error[i]];
      const joined = before && starts[i] - before[0] <= size * 1.5;
      if (!run || !joined || run.few !== few) {
        run = { few, points: joined ? [before, point] : [point] };
        found.push(run);
      } else run.points.push(point);
      before = point;
    }
    return found;
  }

  function timeTicks(from, to, width) {
    const step = STEPS.find((step) => (to - from) / step <= Math.max(2, width / 52)) ?? 30 * DAY, ticks = [];
    for (let ms = Math.ceil(from / step) * step; ms <= to; ms += step) ticks.push(ms);
    return { ticks, step };
  }

  /* From below the least value to above the greatest; not below 0, nor above 100 %, where no value is. */
  function range(values, unit) {
    if (!values.length) return { min: 0, max: 1, interval: 0.5 };
    const y = bounds(values, 4, 0.05), least = values.reduce((a, b) => Math.min(a, b)), most = values.reduce((a, b) => Math.max(a, b));
    if (unit === "s" && y.max > 90) {
      y.interval = SECONDS.find((by) => (y.max - y.min) / by <= 4.5) ?? y.interval;
      [y.min, y.max] = [Math.floor(y.min / y.interval) * y.interval, Math.ceil(most / y.interval) * y.interval];
    }
    if (least >= 0) y.min = Math.max(0, y.min);
    if (unit === "share" && most <= 1) y.max = Math.min(1, y.max);
    return y;
  }

  function option({ lines, series, from, to, theme, width }) {
    const unit = lines[0]?.measure.unit ?? "", drawn = [], inView = [], sure = [];
    const shown = lines.filter((line) => !line.hidden && series.values[line.name]);
    const dense = series.start_ms.length > width / 2;
    for (const line of shown) {
      const column = series.values[line.name], { color, dash } = look(line, theme);
      const parts = runs(series, column, line.measure.least);
      for (const { few, points } of parts) {
        for (const [ms, value] of points) if (ms >= from && ms < to) (few ? sure : inView).push(value);
        if (!few && shown.length <= MOST_BANDS && points.some((p) => known(p[2]))) drawn.push(band(points, color));
      }
      const rows = (few) => parts.filter((run) => run.few === few).flatMap(({ points }) => [...points, [points.at(-1)[0] + 1, null]]);
      const base = { type: "line", silent: true, connectNulls: false, animation: false, showSymbol: true, symbol: "circle", clip: true };
      const alone = (parts, few) => new Set(parts.filter((run) => run.few === few && run.points.length === 1).map((run) => run.points[0][0]));
      const lone = alone(parts, false), loneFew = alone(parts, true);
      if (parts.some((run) => run.few)) drawn.push({ ...base, z: 2, symbolSize: ([ms]) => (loneFew.has(ms) ? 3 : 0), data: rows(true), itemStyle: { color: theme.soft, opacity: 0.6 }, lineStyle: { width: 1, color: theme.soft, opacity: 0.55, type: [2, 2] } });
      drawn.push({ ...base, z: 3, symbolSize: ([ms]) => (lone.has(ms) ? 3.5 : 0), data: rows(false), itemStyle: { color }, lineStyle: { width: dense ? 1.1 : 1.6, color, type: dash, join: "round" } });
    }
    const y = range(inView.length ? inView : sure, unit);
    const { ticks, step } = timeTicks(from, to, width - GRID.left - GRID.right);
    /* A label at an end would be cut off, or stand in that of the other axis. */
    const wide = width - GRID.left - GRID.right, hasRoom = (ms) => {
      const x = ((ms - from) / (to - from)) * wide;
      return x > 18 && x < wide - 8;
    };
    return {
      animation: false,
      textStyle: { fontFamily: theme.sans, fontSize: 11, color: theme.ink },
      grid: { ...GRID, containLabel: false, outerBoundsMode: "none" },
      xAxis: axis(theme, {
        type: "value", min: from, max: to, splitLine: { show: true, customValues: ticks, lineStyle: { color: theme.grid } },
        axisTick: { show: false, customValues: ticks },
        axisLabel: { customValues: ticks.filter(hasRoom), fontSize: 11, margin: 5, formatter: (ms) => (step >= DAY || (ms % DAY === 0 && to - from > 12 * HOUR) ? Words.day(ms) : Words.clock(ms)) },
      }),
      yAxis: axis(theme, { type: "value", ...y, axisLabel: { fontSize: 11, margin: 6, formatter: (v) => Words.axisTick(v, y.interval, unit) } }),
      series: drawn,
    };
  }

  /* Where 95 of 100 such windows would be. */
  function band(points, color) {
    const sure = points.filter((point) => known(point[2]));
    return {
      type: "custom", silent: true, z: 1, clip: true, encode: { x: 0, y: 1 }, data: [[sure[0][0], sure[0][1]]],
      renderItem: (_, api) => ({
        type: "polygon", style: { fill: color, opacity: 0.16 },
        shape: { points: [...sure.map(([ms, v, e]) => api.coord([ms, v + 1.96 * e])), ...sure.map(([ms, v, e]) => api.coord([ms, v - 1.96 * e])).reverse()] },
      }),
    };
  }

  return { GRID, linesOf, look, option };
})();
