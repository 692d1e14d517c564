"use strict";
/* What the pages of the monitor and of studies share: numbers as text, axes and their bounds, light and dark. */
const Base = (() => {
  const root = document.documentElement, wantsDark = matchMedia("(prefers-color-scheme: dark)");
  const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

  /* A formatter takes a hundred times as long to make as to use. */
  const formats = [];
  function grouped(value, digits) {
    formats[digits] ??= new Intl.NumberFormat("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
    return formats[digits].format(value).replace("-", "−");
  }

  function mixed(a, b, share) {
    const parts = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    const [from, to] = [parts(a), parts(b)];
    return `#${from.map((v, i) => Math.round(v + (to[i] - v) * share).toString(16).padStart(2, "0")).join("")}`;
  }

  function axis(theme, more) {
    return {
      axisLine: { show: false, lineStyle: { color: theme.rule } },
      axisTick: { show: false, lineStyle: { color: theme.rule } },
      splitLine: { lineStyle: { color: theme.grid } },
      nameTextStyle: { color: theme.soft, fontSize: 12 },
      ...more,
      axisLabel: { color: theme.soft, hideOverlap: true, ...(more.axisLabel || {}) },
    };
  }

  /* A round step, so that about n of them make the span. */
  function step(span, n) {
    const raw = span / n, power = 10 ** Math.floor(Math.log10(raw));
    return power * ([1, 2, 2.5, 5].find((m) => m * power >= raw) ?? 10);
  }

  function bounds(values, n = 5, room = 0.04) {
    let low = Infinity, high = -Infinity;
    for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
    if (!(high > low)) [low, high] = [low - (Math.abs(low) || 1) * 0.01, high + (Math.abs(high) || 1) * 0.01];
    const span = high - low, by = step(span * (1 + 2 * room), n);
    return { min: Math.floor((low - room * span) / by) * by, max: Math.ceil((high + room * span) / by) * by, interval: by };
  }

  function tick(value, interval) {
    const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(interval) + 1e-9)));
    return grouped(Math.abs(value) < interval * 1e-6 ? 0 : value, interval < 10 && (interval * 10 ** digits) % 1 > 1e-6 ? digits + 1 : digits);
  }

  function short(value) {
    for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= size * 10 || (Math.abs(value) >= size && value % (size / 10) === 0)) return `${+(value / size).toPrecision(3)}${letter}`;
    }
    return `${+value.toPrecision(3)}`.replace("-", "−");
  }

  /* A place on the axis, not rounded to what is nice. */
  function exact(value) {
    return Math.abs(value) < 1e6 ? (+value.toPrecision(6)).toLocaleString("en-US", { maximumFractionDigits: 6 }).replace("-", "−") : short(value);
  }

  /* The colours of now, as the style sheet has them. */
  function colours(more = []) {
    const style = getComputedStyle(root), of = (name) => style.getPropertyValue(`--${name}`).trim();
    const named = ["paper", "raised", "ink", "soft", "rule", "grid", "sans", ...more].map((name) => [name, of(name)]);
    return { ...Object.fromEntries(named), colours: Array.from({ length: 8 }, (_, i) => of(`c${i}`)) };
  }

  function press(buttons, pressed) {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button === pressed));
  }

  /* Light or dark, as the system has it until a button chooses; light on paper. `kept` remembers the choice. */
  function theme(changed, kept = { get: () => null, set: () => {} }) {
    const buttons = [...document.querySelectorAll(".theme button")];
    let chosen = "auto", printing = false;
    const paint = () => {
      root.toggleAttribute("data-dark", !printing && (chosen === "dark" || (chosen === "auto" && wantsDark.matches)));
      changed();
    };
    const choose = (button) => {
      chosen = button.dataset.theme;
      press(buttons, button);
      paint();
    };
    for (const button of buttons) button.addEventListener("click", () => { kept.set(button.dataset.theme); choose(button); });
    wantsDark.addEventListener("change", paint);
    addEventListener("beforeprint", () => { printing = true; paint(); });
    addEventListener("afterprint", () => { printing = false; paint(); });
    choose(buttons.find((button) => button.dataset.theme === kept.get()) ?? buttons[0]);
  }

  return { known, grouped, mixed, axis, step, bounds, tick, short, exact, colours, press, theme };
})();
