// What every page is made of: elements, requests, the forms of times and numbers. What others wrote
// only ever becomes text.

const SVG = "http://www.w3.org/2000/svg";

/** Makes an element. `on…` attributes are listeners; null and false leave an attribute out. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Makes an element of a drawing. */
export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Why a request was not answered with what it asked for. */
export class Refused extends Error {
  constructor(status, body) {
    const fields = (body?.errors ?? []).map(({ field, message }) => `${field}: ${message}`);
    super([body?.message ?? "The server is not answering.", ...fields].join(" "));
    this.status = status;
  }
}

let csrfToken = null;

/** Asks the API; what it answers as `data`. */
export const api = async (path, options) => (await answer(path, options)).data;

/** Asks the API; the data, and the text that they came in. */
export async function answer(path, { method = "GET", body, headers = {}, signal } = {}) {
  const sent = { ...headers };
  if (method !== "GET" && csrfToken) sent["X-CSRF-Token"] = csrfToken;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  let response, text;
  try {
    response = await fetch(path, { method, headers: sent, body: body && JSON.stringify(body), signal, cache: "no-store" });
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, null);
  }
  const envelope = parsed(text);
  if (response.ok && envelope) return { data: envelope.data, text };
  if (response.status === 401) document.dispatchEvent(new Event("signedout"));
  throw new Refused(response.status, envelope);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Keeps what has to be sent with everything that changes something. */
export function signedIn(session) {
  csrfToken = session?.csrf_token ?? null;
}

/** A query of those values that are there. */
export function query(values) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

// ---- forms of things ----

const DAY_AND_TIME = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const COUNT = new Intl.NumberFormat();

export function time(text) {
  if (!text) return "–";
  return h("time", { datetime: text, title: text }, DAY_AND_TIME.format(new Date(text)));
}

export const clock = (text) => CLOCK.format(new Date(text));

export const count = (number) => (number === null || number === undefined ? "–" : COUNT.format(number));

/** Minutes and seconds, as a player shows them. */
export function minutes(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** How long something takes, in a word. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

export const dollars = (text) => `$${text}`;

/** Text that somebody else wrote: it stays in its place, whatever it consists of. */
export const foreign = (text, tag = "span") => h(tag, { class: "foreign", dir: "auto" }, text ?? "–");

const KINDS = {
  delivered: "good", READY: "good", finalized: "good", replayed: "good", accepted: "good", healthy: "good",
  pending: "busy", PENDING: "busy", PROCESSING: "busy", "in progress": "busy", open: "busy", paused: "busy", duplicate: "calm",
  exhausted: "bad", FAILED: "bad", failed: "bad", failing: "bad", disabled: "bad",
};

export const badge = (word, kind) => h("span", { class: `badge ${kind ?? KINDS[word] ?? "calm"}` }, word);

export const link = (path, ...children) => h("a", { href: `#${path}`, "data-key": path }, ...children);

/** Terms and what they are; those that are not known are left out. */
export function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== "–");
  return h("dl", { class: "facts" }, known.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));
}

/** A table that is a list of cards where there is no room. Its roles are said, for CSS takes them away. */
export function table(caption, columns, rows, nothing) {
  if (rows.length === 0) return h("p", { class: "nothing" }, nothing);
  const cell = (row) => ([name, show, kind]) => h("td", { role: "cell", class: kind, "data-label": name }, show(row));
  return h("table", { role: "table" },
    h("caption", { class: "unseen" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map(([name, , kind]) => h("th", { role: "columnheader", scope: "col", class: kind }, name)))),
    h("tbody", { role: "rowgroup" }, rows.map((row) => h("tr", { role: "row" }, columns.map(cell(row))))));
}

export function panel(title, ...children) {
  const id = `panel-${title.toLowerCase().replaceAll(/[^a-z]+/g, "-")}`;
  return h("section", { class: "panel", "aria-labelledby": id }, h("h2", { id }, title), ...children);
}

export const heading = (...children) => h("h1", { tabindex: "-1" }, ...children);

/** A part of a page that is drawn anew; who was somewhere in it stays there. */
export function region(className) {
  const place = h("div", { class: className });
  return {
    place,
    draw(...children) {
      const active = place.contains(document.activeElement) ? document.activeElement.dataset.key : null;
      place.replaceChildren(...children.flat(Infinity).filter(Boolean));
      if (active) place.querySelector(`[data-key="${CSS.escape(active)}"]`)?.focus({ preventScroll: true });
    },
  };
}

/** A form whose values are the page's address. Fields: `[name, label, attributes or choices]`. */
export function filters(path, fields, given) {
  const field = ([name, label, how]) => {
    const id = `filter-${name}`;
    const input = Array.isArray(how)
      ? h("select", { id, name }, how.map(([value, text]) => h("option", { value, selected: (given[name] ?? "") === value }, text)))
      : h("input", { id, name, value: given[name] ?? "", autocomplete: "off", spellcheck: "false", ...how });
    return h("div", { class: "field" }, h("label", { for: id }, label), input);
  };
  const go = (event) => {
    event.preventDefault();
    const values = Object.fromEntries(new FormData(event.currentTarget));
    location.hash = `${path}${query(Object.fromEntries(Object.entries(values).map(([name, value]) => [name, value.trim()])))}`;
  };
  return h("form", { class: "filters", role: "search", onsubmit: go },
    fields.map(field), h("div", { class: "field" }, h("button", { type: "submit" }, "Show")));
}

/** Says something to whoever looks, and to whoever listens: behind an open dialog nobody does. */
export function say(text, kind = "calm") {
  const place = [...document.querySelectorAll("dialog[open] > [role=status]")].at(-1) ?? document.getElementById("status");
  const said = h("p", { class: `toast ${kind}` }, text);
  place.replaceChildren(said);
  setTimeout(() => said.remove(), kind === "bad" ? 12000 : 6000);
}

/** A button that does something which takes a moment. */
export function action(name, act, { kind, key } = {}) {
  return h("button", {
    type: "button", class: kind, "data-key": key ?? name,
    async onclick(event) {
      const button = event.currentTarget;
      if (button.getAttribute("aria-disabled")) return;
      button.setAttribute("aria-disabled", "true");
      try {
        await act();
      } catch (error) {
        say(error.message, "bad");
      } finally {
        button.removeAttribute("aria-disabled");
      }
    },
  }, name);
}

/** A dialog; what its buttons mean is what it comes to, or null. Buttons: `[name, value, kind]`. */
export function dialog(title, children, buttons) {
  return new Promise((done) => {
    const before = document.activeElement;
    const button = ([name, value, kind]) => h("button", { type: "button", class: kind, onclick: () => { chosen = value; box.close(); } }, name);
    let chosen = null;
    const box = h("dialog", { "aria-labelledby": "dialog-title" },
      h("h2", { id: "dialog-title" }, title), ...children, h("div", { class: "actions" }, buttons.map(button)), h("div", { role: "status" }));
    box.addEventListener("close", () => {
      box.remove();
      before?.focus?.();
      done(chosen);
    });
    document.body.append(box);
    box.showModal();
  });
}

/** Closes what is open, as if by Escape. */
export function closeDialogs() {
  for (const box of document.querySelectorAll("dialog[open]")) box.close();
}

export const sure = (title, text, name, kind = "danger") => dialog(title, [h("p", null, text)], [[name, true, kind], ["Cancel", null, "quiet"]]);

// ---- drawings ----

const WIDTH = 600;
const HEIGHT = 120;

/** Bars over time, one on the other. Series: `[name, kind, value of a part]`. */
export function bars(title, parts, series, { unit = count } = {}) {
  const sum = (part) => series.reduce((total, [, , value]) => total + (value(part) ?? 0), 0);
  const highest = Math.max(...parts.map(sum), 0);
  const width = WIDTH / parts.length;
  const drawn = parts.map((part, index) => {
    let top = HEIGHT;
    return svg("g", null,
      svg("title", null, `${clock(part.at)}: ${series.map(([name, , value]) => `${name} ${unit(value(part))}`).join(", ")}`),
      series.map(([, kind, value]) => {
        const height = highest ? ((value(part) ?? 0) / highest) * (HEIGHT - 4) : 0;
        top -= height;
        return height > 0 && svg("rect", { class: `fill ${kind}`, x: index * width + 0.5, y: top, width: Math.max(width - 1, 0.5), height });
      }));
  });
  const last = parts.at(-1);
  const label = `${title}. Most: ${unit(highest)}. ${last ? series.map(([name, , value]) => `Last, ${name}: ${unit(value(last))}`).join(". ") : ""}`;
  return chart(title, label, drawn, series, highest ? unit(highest) : "", parts);
}

/** A line through samples `{at, value}`. */
export function line(title, samples, { unit = count, kind = "busy" } = {}) {
  const known = samples.filter(({ value }) => value !== null);
  const highest = Math.max(...known.map(({ value }) => value), 0);
  const x = (index) => (samples.length > 1 ? (index / (samples.length - 1)) * WIDTH : WIDTH);
  const y = (value) => HEIGHT - 2 - (highest ? (value / highest) * (HEIGHT - 6) : 0);
  const points = samples.map(({ value }, index) => (value === null ? null : `${x(index).toFixed(1)},${y(value).toFixed(1)}`)).filter(Boolean);
  const drawn = points.length > 1 ? [svg("polyline", { class: `stroke ${kind}`, points: points.join(" ") })] : [];
  const label = `${title}. Most: ${unit(highest)}. Last: ${unit(known.at(-1)?.value ?? null)}`;
  return chart(title, label, drawn, [], unit(highest), samples);
}

function chart(title, label, drawn, series, most, parts) {
  return h("figure", { class: "chart" },
    h("figcaption", null, title, series.length > 1 && h("span", { class: "legend" }, series.map(([name, kind]) => h("span", { class: `key ${kind}` }, name)))),
    h("div", { class: "most", "aria-hidden": "true" }, most),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, drawn),
    h("div", { class: "axis", "aria-hidden": "true" }, h("span", null, parts.length ? clock(parts[0].at) : ""), h("span", null, parts.length ? clock(parts.at(-1).at) : "")));
}
