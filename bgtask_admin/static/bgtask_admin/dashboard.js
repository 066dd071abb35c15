// Add conveniences. Every page works without this file.
"use strict";

const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Show the buttons that copy a traceback or JSON as text.
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

// Tick all tasks, tick a range with Shift, and show the number of ticked tasks.
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

// Step an operation automatically while its page is open.
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
      if (failures > 5) return; // The operator can still press the button.
      await new Promise((resolve) => setTimeout(resolve, 1000 * failures));
    }
  }
}

// Fetch the page again and replace its figures, unless somebody is using that part of the page.
function keepFresh() {
  const choice = document.querySelector("[data-refresh]");
  if (!choice) return;
  const select = choice.querySelector("select");
  const paused = document.querySelector("[data-paused]");
  const key = "bgtask-refresh";
  let stored = "0";
  // If localStorage is not available, the page does not refresh automatically.
  try { stored = localStorage.getItem(key) || "0"; } catch { /* Keep "0". */ }
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
    } catch { /* Try again at the next refresh. */ }
    plan();
  };
  const plan = () => {
    clearTimeout(timer);
    const seconds = Number(select.value);
    if (seconds) timer = setTimeout(refresh, seconds * 1000);
  };
  select.addEventListener("change", () => {
    // If localStorage is not available, the choice lasts for this page only.
    try { localStorage.setItem(key, select.value); } catch { /* Ignore. */ }
    plan();
  });
  plan();
}

// Show the next slots of a schedule as somebody types. Show only the fields of its kind.
function previewSlots() {
  const form = document.querySelector("form[data-previewed]");
  if (!form) return;
  const kinds = ["cron", "every", "at"];
  const fields = { cron: ["cron", "time_zone"], every: ["every"], at: ["at"] };
  const kind = form.elements.kind;
  const fold = () => {
    for (const one of kinds) {
      for (const name of fields[one]) {
        const field = form.querySelector(`[data-field="${name}"]`);
        if (field) field.hidden = one !== kind.value;
      }
    }
  };
  let timer = null;
  let asked = 0;
  const ask = async () => {
    const query = new URLSearchParams(new FormData(form));
    query.delete("csrfmiddlewaretoken");
    const number = (asked += 1);
    try {
      const response = await fetch(`${form.dataset.previewed}?${query}`);
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const fresh = page.querySelector("[data-preview]");
      if (response.ok && fresh && number === asked) {
        document.querySelector("[data-preview]").replaceWith(fresh);
      }
    } catch { /* The button "Preview" still works. */ }
  };
  form.addEventListener("input", () => {
    fold();
    clearTimeout(timer);
    timer = setTimeout(ask, 300);
  });
  fold();
}

// The key "/" moves the focus to the search box.
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
previewSlots();
