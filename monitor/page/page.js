/* The page: what is shown of which time, kept in the address; charts and lists put up, and kept as news come. */
(() => {
  const { make } = Figures, { HOUR, DAY, SIZES } = Words;
  const LAST = { "1h": HOUR, "6h": 6 * HOUR, "24h": DAY, all: Infinity };
  const byId = (id) => document.getElementById(id);
  const embedded = byId("inside");
  const view = { from: 0, to: HOUR, sizeMs: 60_000, cursor: null, theme: {}, alerts: [], measures: new Map() };
  const chosen = { size: "1m", last: "6h", from: null, to: null, panel: "" };
  const panels = new Map();
  let state = null, source = null, isLost = false, behind_ms = 0, request = 0, allAlerts = false, loaded = 0;

  const kept = { get: () => { try { return localStorage.getItem("instep.theme"); } catch { return null; } }, set: (value) => { try { localStorage.setItem("instep.theme", value); } catch { /* not kept */ } } };
  const figures = () => [...panels.values()].flatMap((panel) => panel.figures);
  const spans = (size) => Object.values(state.windows.find((w) => w.size === size)?.sources ?? {});
  const newest = (size) => Math.max(0, ...spans(size).map((span) => span.to_ms)) || state.status?.at_ms || 0;
  const oldest = (size) => Math.min(...spans(size).map((span) => span.from_ms));

  /* --- the address --- */
  function readHash() {
    const given = new URLSearchParams(location.hash.slice(1)), time = (name) => { const ms = Date.parse(given.get(name) ?? ""); return Number.isFinite(ms) ? ms : null; };
    const [from, to] = [time("from"), time("to")], fixed = from !== null && to !== null && to > from;
    chosen.size = given.get("size") in SIZES ? given.get("size") : source.isLive ? "1m" : fitting();
    Object.assign(chosen, fixed ? { from, to, last: "" } : { from: null, to: null, last: given.get("last") in LAST ? given.get("last") : source.isLive ? "6h" : "all" });
    chosen.panel = given.get("panel") ?? "";
  }
  function fitting() {
    const span = Math.max(...Object.keys(SIZES).map((size) => newest(size) - oldest(size)).filter(Number.isFinite), 0);
    return span > 10 * DAY ? "1h" : span > 12 * HOUR ? "10m" : "1m";
  }
  function hash() {
    const words = { panel: chosen.panel, size: chosen.size, last: chosen.last, from: chosen.from && Words.iso(chosen.from).replace(".000", ""), to: chosen.to && Words.iso(chosen.to).replace(".000", "") };
    return `#${Object.entries(words).filter(([, value]) => value).map(([key, value]) => `${key}=${value}`).join("&")}`;
  }
  const keep = (push = false) => history[push ? "pushState" : "replaceState"](null, "", hash());

  /* --- which time --- */
  function place() {
    view.sizeMs = SIZES[chosen.size];
    const end = newest(chosen.size) || Date.now();
    if (chosen.last) {
      const start = oldest(chosen.size), most = LAST[chosen.last];
      [view.from, view.to] = [Number.isFinite(most) ? end - most : Number.isFinite(start) ? start : end - HOUR, end];
    } else [view.from, view.to] = [chosen.from, chosen.to];
    view.from = Math.max(0, view.from);
    if (view.to - view.from < view.sizeMs) view.from = view.to - view.sizeMs;
    for (const button of byId("sizes").children) button.setAttribute("aria-pressed", String(button.dataset.size === chosen.size));
    for (const button of byId("ranges").children) button.setAttribute("aria-pressed", String(button.dataset.last === chosen.last));
    byId("moves").querySelector("[data-move=later]").disabled = view.to >= end;
    byId("range").textContent = Words.span(view.from, view.to);
    for (const kind of ["csv", "json"]) {
      const link = byId(kind);
      link.download = `instep-${chosen.size}.${kind}`;
      link.href = source.isLive ? source.download(kind, chosen.size, ...bounds()) : "#";
    }
  }
  const bounds = () => [Math.floor(view.from), Math.ceil(view.to)];

  function setRange(from, to) {
    const least = Math.max(3 * view.sizeMs, 60_000), middle = (from + to) / 2;
    if (to - from < least) [from, to] = [middle - least / 2, middle + least / 2];
    Object.assign(chosen, { last: "", from: Math.floor(from / 60_000) * 60_000, to: Math.ceil(to / 60_000) * 60_000 });
    keep(true);
    load();
  }
  function zoom(by) {
    const middle = (view.from + view.to) / 2, half = ((view.to - view.from) * by) / 2, end = newest(chosen.size);
    const to = Math.min(middle + half, Math.max(end, view.to));
    setRange(Math.max(0, to - 2 * half), to);
  }
  function move(by) {
    const span = view.to - view.from, to = Math.min(view.to + (by * span) / 2, Math.max(view.to, newest(chosen.size)));
    setRange(to - span, to);
  }
  function jump(alert) {
    const end = alert.cleared_ms ?? newest(chosen.size), room = Math.max(30 * alert.size_ms, (end - alert.start_ms) / 2, 900_000);
    const panel = Words.measureOf(alert.metric), chart = state.charts.find((c) => c.lines.some((line) => line.measure === panel));
    chosen.panel = chart?.key ?? "slices";
    setRange(alert.start_ms - room, Math.min(end + room, alert.start_ms + 12 * HOUR, Math.max(newest(chosen.size), alert.start_ms + room)));
    scrollTo(chosen.panel);
  }
  function scrollTo(panel) {
    document.getElementById(panel)?.scrollIntoView({ block: "start" });
  }
  function goTo(panel) {
    chosen.panel = panel;
    keep();
    scrollTo(panel);
  }

  /* --- the cursor, the same in all charts --- */
  let asked = null;
  function setCursor(ms, figure, x) {
    if (asked === null) requestAnimationFrame(() => {
      const [ms, here, x] = asked;
      asked = null;
      for (const figure of figures()) if (figure.isNear || figure === here) figure.showCursor(ms, figure === here, x);
    });
    asked = [ms, figure, x];
    view.cursor = ms; // at once: the next key goes on from here
  }

  /* --- what is put up --- */
  const page = { view, setCursor, setRange, zoom, goTo };
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const figure = figures().find((figure) => figure.stage === entry.target);
      if (!figure) continue;
      figure.isNear = entry.isIntersecting;
      figure.draw();
    }
  }, { rootMargin: "300px" });

  function build() {
    const main = byId("main"), sections = byId("sections");
    state.measures.forEach((measure) => view.measures.set(measure.name, measure));
    for (const { panel, title, source: of, waits_for: waits } of state.sections) {
      const body = make("div", { className: panel === "slices" ? "scroll" : "plots" }), note = make("small");
      const found = { panel, of, waits, body, note, series: null, figures: state.charts.filter((chart) => chart.panel === panel).map((chart) => new Figures.Figure(chart, page)) };
      if (panel === "slices") { body.tabIndex = 0; body.setAttribute("role", "region"); body.setAttribute("aria-label", "Slices"); }
      body.append(...found.figures.map((figure) => figure.element));
      main.append((found.element = make("section", { className: "panel", id: panel }, make("h2", { textContent: title }), body)));
      found.element.firstChild.append(note);
      panels.set(panel, found);
      found.figures.forEach((figure) => near.observe(figure.stage));
    }
    main.append(make("section", { className: "panel", id: "alerts" }, make("h2", { textContent: "Alerts" }), make("div", { id: "alert-list" })));
    main.append(make("p", { className: "foot", textContent: `instep ${state.instep}. All times are event time, UTC. Bands hold 95 of 100 windows; grey lines are of too few to judge. Drag over a chart to look closer, double-click to step back; arrow keys move the cursor.` }));
    for (const [id, title] of [...state.sections.map(({ panel, title }) => [panel, title]), ["alerts", "Alerts"]]) {
      const link = make("a", { href: `#panel=${id}`, textContent: title, "data-section": id });
      link.addEventListener("click", (event) => { event.preventDefault(); goTo(id); });
      sections.append(link);
    }
    byId("waiting").hidden = true;
  }

  function waiting() {
    const said = byId("waiting");
    said.hidden = !state.waits_for;
    said.textContent = state.waits_for ? `No window has closed yet. Waits for ${state.waits_for}.` : "";
  }

  function showPanel(found) {
    const none = spans(chosen.size).length === 0 || !state.windows.find((w) => w.size === chosen.size).sources[found.of];
    const empty = none ? `Waits for ${found.waits}.` : "No window in this range.";
    for (const figure of found.figures) figure.show(found.series, none ? empty : found.series?.start_ms.length ? "Not measured in this range." : empty);
    if (found.panel !== "slices") return;
    const column = found.series && Object.values(found.series.values);
    column?.forEach((c) => (c.starts = found.series.start_ms));
    const table = found.series && Lists.slices(found.series, view);
    found.body.replaceChildren(table ?? make("p", { className: "quiet", textContent: empty }));
    found.note.textContent = table ? "means over the time shown, worst first" : "";
  }

  function showAlerts() {
    view.alerts = state.alerts;
    byId("alert-list").replaceChildren(...Lists.alerts(state.alerts, view, { goTo, jump }, allAlerts, () => { allAlerts = true; showAlerts(); }));
    const open = state.alerts.filter((alert) => alert.cleared_ms === null), link = document.querySelector("[data-section=alerts]");
    link.replaceChildren("Alerts", ...(open.length ? [make("span", { className: "badge", "data-tone": Strip.worst(open), textContent: `${open.length}`, "aria-label": `${open.length} open` })] : []));
    for (const figure of figures()) figure.mark();
    strip();
  }

  function strip() {
    if (!state) return;
    const now = source.isLive ? Date.now() + behind_ms : state.now_ms;
    Strip.draw({ status: state.status, alerts: state.alerts, now, isLive: source.isLive, lost: isLost, titles: view.measures, jump });
  }

  async function load() {
    place();
    const mine = ++request, main = byId("main");
    main.classList.add("is-loading");
    await Promise.all([...panels.values()].map(async (found) => {
      const [from, to] = bounds();
      try {
        const series = await source.series(chosen.size, from, to, found.panel);
        if (mine !== request) return;
        found.series = series;
        showPanel(found);
      } catch (error) {
        if (mine === request) lose(error);
      }
    }));
    if (mine !== request) return;
    main.classList.remove("is-loading");
    loaded++;
    document.body.dataset.loaded = loaded;
  }

  /* --- news --- */
  function told(kind, data) {
    if (data.now_ms) behind_ms = data.now_ms - Date.now();
    if (kind === "status") { state.status = data.status; if (!spans("1m").length) refreshWaiting(); strip(); }
    if (kind === "alert") { state.alerts = [data, ...state.alerts.filter((alert) => alert.id !== data.id)].sort((a, b) => b.start_ms - a.start_ms); showAlerts(); }
    if (kind === "row") row(data);
    if (kind === "reset") start(true).catch(lose);
  }
  async function refreshWaiting() {
    const fresh = await source.state().catch(() => null);
    if (fresh && state.waits_for) { state.waits_for = fresh.waits_for; waiting(); }
  }
  const changed = new Set();
  function row(data) {
    const windows = state.windows.find((w) => w.size_ms === data.size_ms), end = data.start_ms + data.size_ms;
    const old = windows?.sources[data.source];
    if (!windows || (old && old.to_ms >= end)) return;
    windows.sources[data.source] = { from_ms: old?.from_ms ?? data.start_ms, to_ms: end, n: (old?.n ?? 0) + 1 };
    state.waits_for = "";
    waiting();
    if (data.size_ms !== SIZES[chosen.size]) return;
    const was = view.to;
    if (chosen.last) place();
    else if (data.start_ms >= view.to || data.start_ms < view.from) return;
    for (const found of panels.values()) {
      const prefix = `${found.panel}.`;
      if (found.series && Source.put(found.series, data, prefix)) changed.add(found);
      if (found.series && chosen.last) Source.drop(found.series, view.from);
      if (view.to !== was) changed.add(found);
    }
    if (changed.size) requestAnimationFrame(() => { for (const found of changed) showPanel(found); changed.clear(); });
  }
  function heard(how) {
    isLost = how === "lost";
    const said = byId("connection"), text = isLost ? "lost, trying again" : "live";
    if (said.dataset.is === how) return;
    said.dataset.is = how;
    said.textContent = text;
    strip();
  }
  function lose(error) {
    byId("waiting").hidden = false;
    byId("waiting").textContent = `The monitor does not answer: ${error.message}`;
    heard("lost");
  }

  /* --- begin --- */
  async function start(again = false) {
    state = await source.state();
    behind_ms = state.now_ms - Date.now();
    if (!again) build();
    readHash();
    waiting();
    showAlerts();
    await load();
    if (!again && chosen.panel) scrollTo(chosen.panel);
  }
  function paint() {
    view.theme = Base.colours();
    for (const figure of figures()) { figure.stale = true; figure.makeLegend(); figure.draw(matchMedia("print").matches); }
    const found = panels.get("slices");
    if (found?.series) showPanel(found);
  }
  /* The engine of the charts is large: it is taken in once everything else is on the screen. */
  function takeEngine() {
    const script = make("script"), ready = () => figures().forEach((figure) => figure.draw());
    if (embedded) script.textContent = byId("engine").textContent;
    else script.src = document.body.dataset.engine;
    script.addEventListener("load", ready);
    document.head.append(script);
    if (embedded) ready();
  }

  source = embedded ? Source.inside(JSON.parse(embedded.textContent)) : Source.live(told, heard);
  if (embedded) byId("connection").textContent = "a finished replay";
  Base.theme(paint, kept);
  byId("sizes").addEventListener("click", ({ target }) => { if (target.dataset.size) { chosen.size = target.dataset.size; keep(); load(); } });
  byId("ranges").addEventListener("click", ({ target }) => { if (target.dataset.last) { Object.assign(chosen, { last: target.dataset.last, from: null, to: null }); keep(true); load(); } });
  byId("moves").addEventListener("click", ({ target }) => ({ earlier: () => move(-1), later: () => move(1), in: () => zoom(0.5), out: () => zoom(2) })[target.dataset.move]?.());
  for (const kind of ["csv", "json"]) byId(kind).addEventListener("click", () => { if (!source.isLive) byId(kind).href = source.download(kind, chosen.size, ...bounds()); });
  addEventListener("popstate", () => { readHash(); load().then(() => chosen.panel && scrollTo(chosen.panel)); });
  addEventListener("beforeprint", () => figures().forEach((figure) => figure.draw(true)));
  let resized = 0;
  new ResizeObserver(() => {
    cancelAnimationFrame(resized);
    resized = requestAnimationFrame(() => figures().forEach((figure) => {
      if (figure.width === figure.stage.clientWidth) return;
      figure.width = figure.stage.clientWidth;
      figure.stale = true;
      figure.mark();
      figure.draw();
    }));
  }).observe(document.body);
  let scrolled = 0;
  addEventListener("scroll", () => {
    cancelAnimationFrame(scrolled);
    scrolled = requestAnimationFrame(() => {
      const passed = [...document.querySelectorAll(".panel")].filter((panel) => panel.getBoundingClientRect().top < 180).at(-1);
      for (const link of byId("sections").children) link.toggleAttribute("aria-current", link.dataset.section === passed?.id);
    });
  }, { passive: true });
  setInterval(strip, 1_000);
  (async function begin() {
    try {
      await start();
    } catch (error) {
      lose(error);
      setTimeout(begin, 2_000);
      return;
    }
    source.listen();
  })();
  requestAnimationFrame(() => setTimeout(takeEngine, 0));
})();
