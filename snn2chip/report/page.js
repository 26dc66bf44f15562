"use strict";
// What a pointer at the network says; spikes of the chosen sample and layer, zoomed; membranes of some neurons.
(() => {
  const byId = (id) => document.getElementById(id);
  const details = byId("details");
  for (const block of document.querySelectorAll(".block"))
    for (const event of ["mouseenter", "focus", "click"])
      block.addEventListener(event, () => { details.textContent = block.dataset.details; });
  if (!byId("data")) return;

  const samples = JSON.parse(byId("data").textContent).samples;
  const canvas = byId("raster"), pen = canvas.getContext("2d");
  let layer, bits, from, to; // the neurons in sight are from <= n < to
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
  const unpacked = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  const spiked = (which, place) => (bits[which][place >> 3] >> (7 - (place & 7))) & 1;

  function choose() {
    const sample = samples[byId("sample").value];
    layer = sample.layers[byId("layer").value];
    bits = layer.spikes.map(unpacked);
    [from, to] = [0, layer.shown];
    byId("picture").src = sample.picture;
    traces();
    draw();
  }

  function draw() {
    const scale = devicePixelRatio || 1, width = canvas.clientWidth * scale;
    const row = Math.max(4, Math.min(28, 320 / layer.steps)) * scale;
    canvas.width = width;
    canvas.height = row * layer.steps;
    canvas.style.height = `${canvas.height / scale}px`;
    const colours = [colour("--grey"), colour("--blue"), colour("--red")];
    const columns = Math.min(Math.ceil(width / 2), to - from), each = (to - from) / columns;
    for (let column = 0; column < columns; column++) {
      const start = from + Math.floor(column * each), stop = Math.max(start + 1, from + Math.floor((column + 1) * each));
      const left = column * width / columns, gap = width / columns > 5 ? 1 : 0;
      for (let step = 0; step < layer.steps; step++) {
        const found = [0, 0, 0];
        for (let neuron = start; neuron < stop; neuron++) {
          const place = neuron * layer.steps + step, a = spiked(0, place), b = spiked(1, place);
          if (a && b) found[0]++; else if (a) found[1]++; else if (b) found[2]++;
        }
        const kind = found[1] + found[2] ? (found[1] >= found[2] ? 1 : 2) : 0;
        if (!found[kind]) continue;
        pen.fillStyle = colours[kind];
        pen.globalAlpha = kind ? 1 : Math.max(0.25, found[0] / (stop - start));
        pen.fillRect(left, step * row + 1, Math.max(1, width / columns - gap), row - 2);
      }
    }
    pen.globalAlpha = 1;
    const some = layer.neurons ? `, ${layer.shown.toLocaleString("en")} drawn at random` : "";
    byId("where").textContent = `neurons ${name(from)} to ${name(to - 1)} of ${layer.size.toLocaleString("en")}${some}; ` +
      `${layer.steps} steps; ${layer.differ.toLocaleString("en")} spikes of the layer differ`;
  }
  const name = (place) => (layer.neurons ? layer.neurons[place] : place).toLocaleString("en");

  function zoom(factor, at = 0.5) {
    const size = Math.max(8, Math.min(layer.shown, Math.round((to - from) * factor)));
    move(Math.round(from + at * (to - from - size)), size);
  }
  function move(start, size = to - from) {
    size = Math.min(size, layer.shown);
    from = Math.max(0, Math.min(layer.shown - size, start));
    to = from + size;
    draw();
  }

  function traces() {
    const svg = (tag, attributes, parent, text = "") => {
      const made = document.createElementNS(document.querySelector("svg").namespaceURI, tag);
      for (const key in attributes) made.setAttribute(key, attributes[key]);
      made.textContent = text;
      parent.append(made);
      return made;
    };
    const place = byId("traces");
    place.replaceChildren();
    for (const trace of layer.traces) {
      const figure = document.createElement("figure"), caption = document.createElement("figcaption");
      figure.className = "chart";
      caption.textContent = `neuron ${trace.neuron.toLocaleString("en")}: membrane in thresholds; dots are spikes`;
      figure.append(caption);
      place.append(figure);
      const frame = svg("svg", { viewBox: "0 0 300 150", role: "img" }, figure);
      const pair = [trace.float, trace.integers], low = Math.min(-0.2, ...pair[0], ...pair[1]), high = 1.25;
      const x = (step) => 12 + 276 * (step + 0.5) / layer.steps, y = (value) => 140 - 130 * (value - low) / (high - low);
      for (const [value, kind] of [[0, "grid"], [1, "mark"]]) svg("path", { class: kind, d: `M0,${y(value)}H300` }, frame);
      pair.forEach((values, which) => {
        const group = svg("g", { class: which ? "only-integers" : "only-float" }, frame);
        svg("title", {}, group, which ? "integers" : "float");
        svg("path", { class: "line", d: "M" + values.map((value, step) => `${x(step)},${y(value)}`).join("L") }, group);
        trace.spikes[which].forEach((fired, step) => {
          if (fired) svg("circle", { cx: x(step), cy: which ? 16 : 8, r: 3 }, group);
        });
      });
    }
  }

  let dragged = null;
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.3 : 1 / 1.3, event.offsetX / canvas.clientWidth);
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => { dragged = [event.clientX, from]; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    if (dragged) move(dragged[1] - Math.round((event.clientX - dragged[0]) * (to - from) / canvas.clientWidth));
  });
  canvas.addEventListener("pointerup", () => { dragged = null; });
  canvas.addEventListener("keydown", (event) => {
    const quarter = Math.ceil((to - from) / 4);
    if (event.key === "+") zoom(0.5); else if (event.key === "-") zoom(2);
    else if (event.key === "ArrowRight") move(from + quarter); else if (event.key === "ArrowLeft") move(from - quarter);
  });
  byId("in").addEventListener("click", () => zoom(0.5));
  byId("out").addEventListener("click", () => zoom(2));
  byId("all").addEventListener("click", () => zoom(Infinity));
  byId("sample").addEventListener("change", choose);
  byId("layer").addEventListener("change", choose);
  addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  choose();
})();
