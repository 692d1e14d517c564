"use strict";
/* What all charts of a study share: its measures and how they are written, the looks of its runs, axes and their bounds. */
const Plot = (() => {
  const { known, grouped, mixed, axis, bounds, tick, short, exact } = Base;
  const POINTS = { scale: 100, digits: 2 };
  const MEASURES = {
    auc: { title: "AUC, points", ...POINTS },
    auc_less: { title: "difference, points", ...POINTS, signed: true },
    ne: { title: "NE", scale: 1, digits: 4 },
    gauc: { title: "gAUC, points", ...POINTS },
    overlap: { title: "of its own top k", scale: 100, digits: 0, unit: "%" },
    overlap_exact: { title: "of the exact top k", scale: 100, digits: 0, unit: "%" },
    recall: { title: "of the hidden topic", scale: 100, digits: 0, unit: "%" },
    flips: { title: "bits flipped in 100 steps", scale: 1, digits: 0 },
    ties: { title: "last place tied", scale: 100, digits: 0, unit: "%" },
    rank_ms: { title: "ms for a slate of 200", scale: 1, digits: 2 },
    learn_per_s: { title: "candidates learned / s", scale: 1, digits: 0 },
  };
  const SYMBOLS = ["circle", "rect", "triangle", "diamond"];
  const DASHES = ["solid", [7, 3], [2, 3]];
  const N_COLOURS = 8;

  /* {value, low, high} as shown, or null where there is no value. */
  function figure(run, key) {
    const raw = key === "rank_ms" || key === "learn_per_s" ? run.cost && run.cost[key] : run[key];
    const found = raw !== null && typeof raw === "object" ? raw : { value: raw };
    if (!found || !known(found.value)) return null;
    const { scale } = MEASURES[key];
    const bound = (value) => (known(value) ? value * scale : null);
    const [low, high] = [bound(found.low), bound(found.high)];
    return { value: found.value * scale, low: high === null ? null : low, high: low === null ? null : high };
  }

  function write(value, key) {
    const { digits, signed, unit } = MEASURES[key];
    return (signed && value >= 0 ? "+" : "") + grouped(value, digits) + (unit || "");
  }

  function written(found, key) {
    if (!found) return "–";
    const interval = found.low === null ? "" : ` (${write(found.low, key)}, ${write(found.high, key)})`;
    return write(found.value, key) + interval;
  }

  function escape(raw) {
    return String(raw).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
  }

  const cut = (raw, n) => (raw.length > n ? `${raw.slice(0, n - 1)}…` : raw);
  const tip = (title, lines) => `<div class="tip"><b>${escape(title)}</b><br>${lines.map(escape).join("<br>")}</div>`;

  /* A model has one colour and mark in every chart: the place of its title among all titles. */
  function keysOf(study) {
    const titles = study.runs.map((run) => `${run.group}\n${run.title}`);
    const told = new Set(titles).size === titles.length;
    return new Map(study.runs.map((run) => [run.name, told ? run.title : run.name]));
  }

  function linesOf(runs) {
    const searches = new Map();
    for (const run of runs) {
      if (known(run.x)) searches.set(run.unit, (searches.get(run.unit) || new Set()).add(run.search));
    }
    const lines = new Map();
    for (const run of runs.filter((run) => known(run.x))) {
      const name = searches.get(run.unit).size > 1 ? `${run.unit}, ${run.search}` : run.unit;
      lines.set(name, [...(lines.get(name) || []), run]);
    }
    for (const line of lines.values()) line.sort((a, b) => a.x - b.x);
    return lines;
  }

  function looks(study) {
    const keys = keysOf(study);
    const slots = new Map();
    const slot = (key) => slots.get(key) ?? slots.set(key, slots.size).get(key);
    const ofLine = new Map(), ofRun = new Map();
    const groups = [...new Set(study.runs.map((run) => run.group))];
    for (const group of groups) {
      const runs = study.runs.filter((run) => run.group === group);
      const onLine = new Map();
      for (const [name, line] of linesOf(runs)) {
        if (line.length < 2) continue;
        ofLine.set(`${group}\n${name}`, slot(`line ${name}`));
        line.forEach((run, i) => onLine.set(run.name, { slot: slot(`line ${name}`), fade: i / (line.length - 1) }));
      }
      for (const run of runs) ofRun.set(run.name, onLine.get(run.name) ?? { slot: slot(keys.get(run.name)), fade: 0 });
    }
    return { ofLine, ofRun };
  }

  function look(theme, { slot, fade = 0 }) {
    const turn = Math.floor(slot / N_COLOURS);
    const step = Math.round(fade * 4);
    const color = mixed(theme.colours[slot % N_COLOURS], theme.paper, 0.5 * fade);
    const hollow = (Math.floor(slot / SYMBOLS.length) + step) % 2 === 1;
    return {
      color,
      symbol: SYMBOLS[(slot + turn + step) % SYMBOLS.length],
      dash: DASHES[(turn + step) % DASHES.length],
      itemStyle: { color: hollow ? theme.paper : color, borderColor: color, borderWidth: 1.75 },
    };
  }

  function base(theme) {
    return {
      animation: false,
      textStyle: { fontFamily: theme.sans, fontSize: 12, color: theme.ink },
      tooltip: {
        confine: true, backgroundColor: theme.raised, borderColor: theme.rule, borderWidth: 1, padding: [6, 9],
        textStyle: { color: theme.ink, fontSize: 13 }, extraCssText: "box-shadow:none;border-radius:2px;",
      },
    };
  }

  function ends(found) {
    return [found.value, ...(found.low === null ? [] : [found.low, found.high])];
  }

  /* Room for titles of rows: what they need, up to a good third. */
  function titleWidth(width, needed) {
    return Math.min(needed, Math.max(96, Math.min(250, Math.round(width * 0.4))));
  }

  function figure2(raw) {
    return known(raw.value) ? { value: raw.value * 100, low: null, high: null } : null;
  }

  /* Braces and bars mean something in labels of ECharts. */
  function plain(raw) {
    return raw.replace(/[{}|]/g, (c) => ({ "{": "(", "}": ")", "|": "/" })[c]).replace(/\s+/g, " ");
  }

  function logBounds(values) {
    const low = Math.min(...values) / 1.35, high = Math.max(...values) * 1.35, ticks = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) {
      for (const m of high / low > 300 ? [1] : [1, 2, 5]) if (m * 10 ** p >= low && m * 10 ** p <= high) ticks.push(m * 10 ** p);
    }
    return { min: low, max: high, ticks: ticks.length ? ticks : [low, high] };
  }

  return {
    MEASURES, known, figure, figure2, grouped, write, written, cut, tip, linesOf, looks,
    look, base, axis, bounds, logBounds, ends, titleWidth, plain, tick, short, exact,
  };
})();
