// Sends what somebody decides about an alert or a dead letter, and shows the page anew.
"use strict";

async function sendDecision(event) {
  event.preventDefault();
  const form = event.currentTarget;
  const fields = new FormData(form);
  const response = await fetch(`${form.dataset.decision}/${event.submitter.value}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Contimg-Token": fields.get("token") },
    body: JSON.stringify({ by: fields.get("by"), reason: fields.get("reason") }),
  });
  if (response.ok) {
    window.location.reload();
    return;
  }
  const { detail } = await response.json();
  form.querySelector(".answer").textContent = typeof detail === "string" ? detail : "Who and why are needed.";
}

for (const form of document.querySelectorAll("form[data-decision]")) form.addEventListener("submit", sendDecision);
