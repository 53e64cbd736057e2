// Draws the page's figures in the colours of the page, and sends reviews. Everything else works without scripts.
"use strict";

const darkness = window.matchMedia("(prefers-color-scheme: dark)");

function colours() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  return { ink: read("--ink"), quiet: read("--quiet"), line: read("--line") };
}

// Canvas text cannot inherit from CSS: axes, grids, titles and legends are given the page's colours.
function paint(bokehDocument) {
  const { ink, quiet, line } = colours();
  const wanted = {
    major_label_text_color: quiet, axis_label_text_color: quiet, label_text_color: ink,
    axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: line,
    grid_line_color: line, outline_line_color: line,
  };
  for (const model of bokehDocument._all_models.values()) {
    for (const [property, colour] of Object.entries(wanted)) {
      if (property in model.properties) model[property] = colour;
    }
  }
}

async function drawFigures() {
  for (const script of document.querySelectorAll("script.figure-document")) {
    const target = document.getElementById(script.dataset.target);
    await Bokeh.embed.embed_item(JSON.parse(script.textContent), target);
  }
  const repaint = () => Bokeh.documents.forEach(paint);
  repaint();
  darkness.addEventListener("change", repaint);
}

async function sendReview(event) {
  event.preventDefault();
  const form = event.currentTarget;
  const answer = form.querySelector(".answer");
  const fields = new FormData(form);
  const response = await fetch(form.dataset.review, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${fields.get("token")}` },
    body: JSON.stringify({ kind: event.submitter.value, by: fields.get("by"), reason: fields.get("reason") }),
  });
  if (response.ok) {
    window.location.reload();
    return;
  }
  const { detail } = await response.json();
  answer.textContent = typeof detail === "string" ? detail : "Reviewer and reason are needed.";
}

if (document.querySelector("script.figure-document")) drawFigures();
for (const form of document.querySelectorAll("form[data-review]")) form.addEventListener("submit", sendReview);
