/* The status strip. Ages are told against the clock of the browser, set by the monitor's: they grow while nothing comes. */
const Strip = (() => {
  const STALE_MS = 60_000;
  const STAGES = ["trained", "published", "indexed", "served"];
  const RANK = { page: 3, ticket: 2, note: 1 };

  function say(name, big, note, tone = "", click = null) {
    const cell = document.querySelector(`.cell[data-cell="${name}"]`), value = cell.querySelector(".big"), small = cell.querySelector(".note");
    if (value.textContent !== big) value.textContent = big;
    value.title = big;
    if (small.textContent !== note) {
      small.replaceChildren(note);
      if (click) {
        small.replaceChildren(Figures.make("button", { type: "button", textContent: note }));
        small.firstChild.addEventListener("click", click);
      }
      small.title = note;
    }
    cell.dataset.tone = tone;
  }

  const worst = (alerts) => alerts.reduce((tone, alert) => ((RANK[alert.severity] ?? 0) > (RANK[tone] ?? 0) ? alert.severity : tone), "");
  const ago = (ms) => `${Words.duration(Math.round(ms / 1_000))} ago`;

  /* `now` is the monitor's wall time; of a finished replay that of its end. */
  function draw({ status, alerts, now, isLive, lost, titles, jump }) {
    const open = alerts.filter((alert) => alert.cleared_ms === null), last = alerts[0];
    const opened = open.length ? `${open.length} open` : "none open";
    say("alert", opened, last ? `last: ${last.rule}, ${Words.clock(last.start_ms)}. ${last.reason}` : "none was raised", worst(open) || "", last ? () => jump(last) : null);
    if (!status) {
      for (const name of ["learning", "log", ...STAGES, "breaker"]) say(name, "–", name === "learning" ? "nothing is known yet" : "");
      return;
    }
    const quiet = isLive ? now - status.heard_ms : 0, stale = quiet > STALE_MS || lost;
    const old = stale ? "old" : "";
    const held = status.held ?? "", since = status.held_since_ms ? `since ${Words.clock(status.held_since_ms)}: ` : "";
    if (stale) say("learning", held ? "held?" : "no news", `${lost ? "the monitor does not answer" : `nothing heard for ${Words.duration(Math.round(quiet / 1_000))}`}; it was ${held ? "held" : "learning"}`, "page");
    else if (held) say("learning", "HELD", `${since}${held}`, "page");
    else say("learning", isLive ? "learning" : "was learning", "every sample is predicted, then learned", "ok");
    say("log", `${Words.iso(status.at_ms).slice(11, 19)}`, `${Words.day(status.at_ms)} UTC${isLive ? `, came ${ago(quiet)}` : ""}`, old);
    for (const name of STAGES) {
      const stage = status.stages?.[name];
      if (!stage) { say(name, "–", "none yet", old); continue; }
      const on = worst(open.filter((alert) => [`freshness.${name}`].includes(Words.measureOf(alert.metric))));
      say(name, Words.duration((status.at_ms - stage.at_ms + quiet) / 1_000), `ago, Version ${Words.version(stage.version)}`, on || old);
    }
    const bands = status.bands ?? [], out = bands.filter((band) => band.is_met === false);
    if ((status.breaker ?? "none") === "none") say("breaker", "off", "", old);
    else if (status.breaker === "open") say("breaker", "open", out.map((band) => titled(band, titles)).join("; "), "page");
    else say("breaker", "closed", bands.length ? `${bands.length - out.length} of ${bands.length} bands met` : "nothing is usual yet", old);
    const counts = Object.entries(status.counts ?? {});
    document.getElementById("counts").replaceChildren(...counts.flatMap(([name, n], i) => [i ? " · " : "", Figures.make("b", { textContent: Base.grouped(n, 0) }), ` ${name}`]));
  }

  function titled({ metric, value, low, high }, titles) {
    const measure = titles.get(Words.measureOf(metric)), unit = measure?.unit ?? "", [a, b] = [low, high].map((v) => (Base.known(v) ? Words.figure(v, unit) : "…"));
    return `${measure?.title ?? metric} ${Words.of(metric)} ${Words.figure(value, unit)}, expected ${a} to ${b}`;
  }

  return { draw, worst };
})();
