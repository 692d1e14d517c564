"use strict";
/* Charts of a study as options of ECharts: functions of the study, the colours and the width alone. */
const Charts = (() => {
  const {
    MEASURES, known, figure, figure2, grouped, write, written, cut, tip, linesOf,
    look, base, axis, bounds, logBounds, ends, titleWidth, plain, tick, short, exact,
  } = Plot;

  /* Horizontal rows: a bar or a mark for each run, with a whisker. Sorted, the best on top. */
  function rows({ study, runs, key, theme, width, ofRun, measure }, marks) {
    const chosen = runs.filter((run) => figure(run, key));
    chosen.sort((a, b) => figure(b, key).value - figure(a, key).value);
    const found = chosen.map((run) => figure(run, key));
    const isReference = (run) => study.references[run.group] === run.name;
    const titles = chosen.map((run) => measure(run.title, isReference(run)));
    const labels = titleWidth(width, Math.max(...titles)), wide = width > 430;
    const best = key === "auc" && known(study.best_auc) ? study.best_auc * 100 : null;
    const all = found.flatMap(ends).concat(best === null ? [] : [best]);
    const isShare = MEASURES[key].unit === "%";
    const from = marks ? 0 : isShare ? 0 : Math.min(50, ...all);
    const range = bounds([from, ...all], 5, marks ? 0.04 : 0);
    if (key === "auc" && from === 50) range.min = 50;
    if (isShare) Object.assign(range, { min: 0, max: 100, interval: width < 380 ? 50 : 25 });
    const rowHeight = 26;
    const texts = found.map((it) => (wide && marks ? written(it, key) : write(it.value, key)));
    const right = 16 + Math.max(...texts.map((text) => measure(text)));
    function renderRow(params, api) {
      const i = params.dataIndex, it = found[i], { color, symbol } = look(theme, ofRun.get(chosen[i].name));
      const y = api.coord([0, i])[1], x = (value) => api.coord([value, i])[0];
      const children = [];
      if (marks) {
        const sure = it.low !== null && (it.low > 0 || it.high < 0);
        if (it.low !== null) children.push(whisker(x(it.low), x(it.high), y, color, 2));
        children.push({
          type: "circle", shape: { cx: x(it.value), cy: y, r: 4.5 },
          style: { fill: sure ? color : theme.paper, stroke: color, lineWidth: 2 },
        });
      } else {
        const left = x(range.min), end = x(it.value);
        children.push({
          type: "rect", shape: { x: left, y: y - 6, width: Math.max(0, end - left), height: 12 },
          style: { fill: color, opacity: 0.82 },
        });
        if (it.low !== null) children.push(whisker(x(it.low), x(it.high), y, theme.ink, 1.25, 4));
        const chance = key === "recall" && figure(chosen[i], "recall") && chosen[i].by_chance;
        if (chance && known(chance.value)) {
          const at = x(chance.value * 100);
          children.push({ type: "line", shape: { x1: at, x2: at, y1: y - 9, y2: y + 9 }, style: { stroke: theme.ink, lineWidth: 2 } });
        }
      }
      children.push({
        type: "text", silent: true,
        style: { text: texts[i], x: params.coordSys.x + params.coordSys.width + 10, y, verticalAlign: "middle", fill: theme.ink, fontSize: 12, fontFamily: theme.sans },
      });
      return { type: "group", children };
    }
    const option = {
      ...base(theme),
      grid: { left: labels + 10, right, top: best === null ? 8 : 26, bottom: 26, containLabel: false },
      xAxis: axis(theme, { type: "value", ...range, axisLabel: { formatter: (v) => tick(v, range.interval) + (isShare ? "%" : "") } }),
      yAxis: axis(theme, {
        type: "category", inverse: true, data: chosen.map((run) => run.name), splitLine: { show: false },
        axisLabel: {
          interval: 0, hideOverlap: false, width: labels, overflow: "truncate", color: theme.ink, margin: 10,
          formatter: (name) => {
            const run = chosen.find((run) => run.name === name);
            return isReference(run) ? `{reference|${plain(run.title)}}` : plain(run.title);
          },
          rich: { reference: { fontWeight: 700, color: theme.ink, fontSize: 12 } },
        },
      }),
      series: [{
        type: "custom", renderItem: renderRow, clip: false, z: 3, encode: { x: 0, y: 1 },
        data: found.map((it, i) => [it.value, i]),
        markLine: lineAt(theme, best === null ? [] : [[best, `best possible ${grouped(best, 2)}`]], marks),
      }],
    };
    if (marks) option.series[0].markLine = lineAt(theme, [[0, ""]], true);
    option.tooltip.formatter = ({ dataIndex: i }) => {
      if (i === undefined || !chosen[i]) return "";
      const lines = [`${MEASURES[key].title} ${written(found[i], key)}`];
      if (isReference(chosen[i])) lines.push("the reference");
      if (key === "recall" && chosen[i].by_chance) lines.push(`by chance ${written(figure2(chosen[i].by_chance), "recall")}`);
      return tip(chosen[i].title, lines);
    };
    return { option, height: chosen.length * rowHeight + 26 + (best === null ? 8 : 26) };
  }

  function whisker(x1, x2, y, stroke, lineWidth, cap = 0) {
    const line = (a, b, c, d) => ({ type: "line", shape: { x1: a, y1: b, x2: c, y2: d }, style: { stroke, lineWidth } });
    const ends = cap ? [line(x1, y - cap, x1, y + cap), line(x2, y - cap, x2, y + cap)] : [];
    return { type: "group", children: [line(x1, y, x2, y), ...ends] };
  }

  function lineAt(theme, places, solid) {
    return {
      silent: true, symbol: "none", animation: false, z: 1,
      lineStyle: { color: theme.soft, type: solid ? "solid" : [5, 4], width: 1.25 },
      data: places.map(([xAxis, text]) => ({
        xAxis, label: { formatter: plain(text), color: theme.soft, fontSize: 12, show: text !== "", position: "start", align: "right", padding: [0, 0, 2, 0] },
      })),
    };
  }

  /* One line a run, by event time. */
  function time({ runs, key, theme, width, ofRun, hidden }) {
    const chosen = runs.filter((run) => run.windows.some((w) => known(w[key])));
    const { scale } = MEASURES[key];
    const isDate = chosen.every((run) => run.windows.every((w) => Math.abs(w.until_ms) <= 8.64e15));
    const shown = chosen.filter((run) => !hidden.has(run.name));
    const values = shown.flatMap((run) => run.windows.map((w) => w[key]).filter(known).map((v) => v * scale));
    const range = bounds(values.length ? values : [0, 1], 5);
    const series = chosen.map((run) => {
      const { color, symbol, dash, itemStyle } = look(theme, ofRun.get(run.name));
      const data = run.windows.map((w) => [w.until_ms, known(w[key]) ? w[key] * scale : null]);
      return {
        type: "line", name: run.name, data: hidden.has(run.name) ? [] : data, itemStyle, symbol, connectNulls: false,
        symbolSize: 6, showSymbol: data.length < 30, showAllSymbol: true,
        lineStyle: { width: 1.75, type: dash, color }, emphasis: { focus: "series" }, blur: { lineStyle: { opacity: 0.15 } },
      };
    });
    const option = {
      ...base(theme),
      grid: { left: 52, right: 16, top: 34, bottom: 30 },
      xAxis: axis(theme, { type: isDate ? "time" : "value", scale: true, splitLine: { show: false }, axisLine: { show: true, lineStyle: { color: theme.rule } }, splitNumber: width < 480 ? 3 : 8 }),
      yAxis: axis(theme, { type: "value", ...range, name: MEASURES[key].title, nameGap: 16, nameTextStyle: { color: theme.soft, align: "left", padding: [0, 0, 0, -44] }, axisLabel: { formatter: (v) => tick(v, range.interval) } }),
      useUTC: true,
      series,
    };
    option.tooltip.formatter = ({ seriesName, value }) => {
      const run = chosen.find((run) => run.name === seriesName);
      const at = isDate ? `until ${new Date(value[0]).toISOString().slice(0, 16).replace("T", " ")}` : `until ${value[0]}`;
      return tip(run.title, [at, `${MEASURES[key].title} ${known(value[1]) ? write(value[1], key) : "–"}`]);
    };
    return { option, height: width < 480 ? 300 : 400, legend: chosen };
  }

  /* Cost against AUC, with the front of those that no other beats in both. */
  function cost({ study, runs, key, theme, width, ofRun, measure }) {
    const less = key === "rank_ms";
    const chosen = runs.filter((run) => figure(run, key) && figure(run, "auc"));
    const at = chosen.map((run) => [figure(run, key).value, figure(run, "auc").value]);
    const beats = (a, b) => (less ? a[0] <= b[0] : a[0] >= b[0]) && a[1] >= b[1] && (a[0] !== b[0] || a[1] !== b[1]);
    const front = at.filter((b) => !at.some((a) => beats(a, b))).sort((a, b) => a[0] - b[0]);
    const xs = at.map((p) => p[0]), isLog = Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) > 8;
    const y = bounds(at.map((p) => p[1]), 7, 0.08);
    const height = width < 480 ? 330 : 380, grid = { left: 46, right: 20, top: 34, bottom: 46 };
    const x = isLog ? logBounds(xs) : bounds(xs, width < 480 ? 3 : 5, 0.12);
    const place = (p) => {
      const f = (v) => (isLog ? Math.log(v) : v);
      return [
        grid.left + ((f(p[0]) - f(x.min)) / (f(x.max) - f(x.min))) * (width - grid.left - grid.right),
        height - grid.bottom - ((p[1] - y.min) / (y.max - y.min)) * (height - grid.top - grid.bottom),
      ];
    };
    const names = chosen.map((run) => cut(run.name, 24));
    const boxes = labels(at.map(place), along(front.map(place)), names.map((name) => measure(name, true)), [4, 4, width - 4, height - grid.bottom + 4]);
    const option = {
      ...base(theme),
      grid,
      xAxis: axis(theme, {
        type: isLog ? "log" : "value", ...x, name: MEASURES[key].title, nameLocation: "middle", nameGap: 28,
        splitLine: { show: false }, axisLine: { show: true, lineStyle: { color: theme.rule } },
        axisLabel: { formatter: (v) => short(v) , ...(isLog ? { customValues: x.ticks } : {}) },
      }),
      yAxis: axis(theme, { type: "value", ...y, name: "AUC, points", nameGap: 16, nameTextStyle: { color: theme.soft, align: "left", padding: [0, 0, 0, -38] }, axisLabel: { formatter: (v) => tick(v, y.interval) } }),
      series: [
        { type: "line", name: "front", data: front, symbol: "none", silent: true, z: 1, lineStyle: { color: theme.soft, width: 1.25, type: [5, 4] }, tooltip: { show: false } },
        {
          type: "scatter", z: 3,
          data: chosen.map((run, i) => {
            const { symbol, itemStyle } = look(theme, ofRun.get(run.name)), box = boxes[i];
            return {
              value: at[i], symbol, symbolSize: 10, itemStyle,
              label: {
                show: box !== null, formatter: () => plain(names[i]), color: theme.ink, fontSize: 12, fontFamily: theme.sans,
                position: box ? [box[0] - place(at[i])[0] + 5.5, box[1] - place(at[i])[1] + 5.5] : "right",
                fontWeight: study.references[run.group] === run.name ? 700 : 400,
              },
            };
          }),
        },
      ],
    };
    option.tooltip.formatter = ({ dataIndex: i }) =>
      tip(chosen[i].title, [`AUC ${written(figure(chosen[i], "auc"), "auc")}`, `${MEASURES[key].title} ${write(at[i][0], key)}`]);
    return { option, height };
  }

  /* Points along a line, near enough that no label fits between two. */
  function along(line) {
    return line.slice(1).flatMap(([x, y], i) => {
      const [x0, y0] = line[i], n = Math.ceil(Math.hypot(x - x0, y - y0) / 6);
      return Array.from({ length: n }, (_, j) => [x0 + ((x - x0) * j) / n, y0 + ((y - y0) * j) / n]);
    });
  }

  /* Where each label goes: its box's left and top, free of points, of other labels and of the edge; null if nowhere. */
  function labels(points, others, widths, [left, top, right, bottom]) {
    const around = (r) => ([x, y]) => [x - r, y - r, x + r, y + r];
    const taken = [...points.map(around(6)), ...others.map(around(1))];
    const free = (box) =>
      box[0] >= left && box[1] >= top && box[2] <= right && box[3] <= bottom &&
      !taken.some((t) => box[0] < t[2] && box[2] > t[0] && box[1] < t[3] && box[3] > t[1]);
    const h = 14, boxes = points.map(() => null);
    const order = points.map((_, i) => i).sort((a, b) => points[a][1] - points[b][1]);
    for (const i of order) {
      const [x, y] = points[i], w = widths[i];
      const tries = [];
      for (const far of [9, 15]) {
        for (const dy of [-h / 2, -h - 1, 1]) tries.push([x + far, y + dy], [x - far - w, y + dy]);
        tries.push([x - w / 2, y - far - h + 2], [x - w / 2, y + far - 2], [x - 4, y - far - h + 2], [x - 4, y + far - 2], [x - w + 4, y - far - h + 2], [x - w + 4, y + far - 2]);
      }
      const found = tries.find(([bx, by]) => free([bx, by, bx + w, by + h]));
      if (found) {
        boxes[i] = found;
        taken.push([found[0], found[1], found[0] + w, found[1] + h]);
      }
    }
    return boxes;
  }

  /* A figure along the study's axis: a line for each unit, intervals as bands; runs beside the axis as levels. */
  function curve({ study, group, runs, key, theme, width, ofLine, ofRun }) {
    const placed = [...linesOf(runs)].map(([name, line]) => [name, line.filter((run) => figure(run, key))]);
    const lines = placed.filter(([, line]) => line.length > 0);
    const beside = runs.filter((run) => !known(run.x) && figure(run, key));
    const xs = [...new Set(lines.flatMap(([, line]) => line.map((run) => run.x)))].sort((a, b) => a - b);
    const isLog = xs.length > 1 && xs[0] > 0 && xs[xs.length - 1] / xs[0] >= 8;
    const best = key === "auc" && known(study.best_auc) ? study.best_auc * 100 : null;
    const all = [...lines.flatMap(([, line]) => line), ...beside].flatMap((run) => ends(figure(run, key)));
    if (key === "recall") all.push(...runs.map((run) => figure2(run.by_chance || {})).filter(Boolean).map((f) => f.value));
    if (best !== null) all.push(best);
    if (key === "auc_less") all.push(0);
    const y = bounds(all, 5, 0.08), height = width < 480 ? 310 : 350;
    if (MEASURES[key].unit === "%") Object.assign(y, { min: Math.max(0, y.min), max: Math.min(100, y.max) });
    if (y.min < 0 && Math.min(...all) >= 0) y.min = 0;
    const pad = isLog ? [xs[0] / (xs[xs.length - 1] / xs[0]) ** 0.05, xs[xs.length - 1] * (xs[xs.length - 1] / xs[0]) ** 0.05] : null;
    const series = [], legend = [];
    for (const [name, line] of lines) {
      const slot = ofLine.get(`${group}\n${name}`) ?? ofRun.get(line[0].name).slot;
      const { color, symbol, dash, itemStyle } = look(theme, { slot });
      const found = line.map((run) => figure(run, key));
      const banded = line.map((run, i) => [run.x, found[i]]).filter(([, f]) => f.low !== null);
      if (banded.length > 1) series.push(band(banded, color));
      const whiskers = line.map((run, i) => [run.x, found[i]]).filter(([, f]) => f.low !== null && banded.length === 1);
      series.push({
        type: "line", name, itemStyle, symbol, symbolSize: 8, z: 3, lineStyle: { width: 2, type: dash, color },
        data: line.map((run, i) => ({ value: [run.x, found[i].value], run })),
      });
      if (whiskers.length) series.push(band([[xs[0], whiskers[0][1]], [xs[xs.length - 1], whiskers[0][1]]], color));
      if (key === "recall") {
        const data = line.filter((run) => run.by_chance && known(run.by_chance.value)).map((run) => [run.x, run.by_chance.value * 100]);
        if (data.length) series.push({ type: "line", data, symbol: "none", silent: true, lineStyle: { color, width: 1.25, type: [1, 3] } });
      }
      legend.push({ title: name, color, symbol, dash, itemStyle });
    }
    const levels = beside.map((run) => ({ run, color: look(theme, ofRun.get(run.name)).color, at: figure(run, key) }));
    for (const { run, color, at } of levels) {
      series.push({
        type: "line", name: run.title, symbol: "none", z: 2, lineStyle: { color, width: 1.5, type: [6, 4] },
        data: [{ value: [pad ? pad[0] : xs[0], at.value], run }, { value: [pad ? pad[1] : xs[xs.length - 1], at.value], run }],
      });
      legend.push({ title: run.title, color, symbol: "none", dash: [6, 4] });
    }
    const marked = [...(best === null ? [] : [[best, `best possible ${grouped(best, 2)}`, false]]), ...(key === "auc_less" ? [[0, "", true]] : [])];
    if (series.length && marked.length) {
      series[0].markLine = {
        silent: true, symbol: "none", animation: false,
        data: marked.map(([yAxis, text, solid]) => ({
          yAxis, lineStyle: { color: theme.soft, width: 1.25, type: solid ? "solid" : [5, 4] },
          label: { show: text !== "", formatter: text, position: "insideEndTop", color: theme.soft, fontSize: 12 },
        })),
      };
    }
    const option = {
      ...base(theme),
      grid: { left: 54, right: 20, top: 34, bottom: 46 },
      xAxis: axis(theme, {
        type: isLog ? "log" : "value", scale: true, ...(pad ? { min: pad[0], max: pad[1] } : {}), name: plain(study.x_axis || "x"),
        nameLocation: "middle", nameGap: 28, axisLine: { show: true, lineStyle: { color: theme.rule } }, splitLine: { show: false },
        axisTick: { show: true, customValues: xs, lineStyle: { color: theme.rule } }, axisLabel: { customValues: xs, formatter: exact },
      }),
      yAxis: axis(theme, { type: "value", ...y, name: MEASURES[key].title, nameGap: 16, nameTextStyle: { color: theme.soft, align: "left", padding: [0, 0, 0, -46] }, axisLabel: { formatter: (v) => tick(v, y.interval) + (MEASURES[key].unit || "") } }),
      series,
    };
    option.tooltip.formatter = ({ data }) =>
      data && data.run ? tip(data.run.title, [`${study.x_axis || "x"}: ${known(data.run.x) ? exact(data.run.x) : "–"}`, `${MEASURES[key].title} ${written(figure(data.run, key), key)}`]) : "";
    return { option, height, swatches: legend };
  }

  function band(line, color) {
    return {
      type: "custom", silent: true, z: 1, encode: { x: 0, y: [1, 2] }, data: [[line[0][0], line[0][1].low, line[0][1].high]],
      renderItem: (_, api) => ({
        type: "polygon", style: { fill: color, opacity: 0.15 },
        shape: { points: [...line.map(([x, f]) => api.coord([x, f.high])), ...line.map(([x, f]) => api.coord([x, f.low])).reverse()] },
      }),
    };
  }

  return { bars: (c) => rows(c, false), differences: (c) => rows(c, true), time, cost, curve };
})();
