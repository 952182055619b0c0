"use strict";
(() => {
  const panel = document.getElementById("explorer");
  const slider = document.getElementById("threshold");
  const rows = Array.from(document.querySelectorAll("#points tbody tr"));
  if (!panel || rows.length < 2) return;
  const show = (index) => {
    const row = rows[index];
    rows.forEach((other) => other.classList.toggle("at", other === row));
    for (const cell of row.querySelectorAll("[data-name]"))
      document.getElementById("at-" + cell.dataset.name).textContent = cell.textContent.trim();
    const box = row.closest(".scroll");
    box.scrollTop = row.offsetTop - box.clientHeight / 2;
    const kept = Number(row.dataset.coverage);
    document.getElementById("at-kept").style.flexGrow = kept;
    document.getElementById("at-sent").style.flexGrow = 1 - kept;
    slider.value = index;
    slider.setAttribute("aria-valuetext", "threshold " + row.dataset.threshold);
  };
  const nearest = (threshold) => {
    const distance = rows.map((row) => Math.abs(Number(row.dataset.threshold) - threshold));
    return distance.indexOf(Math.min(...distance));
  };
  const fromAddress = () => {
    const match = /^#threshold=(-?\d+)$/.exec(location.hash);
    show(nearest(match ? Number(match[1]) : Number(panel.dataset.chosen)));
    if (match) panel.scrollIntoView();
  };
  slider.max = rows.length - 1;
  slider.addEventListener("input", () => show(Number(slider.value)));
  slider.addEventListener("change", () => history.replaceState(null, "", "#threshold=" + rows[slider.value].dataset.threshold));
  window.addEventListener("hashchange", fromAddress);
  panel.hidden = false;
  fromAddress();
})();
