"use strict";
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const list = document.getElementById("items");
  const count = document.getElementById("count");
  const large = document.getElementById("large");
  const pictures = document.documentElement.dataset.pictures; // where `lmmsteer view` has them
  const nodes = new Map([...list.children].map((node, row) => [row, node])); // rows that are built
  const chunks = new Map(); // number: { promise, resolve, reject }, or in the end { rows }
  const KEPT = { nodes: 200, chunks: 60 };
  let index = null, shown = [], page = 0, turn = 0;

  const value = (name) => (form.elements[name] ? form.elements[name].value : "");
  const off = () => new Set([...form.querySelectorAll("[name=method]:not(:checked)")].map((box) => box.value));

  function make(tag, set, ...inside) {
    const node = document.createElement(tag);
    for (const [name, said] of Object.entries(set)) node.setAttribute(name, said);
    node.append(...inside);
    return node;
  }

  // Files: scripts, for a page that was opened from disk may load nothing else.

  function fetchScript(name) {
    return new Promise((resolve, reject) => {
      const script = make("script", { src: "gallery/" + name });
      script.onload = () => { script.remove(); resolve(); };
      script.onerror = () => { script.remove(); reject(new Error("gallery/" + name + " cannot be read")); };
      document.head.append(script);
    });
  }

  const given = new Map();
  window.lmmsteer = {
    index: (found) => { index = found; },
    chunk: (number, made, rows) => given.set(number, { made, rows }),
  };

  function chunk(number) {
    if (!chunks.has(number)) {
      const name = String(number).padStart(5, "0") + ".js";
      chunks.set(number, fetchScript(name).then(() => {
        const found = given.get(number);
        given.delete(number);
        if (!found || found.made !== index.made) throw new Error("gallery/" + name + " is of another report: load this page again");
        return found.rows;
      }));
      chunks.get(number).catch(() => chunks.delete(number));
      forget(chunks, KEPT.chunks);
    }
    return chunks.get(number);
  }

  function forget(map, kept) {
    for (const key of map.keys()) {
      if (map.size <= kept) return;
      map.delete(key);
    }
  }

  // Rows.

  const labels = (row) => Object.values(index.labels)
    .map((values, place) => values[index.rows.labels[place][row]])
    .filter((said) => said !== undefined).map((said) => said.replaceAll("_", " "));

  function picture(row, data) {
    const id = index.rows.image[row], said = labels(row);
    if (!data) return make("div", { class: "broken", role: "img", "aria-label": "Picture " + id + " is not in the manifest or cannot be read" }, "no picture");
    return make("img", { src: data, alt: "Picture " + id + (said.length ? ": " + said.join(", ") : "") });
  }

  function text(pieces) {
    if (pieces === null) return make("p", { class: "failed" }, "no answer: the row failed");
    const words = pieces.map((piece) => typeof piece === "string" ? piece : make("mark", {
      class: piece[1].map((own) => "a" + own).join(" "),
      title: piece[1].map((own) => index.attributes[own]).join(", "),
    }, piece[0]));
    const said = make("p", { dir: "auto" }, ...words);
    return said.textContent.trim() ? said : make("p", { class: "failed" }, "(empty answer)");
  }

  function article(row, [data, answers]) {
    const rows = index.rows, [place, , columns] = index.places[rows.place[row]];
    const [id, prompt] = index.prompts[rows.prompt[row]];
    const said = labels(row);
    const figure = make("figure", {}, picture(row, data), make("figcaption", {}, make("code", {}, rows.image[row]),
      ...(said.length ? [make("span", {}, said.join(", "))] : [])));
    const from = id + ", seed " + rows.seed[row] + (index.places.length > 1 ? ", " + place : "");
    const shown = columns.map(([method, own], column) => make("div", { class: "answer", "data-attribute": own < 0 ? "" : own, "data-method": method },
      make("h4", {}, method, ...(own < 0 ? [] : [" ", make("small", {}, index.attributes[own])])), text(answers[column])));
    return make("article", { class: "item" }, figure, make("div", { class: "said" },
      make("h3", {}, make("span", {}, prompt), " ", make("small", {}, from)), make("div", { class: "answers" }, ...shown)));
  }

  function finish(node, row) { // What a row can do once the index is there: its set, its large picture.
    if (node.dataset.row !== undefined) return node;
    node.dataset.row = row;
    const group = index.rows.group[row], image = node.querySelector("img");
    if (group !== null) {
      const button = make("button", { type: "button", class: "set" }, "set " + group);
      button.onclick = () => { form.elements.find.value = group; update(); };
      node.querySelector("figcaption").append(button);
    }
    if (pictures && image) {
      const open = make("button", { type: "button", class: "open", "aria-label": "Show picture " + index.rows.image[row] + " in full size" });
      image.replaceWith(open);
      open.append(image);
      open.onclick = () => show(row, image.alt);
    }
    return node;
  }

  function show(row, alt) {
    const address = [index.places[index.rows.place[row]][1], index.rows.image[row]].map(encodeURIComponent).join("/");
    large.querySelector("div").replaceChildren(make("img", { src: pictures + address, alt }));
    large.showModal();
  }

  async function node(row) {
    if (!nodes.has(row)) {
      const number = Math.floor(row / index.chunk);
      const rows = await chunk(number);
      if (!nodes.has(row)) nodes.set(row, article(row, rows[row - number * index.chunk]));
      forget(nodes, KEPT.nodes);
    }
    return nodes.get(row);
  }

  const waiting = (row, said) => make("article", { class: "item waiting", "aria-busy": said ? "false" : "true" },
    make("figure", {}, make("div", { class: "broken" })), make("p", { class: "said" }, said || index.rows.image[row]));

  // What is shown: filtered, sorted, a page of it.

  function dress(node, attribute, hidden) {
    for (const answer of node.querySelectorAll(".answer")) {
      const own = answer.dataset.attribute;
      answer.hidden = (attribute !== "" && own !== "" && own !== attribute) || hidden.has(answer.dataset.method);
    }
    for (const mark of node.querySelectorAll("mark")) {
      mark.classList.toggle("off", attribute !== "" && !mark.classList.contains("a" + attribute));
    }
    return node;
  }

  function found() {
    const rows = index.rows, wanted = value("find").trim().toLowerCase();
    const columns = [["prompt", rows.prompt], ["place", rows.place],
      ...Object.keys(index.labels).map((name, place) => [name, rows.labels[place]])]
      .filter(([name]) => value(name) !== "").map(([name, column]) => [Number(value(name)), column]);
    const named = (row) => rows.image[row].toLowerCase().includes(wanted) || (rows.group[row] || "").toLowerCase() === wanted;
    const left = [];
    for (let row = 0; row < index.count; row++) {
      if (columns.every(([own, column]) => column[row] === own) && (wanted === "" || named(row))) left.push(row);
    }
    return sorted(left);
  }

  function sorted(left) {
    const rows = index.rows, attribute = value("attribute"), sort = value("sort");
    if (sort === "picture") {
      const compare = new Intl.Collator("en", { numeric: true }).compare;
      return left.sort((a, b) => compare(rows.image[a], rows.image[b]) || rows.prompt[a] - rows.prompt[b] || a - b);
    }
    const spread = (row) => attribute === "" ? rows.spread.reduce((sum, column) => sum + column[row], 0) : rows.spread[Number(attribute)][row];
    const key = sort === "words" ? rows.words : Float64Array.from({ length: index.count }, (_, row) => spread(row) + rows.words[row] / 2);
    return left.sort((a, b) => key[b] - key[a] || a - b);
  }

  async function render() {
    const mine = ++turn, size = index.page, attribute = value("attribute"), hidden = off();
    const rows = shown.slice(page * size, (page + 1) * size);
    const pages = Math.max(1, Math.ceil(shown.length / size));
    count.textContent = !shown.length ? "no rows" : rows.length === shown.length ? rows.length + (rows.length === 1 ? " row" : " rows")
      : (page * size + 1).toLocaleString("en") + "\u2013" + (page * size + rows.length).toLocaleString("en") + " of " + shown.length.toLocaleString("en") + " rows";
    for (const pager of document.querySelectorAll(".pager")) {
      pager.hidden = pages === 1;
      pager.querySelector("[data-go='-1']").disabled = page === 0;
      pager.querySelector("[data-go='1']").disabled = page === pages - 1;
      pager.querySelector("span").textContent = "page " + (page + 1).toLocaleString("en") + " of " + pages.toLocaleString("en");
    }
    const places = rows.map((row) => nodes.has(row) ? dress(finish(nodes.get(row), row), attribute, hidden) : waiting(row));
    list.setAttribute("aria-busy", "true");
    list.replaceChildren(...places);
    await Promise.all(rows.map(async (row, place) => {
      let built;
      try { built = dress(finish(await node(row), row), attribute, hidden); } catch (error) { built = waiting(row, error.message); }
      if (mine === turn && places[place] !== built) places[place].replaceWith(built);
    }));
    if (mine !== turn) return;
    list.setAttribute("aria-busy", "false");
    const next = shown.slice((page + 1) * size, (page + 2) * size).map((row) => Math.floor(row / index.chunk));
    for (const number of new Set(next)) chunk(number).catch(() => {});
  }

  // The state of the form stands in the address, so that a view can be kept and sent.

  const fields = () => [...form.elements].filter((field) => field.name && field.name !== "method");

  function keep() {
    const state = new URLSearchParams();
    for (const field of fields()) if (field.value !== field.dataset.first) state.set(field.name, field.value);
    if (page) state.set("page", page + 1);
    const said = state.toString();
    try { history.replaceState(null, "", said ? "#gallery?" + said : location.hash.startsWith("#gallery?") ? "#gallery" : location.hash || "#"); } catch { /* not from this address */ }
  }

  function restore() {
    for (const field of fields()) field.dataset.first = field.value;
    if (!location.hash.startsWith("#gallery?")) return 0;
    const state = new URLSearchParams(location.hash.slice("#gallery?".length));
    for (const field of fields()) {
      const was = field.value;
      if (state.has(field.name)) field.value = state.get(field.name);
      if (field.tagName === "SELECT" && field.selectedIndex < 0) field.value = was;
    }
    document.getElementById("gallery").scrollIntoView();
    return Math.max(0, (Number(state.get("page")) || 1) - 1);
  }

  function update(at) {
    const hidden = off();
    if (!index) {
      for (const node of nodes.values()) dress(node, value("attribute"), hidden);
      return;
    }
    shown = found();
    page = Math.min(Number.isInteger(at) ? at : 0, Math.max(0, Math.ceil(shown.length / index.page) - 1));
    keep();
    render();
  }

  form.addEventListener("input", (event) => event.target.name === "method" ? (index ? render() : update()) : update());
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(update));
  for (const button of document.querySelectorAll(".pager button")) {
    button.addEventListener("click", () => {
      update(page + Number(button.dataset.go));
      document.getElementById("gallery-head").scrollIntoView();
      if (button.disabled) document.getElementById("gallery-head").focus({ preventScroll: true });
    });
  }
  const start = restore();
  update();
  fetchScript("index.js").then(() => update(start), () => {
    count.textContent = "The folder gallery/ is not beside this page: only the first " + nodes.size + " rows are shown.";
    for (const field of fields()) field.disabled = field.name !== "attribute";
  });
})();
