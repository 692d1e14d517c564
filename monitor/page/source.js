/* Where the page has its data from: a monitor that is asked and tells news, or what is inside the page itself. */
const Source = (() => {
  const LOST_MS = 15_000;

  /* Columns of the windows that begin in [from, to), of columns that hold more. */
  function cut(series, from, to) {
    const a = series.start_ms.findIndex((ms) => ms >= from), first = a < 0 ? series.start_ms.length : a;
    const b = series.start_ms.findIndex((ms) => ms >= to), end = b < 0 ? series.start_ms.length : b;
    const values = {};
    for (const [name, column] of Object.entries(series.values)) {
      values[name] = { value: column.value.slice(first, end), n: column.n.slice(first, end), error: column.error.slice(first, end) };
    }
    return { ...series, from_ms: from, to_ms: to, start_ms: series.start_ms.slice(first, end), values };
  }

  /* A window that has closed put into columns; true if it changed them. */
  function put(series, row, prefix) {
    const names = Object.keys(row.values).filter((name) => name.startsWith(prefix));
    if (!names.length) return false;
    const starts = series.start_ms, columns = Object.values(series.values);
    let at = starts.length;
    while (at > 0 && starts[at - 1] > row.start_ms) at--;
    if (at > 0 && starts[at - 1] === row.start_ms) at--;
    else {
      starts.splice(at, 0, row.start_ms);
      for (const column of columns) for (const [key, none] of [["value", null], ["n", 0], ["error", null]]) column[key].splice(at, 0, none);
    }
    for (const name of names) {
      const column = (series.values[name] ??= { value: starts.map(() => null), n: starts.map(() => 0), error: starts.map(() => null) });
      [column.value[at], column.n[at], column.error[at]] = [row.values[name][0], row.values[name][1], row.values[name][2] ?? null];
    }
    return true;
  }

  /* What is older than the range shown is let go, now and then. */
  function drop(series, from) {
    const n = series.start_ms.findIndex((ms) => ms >= from);
    if (n < 64) return;
    series.start_ms.splice(0, n);
    for (const column of Object.values(series.values)) for (const key of ["value", "n", "error"]) column[key].splice(0, n);
  }

  async function asked(path) {
    const answer = await fetch(path);
    const said = await answer.json();
    if (!answer.ok) throw new Error(said.error);
    return said;
  }

  /* Asks the monitor that the page came from. `told` is called with each piece of news, `heard` with how it goes. */
  function live(told, heard) {
    let stream = null, last = "", beat = 0, failed = 0;
    const note = (event) => {
      beat = performance.now();
      failed = 0;
      if (event.lastEventId) last = event.lastEventId;
      heard("live");
    };
    function listen() {
      stream?.close();
      stream = new EventSource(`api/stream?after=${encodeURIComponent(last)}`);
      beat = performance.now();
      for (const kind of ["row", "alert", "status", "beat", "reset"]) {
        stream.addEventListener(kind, (event) => {
          note(event);
          told(kind, JSON.parse(event.data));
        });
      }
      stream.addEventListener("open", () => heard("live"));
      stream.addEventListener("error", () => heard("lost"));
    }
    /* A browser gives up where it is refused, and waits for ever where a line is dead: begun anew, from where it was. */
    setInterval(() => {
      const silent = performance.now() - beat > LOST_MS;
      if (!stream || !(silent || stream.readyState === EventSource.CLOSED)) return;
      heard("lost");
      if (failed++ % 3 === 0) listen();
    }, 1_000);
    return {
      isLive: true,
      async state() {
        const state = await asked("api/state");
        last = state.last;
        return state;
      },
      series: (size, from, to, panel) => asked(`api/series?size=${size}&from=${from}&to=${to}&panel=${panel}`),
      listen,
      download: (kind, size, from, to) => `api/download.${kind}?size=${size}&from=${from}&to=${to}`,
    };
  }

  /* A line for each value, as the monitor writes them. */
  function csv(series) {
    const cell = (raw) => (raw === null ? "" : /[",\n]/.test(raw) ? `"${String(raw).replaceAll('"', '""')}"` : String(raw));
    const lines = ["start,start_ms,size_ms,name,value,n,error"];
    for (const one of series) {
      one.start_ms.forEach((ms, i) => {
        for (const [name, { value, n, error }] of Object.entries(one.values)) {
          if (value[i] !== null || n[i]) lines.push([Words.iso(ms).replace(".000", ""), ms, one.size_ms, name, value[i], n[i], error[i]].map(cell).join(","));
        }
      });
    }
    return `${lines.join("\n")}\n`;
  }

  /* What is inside the page. */
  function inside({ state, series }) {
    let link = "";
    return {
      isLive: false,
      state: async () => state,
      series: async (size, from, to, panel) => cut(series[size][panel], from, to),
      listen() {},
      download(kind, size, from, to) {
        URL.revokeObjectURL(link);
        const shown = state.sections.map(({ panel }) => cut(series[size][panel], from, to));
        const text = kind === "csv" ? csv(shown) : JSON.stringify(shown);
        return (link = URL.createObjectURL(new Blob([text], { type: kind === "csv" ? "text/csv" : "application/json" })));
      },
    };
  }

  return { live, inside, put, drop };
})();
