"use strict";
// Only hides and shows what is there; reads text, writes none but the count.
const cards = [...document.querySelectorAll("#examples .example")];
const buttons = [...document.querySelectorAll(".filters button")];
const search = document.querySelector(".filters input");
const count = document.querySelector(".filters output");
let wanted = "all";

function show() {
  const words = search.value.toLowerCase();
  let shown = 0;
  for (const card of cards) {
    const fits = wanted === "all" || card.dataset.kinds.split(" ").includes(wanted);
    card.hidden = !(fits && card.textContent.toLowerCase().includes(words));
    shown += card.hidden ? 0 : 1;
  }
  count.textContent = `${shown} of ${cards.length}`;
}

for (const button of buttons) {
  button.addEventListener("click", () => {
    wanted = button.dataset.kind;
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    show();
  });
}
if (search) {
  search.addEventListener("input", show);
  show();
}
