/* How figures, times and names are written. */
const Words = (() => {
  const { known, grouped, tick, short } = Base;
  const MINUTE = 60_000, HOUR = 60 * MINUTE, DAY = 24 * HOUR;
  const SIZES = { "1m": MINUTE, "10m": 10 * MINUTE, "1h": HOUR };
  const SIZE_TITLES = { [MINUTE]: "a minute", [10 * MINUTE]: "10 minutes", [HOUR]: "an hour" };
  const UNITS = { share: "%", ratio: "", bits: "bits", s: "", per_s: "a second", degrees: "°", "": "" };

  /* So many digits that three of them count. */
  function digits(value, most) {
    return value === 0 ? 0 : Math.max(0, Math.min(most, 2 - Math.floor(Math.log10(Math.abs(value)))));
  }

  function figure(value, unit) {
    if (!known(value)) return "–";
    if (unit === "share") return `${grouped(100 * value, digits(100 * value, 3))} %`;
    if (unit === "ratio") return grouped(value, value === 0 ? 0 : Math.abs(value) < 0.1 ? 5 : 4);
    if (unit === "s") return duration(value);
    if (unit === "degrees") return `${grouped(value, digits(value, 3))}°`;
    if (Math.abs(value) >= 100_000) return short(value);
    return grouped(value, Number.isInteger(value) ? 0 : digits(value, 4));
  }

  function axisTick(value, interval, unit) {
    if (unit === "share") return `${tick(100 * value, 100 * interval)} %`;
    if (unit === "s") return duration(value);
    if (Math.abs(value) >= 10_000) return short(value);
    return tick(value, interval);
  }

  /* Of seconds, in its two largest units. */
  function duration(s) {
    const sign = s < 0 ? "−" : "", all = Math.abs(s), pad = (n) => String(n).padStart(2, "0");
    if (all < 10) return `${sign}${grouped(all, all === Math.round(all) ? 0 : 1)} s`;
    if (all < 59.5) return `${sign}${Math.round(all)} s`;
    const whole = Math.round(all), [d, h, m] = [Math.floor(whole / 86_400), Math.floor(whole / 3_600) % 24, Math.floor(whole / 60) % 60];
    if (whole < 3_600) return `${sign}${m} min${whole % 60 ? ` ${pad(whole % 60)} s` : ""}`;
    if (d === 0) return `${sign}${h} h${m ? ` ${pad(m)} min` : ""}`;
    return `${sign}${grouped(d, 0)} d${h ? ` ${h} h` : ""}`;
  }

  /* All times are UTC. */
  const iso = (ms) => new Date(ms).toISOString();
  const clock = (ms) => iso(ms).slice(11, 16);
  const day = (ms) => new Date(ms).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
  const stamp = (ms) => `${iso(ms).slice(0, 10)} ${clock(ms)}`;
  const version = (of) => (of ? `${of[0]}.${of[1]}` : "–");

  function span(from, to) {
    const same = iso(from).slice(0, 10) === iso(to - 1).slice(0, 10);
    return same ? `${day(from)} ${clock(from)} – ${clock(to)} UTC` : `${day(from)} ${clock(from)} – ${day(to)} ${clock(to)} UTC`;
  }

  /* What stands behind the measure in a value's name: a kind, a field, a slice. */
  const measureOf = (name) => name.split(".").slice(0, 2).join(".");
  const of = (name) => name.split(".").slice(2).join(".");

  return { MINUTE, HOUR, DAY, SIZES, SIZE_TITLES, UNITS, figure, axisTick, duration, iso, clock, day, stamp, version, span, measureOf, of };
})();
