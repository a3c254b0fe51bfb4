"use strict";
(() => {
  const list = document.querySelector(".versus .list");
  const samples = [...list.querySelectorAll(".sample")];
  const filters = [...document.querySelectorAll(".explorer > input")];
  const models = document.getElementById("models");
  const sort = document.getElementById("sort");
  const count = document.getElementById("count");
  const visible = () => [...list.querySelectorAll(".sample")].filter((s) => s.offsetParent !== null);

  const tell = () => {
    const shown = visible().length;
    count.textContent = shown === 1 ? "1 pair shown" : `${shown} pairs shown`;
  };
  const step = (by) => {
    const shown = visible();
    if (shown.length === 0) return;
    const here = shown.indexOf(document.activeElement.closest(".sample"));
    const next = shown[Math.min(Math.max(here < 0 ? (by > 0 ? 0 : shown.length - 1) : here + by, 0), shown.length - 1)];
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "start" });
  };
  const choose = () => {
    for (const s of samples) s.classList.toggle("elsewhere", Boolean(models && models.value && s.dataset.models !== models.value));
    tell();
  };
  const order = () => {
    const on = sort.getAttribute("aria-pressed") !== "true";
    sort.setAttribute("aria-pressed", String(on));
    const sorted = on ? [...samples].sort((a, b) => b.dataset.bits - a.dataset.bits) : samples;
    list.append(...sorted);
    tell();
  };

  document.querySelector(".tools").hidden = false;
  for (const input of filters) input.addEventListener("change", tell);
  if (models) models.addEventListener("change", choose);
  sort.addEventListener("click", order);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select")) return;
    const digit = Number(event.key);
    if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "s") order();
    else if (event.key === "m") list.classList.toggle("plain-words");
    else if (digit >= 1 && digit <= filters.length) {
      filters[digit - 1].checked = true;
      tell();
    } else return;
    event.preventDefault();
  });
  tell();
})();
