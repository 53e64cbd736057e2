// Draws the page's figures in the colours of the page, fetches enlarged parts of images, renews the changing parts of
// the page, and sends reviews and comments. Everything else works without scripts.
"use strict";

const darkness = window.matchMedia("(prefers-color-scheme: dark)");
const base = document.documentElement.dataset.base;
const drawn = new Map(); // of each figure's place: the document's text and what Bokeh made of it

function colours() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  return { ink: read("--ink"), quiet: read("--quiet"), line: read("--line") };
}

// Canvas text cannot inherit from CSS: axes, grids, titles and legends are given the page's colours.
function paint(bokehDocument) {
  const { ink, quiet, line } = colours();
  const wanted = {
    major_label_text_color: quiet, axis_label_text_color: quiet, label_text_color: ink, title_text_color: quiet,
    axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: line,
    grid_line_color: line, outline_line_color: line,
  };
  for (const model of bokehDocument._all_models.values()) {
    for (const [property, colour] of Object.entries(wanted)) {
      if (property in model.properties) model[property] = colour;
    }
  }
}

async function drawFigure(script) {
  const name = script.dataset.target;
  const target = document.getElementById(name);
  drawn.get(name)?.views.clear();
  target.replaceChildren();
  // Addresses in documents are relative to the site, which may be mounted below another.
  const text = script.textContent.replaceAll(/"(observations|sources)\//g, `"${base}/$1/`);
  const views = await Bokeh.embed.embed_item(JSON.parse(text), target);
  drawn.set(name, { text: script.textContent, views });
  const shown = [...views].map((view) => view.model.document);
  shown.forEach(paint);
  for (const bokehDocument of shown) followImage(bokehDocument);
}

async function drawFigures(part) {
  // One after the other: the first is on the screen while the others are made.
  for (const script of part.querySelectorAll("script.figure-document")) await drawFigure(script);
}

// An image is fetched again, for the part in view at the screen's resolution, when the part in view has changed.
function followImage(bokehDocument) {
  const models = [...bokehDocument._all_models.values()];
  const pixels = models.find((model) => model.name === "sky-pixels");
  const plot = models.find((model) => model.name === "sky-image");
  if (!pixels || !plot) return;
  const [address, cell, nX, nY] = pixels.tags;
  const whole = { ...pixels.data };
  let waiting = 0;
  const fetchPart = () => {
    const clamp = (value, size) => Math.min(Math.max(value, 0), size);
    const x0 = clamp(Math.floor(plot.x_range.start / cell + nX / 2), nX), x1 = clamp(Math.ceil(plot.x_range.end / cell + nX / 2), nX);
    const y0 = clamp(Math.floor(plot.y_range.start / cell + nY / 2), nY), y1 = clamp(Math.ceil(plot.y_range.end / cell + nY / 2), nY);
    if (x1 - x0 < 2 || y1 - y0 < 2) return;
    if (x0 === 0 && y0 === 0 && x1 === nX && y1 === nY) {
      pixels.data = whole;
      return;
    }
    pixels.data = {
      url: [`${address}&x0=${x0}&x1=${x1}&y0=${y0}&y1=${y1}`],
      x: [(x0 - nX / 2) * cell], y: [(y1 - nY / 2) * cell], w: [(x1 - x0) * cell], h: [(y1 - y0) * cell],
    };
  };
  const later = () => {
    clearTimeout(waiting);
    waiting = setTimeout(fetchPart, 250);
  };
  for (const range of [plot.x_range, plot.y_range]) range.change.connect(later);
}

// Parts marked data-refresh are replaced by what the page would show now; the reader's place and the keyboard's focus stay.
async function renew() {
  if (document.hidden || !isRenewing()) return;
  let response;
  try {
    response = await fetch(window.location.href, { headers: { Accept: "text/html" } });
  } catch {
    return; // the portal is away for a moment; the age of the page says since when
  }
  if (!response.ok) return;
  const next = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const part of document.querySelectorAll("[data-refresh]")) {
    const fresh = part.id && next.getElementById(part.id);
    if (!fresh || part.contains(document.activeElement) && part !== document.activeElement) continue;
    const scripts = [...fresh.querySelectorAll("script.figure-document")];
    if (scripts.length) {
      const changed = scripts.some((script) => drawn.get(script.dataset.target)?.text !== script.textContent);
      if (!changed || !window.Bokeh) continue;
    } else if (fresh.innerHTML === part.dataset.served || fresh.innerHTML === part.innerHTML) continue;
    const { scrollLeft, scrollTop } = part;
    part.replaceChildren(...fresh.childNodes);
    Object.assign(part, { scrollLeft, scrollTop });
    if (scripts.length) await drawFigures(part);
  }
  document.body.dataset.renewed = String(Number(document.body.dataset.renewed || 0) + 1);
}

function isRenewing() {
  return document.getElementById("refreshing").getAttribute("aria-pressed") === "true";
}

function offerRenewing() {
  const button = document.getElementById("refreshing");
  if (!document.querySelector("main [data-refresh]")) return;
  button.hidden = false;
  button.setAttribute("aria-pressed", String(localStorage.getItem("contimg-renew") !== "off"));
  button.addEventListener("click", () => {
    const next = !isRenewing();
    button.setAttribute("aria-pressed", String(next));
    localStorage.setItem("contimg-renew", next ? "on" : "off");
    if (next) renew();
  });
  setInterval(renew, 1000 * Number(document.body.dataset.refreshS));
}

async function send(event) {
  event.preventDefault();
  const form = event.currentTarget;
  const answer = form.querySelector(".answer");
  const { token, ...fields } = Object.fromEntries(new FormData(form));
  if (event.submitter?.name) fields[event.submitter.name] = event.submitter.value;
  const response = await fetch(form.dataset.send, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Contimg-Token": token },
    body: JSON.stringify(fields),
  });
  if (response.ok) {
    window.location.reload();
    return;
  }
  const { detail } = await response.json();
  answer.textContent = typeof detail === "string" ? detail : "Every field is needed.";
}

if (document.querySelector("script.figure-document")) drawFigures(document);
darkness.addEventListener("change", () => window.Bokeh?.documents.forEach(paint));
for (const form of document.querySelectorAll("form[data-send]")) form.addEventListener("submit", send);
offerRenewing();
