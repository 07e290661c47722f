"use strict";
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const list = document.getElementById("items");
  const items = [...list.children];
  const value = (name) => (form.elements[name] ? form.elements[name].value : "");

  function difference(item, attribute, sort) {
    const spread = item.dataset.spread.split(",").map(Number);
    const words = Number(item.dataset.words);
    const shown = attribute === "" ? spread.reduce((a, b) => a + b, 0) : spread[Number(attribute)];
    return sort === "words" ? words : shown + words / 2;
  }

  function update() {
    const attribute = value("attribute"), prompt = value("prompt"), place = value("place"), sort = value("sort");
    for (const answer of list.querySelectorAll(".answer")) {
      const own = answer.dataset.attribute;
      answer.hidden = attribute !== "" && own !== "" && own !== attribute;
    }
    for (const mark of document.querySelectorAll("#items mark")) {
      mark.classList.toggle("off", attribute !== "" && !mark.classList.contains("a" + attribute));
    }
    items.sort((a, b) => difference(b, attribute, sort) - difference(a, attribute, sort));
    let shown = 0;
    for (const item of items) {
      item.hidden = (prompt !== "" && item.dataset.prompt !== prompt) || (place !== "" && item.dataset.place !== place);
      shown += item.hidden ? 0 : 1;
      list.append(item);
    }
    document.getElementById("count").textContent = shown + (shown === 1 ? " row" : " rows");
  }

  form.addEventListener("change", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  update();
})();
