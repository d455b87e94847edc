"use strict";
// What the report does in a browser: pictures, the theme, the confusion matrix, the map with its search and lasso, the live view.
(() => {
  const $ = (query, inside = document) => inside.querySelector(query);
  const $$ = (query, inside = document) => [...inside.querySelectorAll(query)];
  const images = JSON.parse($("#images")?.textContent || "[]");   // [name, part, class, address of the picture]

  const picture = (number) => {
    const image = document.createElement("img");
    const [name, , label, address] = images[number];
    image.onload = () => { if (image.naturalWidth < 48) image.classList.add("small"); };
    image.src = address;
    image.alt = label === null ? name : `${name}, ${label}`;
    return image;
  };
  for (const place of $$("[data-image]")) place.prepend(picture(place.dataset.image));

  // Models of Bokeh by their names, from all its documents.
  const models = (test) => (window.Bokeh?.documents || []).flatMap((one) => [...one._all_models.values()].filter(test));
  const named = (name) => models((model) => model.name === name)[0];

  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const theme = (printing = false) => {
    const chosen = document.documentElement.dataset.theme;
    const dark = !printing && (chosen ? chosen === "dark" : system.matches);
    const ink = dark ? "#c9d0d9" : "#3d444d", line = dark ? "#353b44" : "#d9dde3";
    for (const model of models(() => true)) {
      if (model.type === "Figure") Object.assign(model, {background_fill_color: null, border_fill_color: null, border_line_color: null, outline_line_color: line});
      if (model.type.endsWith("Axis")) Object.assign(model, {axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: line,
        major_tick_line_color: line, minor_tick_line_color: null, axis_label_text_font_style: "normal"});
      if (model.type === "Grid") model.grid_line_color = line;
    }
  };
  system.addEventListener("change", () => theme());
  window.addEventListener("beforeprint", () => theme(true));
  window.addEventListener("afterprint", () => theme());
  $("#theme")?.addEventListener("click", () => {
    const root = document.documentElement;
    root.dataset.theme = (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark" ? "light" : "dark";
    theme();
  });

  // Confusion: the images behind a cell.
  const cells = JSON.parse($("#cells")?.textContent || "{}");
  for (const button of $$("[data-cell]")) button.addEventListener("click", () => {
    for (const other of $$("[data-cell]")) other.setAttribute("aria-pressed", other === button);
    const [title, shown, count] = cells[button.dataset.cell];
    const place = $("#cell");
    place.replaceChildren();
    const heading = place.appendChild(document.createElement("h3"));
    heading.textContent = title + (shown.length < count ? `: ${shown.length} of ${count} images` : "");
    const list = place.appendChild(document.createElement("ul"));
    list.className = "pictures";
    for (const number of shown) {
      const item = list.appendChild(document.createElement("li"));
      item.append(picture(number), images[number][0]);
    }
    place.scrollIntoView({block: "nearest"});
  });

  // The map: under the pointer, by class, by search and by lasso.
  const points = JSON.parse($("#points")?.textContent || "[]");   // point -> number of its image
  const tip = $("#tip"), found = $("#found"), status = $("#status");
  const hover = (indices, geometry) => {
    if (!tip) return;
    tip.style.display = indices.length ? "block" : "none";
    if (!indices.length) return;
    const [name, part, label] = images[points[indices[0]]];
    tip.replaceChildren(picture(points[indices[0]]), [label, name, part].filter(Boolean).join(" · "));
    const box = tip.parentElement.getBoundingClientRect();
    tip.style.left = `${Math.min(geometry.sx + 14, box.width - 140)}px`;
    tip.style.top = `${geometry.sy + 44}px`;
  };
  const names = (indices) => indices.map((index) => images[points[index]][0]);
  const list = (indices, what) => {
    found.style.display = indices.length ? "block" : "none";
    status.textContent = what;
    const rows = found.firstElementChild;
    rows.replaceChildren();
    for (const index of indices.slice(0, 300)) {
      const item = rows.appendChild(document.createElement("li"));
      const [name, , label] = images[points[index]];
      item.append(picture(points[index]), label === null ? name : `${name} (${label})`);
    }
    if (indices.length > 300) rows.appendChild(document.createElement("li")).textContent = `and ${indices.length - 300} more, which “Save the list” has`;
    for (const button of [$("#save"), $("#clear")]) button.disabled = !indices.length;
  };
  const select = (indices, what) => {
    const source = named("map");
    if (!source) return;
    selecting = true;
    source.selected.indices = indices;
    selecting = false;
    list(indices, what);
  };
  let selecting = false;
  const counted = (count) => `${count.toLocaleString()} image${count === 1 ? "" : "s"}`;
  const unpress = () => { for (const button of $$(".classes button")) button.setAttribute("aria-pressed", "false"); };
  $("#search")?.addEventListener("input", (event) => {
    unpress();
    const word = event.target.value.trim().toLowerCase();
    const hits = word ? points.flatMap((image, index) => images[image][0].toLowerCase().includes(word) ? [index] : []) : [];
    select(hits, word ? `${counted(hits.length)} with “${event.target.value.trim()}” in the path` : "");
  });
  for (const button of $$(".classes button")) button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    unpress();
    button.setAttribute("aria-pressed", on);
    const hits = on ? points.flatMap((image, index) => images[image][2] === button.dataset.class ? [index] : []) : [];
    select(hits, on ? `${counted(hits.length)} of ${button.dataset.class}` : "");
  });
  $("#clear")?.addEventListener("click", () => { unpress(); $("#search").value = ""; select([], ""); });
  $("#save")?.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([names(named("map").selected.indices).join("\n") + "\n"], {type: "text/plain"}));
    link.download = "images.txt";
    link.click();
    URL.revokeObjectURL(link.href);
  });

  // The live view: new figures are put into the charts; a page of another shape is loaded anew.
  const follow = async () => {
    const reply = await fetch("live.json").catch(() => null);
    if (reply === null) { $("#state").textContent = "the command that serves this page has ended"; return; }
    window.setTimeout(follow, 3000);
    if (!reply.ok) { $("#state").textContent = "a file of the run cannot be read; looking again"; return; }
    const answer = await reply.json().catch(() => null);
    if (answer === null) return;
    if (answer.shape !== document.body.dataset.shape) { location.reload(); return; }
    $("#state").textContent = answer.state;
    for (const [name, data] of Object.entries(answer.curves)) { const source = named(name); if (source) source.data = data; }
  };

  window.report = {hover};
  const ready = () => {
    theme();
    document.body.dataset.ready = "yes";
    const source = named("map");
    source?.selected.change.connect(() => {
      if (selecting) return;
      const indices = [...source.selected.indices];
      unpress();
      list(indices, indices.length ? `${counted(indices.length)} selected` : "");
    });
    if (document.body.dataset.live) follow();
  };
  // Bokeh draws when the page is there; its documents are counted before and after.
  const expected = Number(document.body.dataset.drawings);
  const wait = () => ((window.Bokeh?.documents || []).length >= expected ? ready() : window.setTimeout(wait, 30));
  wait();
})();
