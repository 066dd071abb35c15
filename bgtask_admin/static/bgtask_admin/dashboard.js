// Only adds: every page does all it can without this file.
"use strict";

const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Copy a traceback or JSON as text.
function offerCopies(root = document) {
  if (!navigator.clipboard) return;
  for (const button of all("[data-copy]", root)) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      const folded = all("details:not([open])", source);
      folded.forEach((one) => (one.open = true));
      const text = all("pre", source).map((one) => one.textContent).join("\n") || source.textContent;
      folded.forEach((one) => (one.open = false));
      await navigator.clipboard.writeText(text);
      const said = button.textContent;
      button.textContent = "✓";
      setTimeout(() => (button.textContent = said), 1500);
    });
  }
}

// Tick all, tick a range with shift, and say how many.
function helpTicking() {
  const form = document.getElementById("bulk");
  const ticks = form ? all("input[name=tick]", form) : [];
  if (!ticks.length) return;
  const every = form.querySelector(".bg-tick-all");
  const said = form.querySelector("[data-ticked]");
  const count = () => {
    const ticked = ticks.filter((one) => one.checked).length;
    if (said) said.textContent = ticked ? ` (${ticked})` : "";
    every.checked = ticked === ticks.length;
    every.indeterminate = ticked > 0 && ticked < ticks.length;
  };
  every.hidden = false;
  every.addEventListener("change", () => {
    ticks.forEach((one) => (one.checked = every.checked));
    count();
  });
  let last = null;
  ticks.forEach((tick, index) => tick.addEventListener("click", (event) => {
    if (event.shiftKey && last !== null) {
      const [from, to] = [Math.min(last, index), Math.max(last, index)];
      ticks.slice(from, to + 1).forEach((one) => (one.checked = tick.checked));
    }
    last = index;
    count();
  }));
  count();
}

// An operation goes on by itself while its page is open.
async function goOn() {
  const form = document.querySelector("form[data-step]");
  if (!form) return;
  const bar = document.querySelector("progress");
  const words = document.querySelector("[data-words]");
  let stopped = false;
  form.addEventListener("submit", () => (stopped = true));
  let failures = 0;
  while (!stopped) {
    try {
      const response = await fetch(form.action, {
        method: "POST",
        body: new FormData(form),
        headers: { Accept: "application/json" },
      });
      if (!response.ok) throw new Error(response.status);
      const now = await response.json();
      failures = 0;
      bar.value = now.handled;
      words.textContent = now.words;
      if (!now.running && !stopped) return location.reload();
    } catch {
      failures += 1;
      if (failures > 5) return; // The button is still there.
      await new Promise((resolve) => setTimeout(resolve, 1000 * failures));
    }
  }
}

// Fetch the page again and put its figures in place, unless somebody is at work on it.
function keepFresh() {
  const choice = document.querySelector("[data-refresh]");
  if (!choice) return;
  const select = choice.querySelector("select");
  const paused = document.querySelector("[data-paused]");
  const key = "bgtask-refresh";
  let stored = "0";
  try { stored = localStorage.getItem(key) || "0"; } catch { /* Without a store: not by itself. */ }
  choice.hidden = false;
  select.value = stored;
  if (select.selectedIndex < 0) select.value = "0";
  let timer = null;
  const isBusy = () => {
    const live = document.querySelector("[data-live]");
    const selected = String(getSelection());
    return document.hidden || live.contains(document.activeElement) || selected !== "";
  };
  const refresh = async () => {
    if (isBusy()) {
      paused.textContent = document.hidden ? "" : "⏸";
      return plan();
    }
    paused.textContent = "";
    try {
      const response = await fetch(location.href, { headers: { Accept: "text/html" } });
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const [fresh, stale] = [page, document].map((one) => one.querySelector("[data-live]"));
      if (response.ok && fresh && !isBusy()) {
        stale.replaceWith(fresh);
        document.querySelector("[data-refreshed]").replaceWith(page.querySelector("[data-refreshed]"));
      }
    } catch { /* Next time. */ }
    plan();
  };
  const plan = () => {
    clearTimeout(timer);
    const seconds = Number(select.value);
    if (seconds) timer = setTimeout(refresh, seconds * 1000);
  };
  select.addEventListener("change", () => {
    try { localStorage.setItem(key, select.value); } catch { /* Then for this page only. */ }
    plan();
  });
  plan();
}

// "/" goes to the search box.
document.addEventListener("keydown", (event) => {
  const at = document.activeElement;
  const search = document.querySelector(".bg-search input[type=search]");
  if (event.key !== "/" || event.ctrlKey || event.metaKey || !search) return;
  if (at && at.matches("input, textarea, select")) return;
  event.preventDefault();
  search.focus();
});

offerCopies();
helpTicking();
goOn();
keepFresh();
