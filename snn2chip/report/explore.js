"use strict";
// Runs networks in WebAssembly and shows them. All text goes into the page as text, never as markup.
// `explorer` is for tests: what was run, and what is shown.

const $ = (id) => document.getElementById(id);
const count = (number) => Number(number).toLocaleString("en");
const VOLTAGE_MAX = 2 ** 23 - 1;
const SPOT = 3; // pixels a value where one in its middle may be marked

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function drawing(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

// ------------------------------------------------------------------------------------------------- one network

// A network in an engine of its own, and the spikes and voltages of the sample that it ran last.
class Network {
  static async open(module, data, page) {
    const network = new Network();
    const refuse = () => { throw new Error("the engine stopped"); };
    const imports = {};
    for (const { module: from, name } of WebAssembly.Module.imports(module)) (imports[from] ??= {})[name] = refuse;
    network.engine = (await WebAssembly.instantiate(module, imports)).exports;
    network.engine._initialize();
    Object.assign(network, { name: data.name, layers: data.layers, center: data.center, range: data.range });
    Object.assign(network, { membrane: data.membrane, steps: page.steps });
    const constants = new Int32Array(await unpacked(data.constants));
    let end = 0, kept = 0;
    const next = (size) => constants.subarray(end, (end += size));
    for (const layer of network.layers) {
      layer.size = layer.shape[0] * layer.shape[1] * layer.shape[2];
      layer.first = kept;
      kept += layer.size * network.steps;
      layer.bias = next(layer.size);
      if (layer.leak_shift === null) continue;
      for (const table of ["leak", "lift", "over"]) layer[table] = next(network.steps * layer.shape[0]);
    }
    const image = new Uint8Array(await unpacked(data.image));
    const memory = network.room(image.length);
    network.bytes(memory, image.length).set(image);
    network.handle = network.engine.snn2chip_browser_open(memory, network.layers.length, data.membrane, data.chunk);
    if (!network.handle) throw new Error("not enough memory");
    network.port = network.room(8 * page.samples.steps * product(page.shape));
    network.fired = network.room(kept);
    network.volts = network.room(4 * kept);
    network.scores = network.room(8 * network.layers.at(-1).size);
    return network;
  }

  room(size) {
    const at = this.engine.malloc(size);
    if (!at) throw new Error("not enough memory");
    return at;
  }

  bytes(at, length) { return new Uint8Array(this.engine.memory.buffer, at, length); }

  // `raw` (steps, C, H, W), before the centre is taken off; one step stands for all.
  run(raw, steps) {
    const size = raw.length / steps, plane = size / this.center.length;
    const port = new BigInt64Array(this.engine.memory.buffer, this.port, raw.length);
    this.input = Int32Array.from(raw, (value, i) => value - this.center[Math.floor((i % size) / plane)]);
    this.input.forEach((value, i) => { port[i] = BigInt(value); });
    const answer = this.engine.snn2chip_browser_run(
      this.handle, this.port, this.steps, steps > 1 ? size : 0, ...this.range, this.fired, this.volts, this.scores);
    if (answer) throw new Error(answer === 2 ? "the input is out of range" : "not enough memory");
    this.inputSize = size;
    this.inputSteps = steps;
  }

  // Of all steps, (T, size).
  spikes(layer) { return this.bytes(this.fired + layer.first, layer.size * this.steps); }

  voltage(layer) {
    return new Int32Array(this.engine.memory.buffer, this.volts + 4 * layer.first, layer.size * this.steps);
  }

  // What a layer reads in a step.
  source(index, step) {
    if (index) {
      const before = this.layers[index - 1];
      return this.spikes(before).subarray(step * before.size, (step + 1) * before.size);
    }
    const at = this.inputSteps > 1 ? step * this.inputSize : 0;
    return this.input.subarray(at, at + this.inputSize);
  }

  // The synapses of a neuron: its weights (in_channels, kh, kw), and {weight, place, channel, y, x} of those not 0.
  synapses(index, neuron) {
    const layer = this.layers[index], [channels, high, wide] = layer.input, [kh, kw] = layer.kernel;
    const plane = layer.shape[1] * layer.shape[2], channel = Math.floor(neuron / plane);
    const top = Math.floor((neuron % plane) / layer.shape[2]) * layer.stride[0] - layer.padding[0];
    const left = (neuron % layer.shape[2]) * layer.stride[1] - layer.padding[1];
    const size = channels * kh * kw, at = this.room(4 * size);
    this.engine.snn2chip_browser_weights(this.handle, index, channel, at);
    const weights = new Int32Array(this.engine.memory.buffer, at, size).slice();
    this.engine.free(at);
    const found = [];
    weights.forEach((weight, i) => {
      const y = top + (Math.floor(i / kw) % kh) * layer.dilation[0], x = left + (i % kw) * layer.dilation[1];
      const from = Math.floor(i / (kh * kw));
      if (!weight || y < 0 || y >= high || x < 0 || x >= wide) return;
      found.push({ weight, i, channel: from, y, x, place: (from * high + y) * wide + x });
    });
    return { weights, found };
  }

  // A neuron's way through all steps: what the engine kept (voltage, fired), and how it comes about, in the words of
  // docs/arithmetic.md: sums of weights, u, what v keeps, and v before the reset of a spike.
  history(index, neuron, synapses) {
    const layer = this.layers[index], channel = Math.floor(neuron / (layer.shape[1] * layer.shape[2]));
    const spikes = this.spikes(layer), voltage = this.voltage(layer);
    const bias = 64 * layer.bias[neuron], varying = layer.leak_shift !== null;
    let u = 0, v = 0;
    return Array.from({ length: this.steps }, (_, step) => {
      const at = step * layer.size + neuron, row = step * layer.shape[0] + channel, source = this.source(index, step);
      const sum = synapses.found.reduce((total, synapse) => total + synapse.weight * source[synapse.place], 0);
      u = (Math.trunc((u * layer.current_keep) / 4096) + 64 * sum) | 0;
      if (u > 2 ** 23) u -= 2 ** 24;
      else if (u <= -(2 ** 23)) u += 2 ** 24;
      const keep = varying ? layer.leak[row] : layer.keep, one = varying ? 2 ** layer.leak_shift : 4096;
      const lift = varying ? layer.lift[row] : 0, threshold = varying ? layer.over[row] : layer.threshold;
      const kept = Math.trunc((v * keep) / one);
      let before = kept + u + bias + lift;
      if (!varying) before |= 0;
      before = Math.min(Math.max(before, -VOLTAGE_MAX), VOLTAGE_MAX);
      const fired = spikes[at], was = v;
      v = voltage[at];
      const agrees = (before > threshold ? 1 : 0) === fired && v === (fired ? 0 : before);
      return { step, sum, u, keep, one, was, kept, bias, lift, threshold, before, fired, voltage: v, agrees };
    });
  }

  // Scores after a step: membranes of the last layer, or its spikes so far.
  scoresAt(step) {
    const last = this.layers.at(-1), volts = this.voltage(last), spikes = this.spikes(last);
    return Array.from({ length: last.size }, (_, i) => {
      if (this.membrane) return volts[step * last.size + i];
      let total = 0;
      for (let t = 0; t <= step; ++t) total += spikes[t * last.size + i];
      return total;
    });
  }
}

const product = (sides) => sides.reduce((total, side) => total * side, 1);

// ------------------------------------------------------------------------------------------------------ pictures

// The page's own, as [r, g, b]; `colours.found` are the last ones.
function colours() {
  const style = getComputedStyle(document.documentElement);
  const back = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const found = {};
  for (const name of ["back", "ink", "line", "accent", "blue", "red", "grey", "card"]) {
    back.fillStyle = style.getPropertyValue(`--${name}`).trim();
    back.fillRect(0, 0, 1, 1);
    found[name] = [...back.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  }
  return (colours.found = found);
}

const mixed = (a, b, share) => a.map((value, i) => value + (b[i] - value) * Math.min(1, Math.max(0, share)));

// How channels of (H, W) lie beside each other: columns of maps, and a line between them. Three wide to two high, or as
// near to it as leaves the fewest places free.
function tiling([channels, high, wide]) {
  const gap = high * wide > 1 && channels > 1 ? 1 : 0;
  const wanted = Math.max(1, Math.min(channels, Math.sqrt((1.5 * channels * high) / wide)));
  const cost = (columns) => columns * Math.ceil(channels / columns) - channels + Math.abs(columns - wanted) / channels;
  let across = Math.round(wanted);
  for (let columns = Math.ceil(wanted / 1.5); columns <= Math.min(channels, 1.5 * wanted); ++columns)
    if (cost(columns) < cost(across)) across = columns;
  const down = Math.ceil(channels / across);
  return { gap, across, width: across * (wide + gap) - gap, height: down * (high + gap) - gap };
}

// Paint the first `size` values of maps; `colour(i)` of value i gives [r, g, b]. `scale` pixels a value, of which `spot(i)`
// colours the middle one.
function paint(canvas, shape, colour, line, { size = product(shape), spot = null, scale = 1 } = {}) {
  const { gap, across, width, height } = tiling(shape), [channels, high, wide] = shape;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  const put = (x, y, [r, g, b]) => image.data.set([r, g, b, 255], 4 * (y * canvas.width + x));
  for (let y = 0; y < canvas.height; ++y) for (let x = 0; x < canvas.width; ++x) put(x, y, line);
  const free = colours.found.card; // where there is no neuron
  for (let channel = 0; channel < across * Math.ceil(channels / across); ++channel) {
    const left = (channel % across) * (wide + gap), top = Math.floor(channel / across) * (high + gap);
    for (let i = 0; i < high * wide; ++i) {
      const at = channel * high * wide + i;
      const x = (left + (i % wide)) * scale, y = (top + Math.floor(i / wide)) * scale;
      const fill = at < size ? colour(at) : free, middle = spot && spot(at);
      for (let b = 0; b < scale; ++b) for (let a = 0; a < scale; ++a) put(x + a, y + b, fill);
      if (middle) put(x + (scale >> 1), y + (scale >> 1), middle);
    }
  }
  context.putImageData(image, 0, 0);
}

// Which value lies under a place of the picture, or null for a line.
function valueAt(shape, x, y) {
  const { gap, across } = tiling(shape), [channels, high, wide] = shape;
  const column = Math.floor(x / (wide + gap)), row = Math.floor(y / (high + gap));
  const channel = row * across + column, left = x - column * (wide + gap), top = y - row * (high + gap);
  if (channel >= channels || left >= wide || top >= high) return null;
  return (channel * high + top) * wide + left;
}

// ---------------------------------------------------------------------------------------------------------- the page

class Explorer {
  constructor(page, networks, raw) {
    Object.assign(this, { page, networks, raw, step: 0, layer: 0, neuron: 0, timer: null });
    this.planes = [];
  }

  get shown() { return this.networks[0].layers[this.layer]; }

  start() {
    const { page } = this;
    page.samples.names.forEach((name, i) => $("sample").append(element("option", { value: i }, name)));
    $("step").max = page.steps;
    $("sample").onchange = () => this.choose(Number($("sample").value));
    $("first").onclick = () => this.go(0);
    $("back").onclick = () => this.go(this.step - 1);
    $("forward").onclick = () => this.go(this.step + 1);
    $("play").onclick = () => this.play(this.timer === null);
    $("step").oninput = () => this.go(Number($("step").value) - 1);
    $("view").onchange = () => this.draw();
    for (const id of ["channel", "row", "column"]) $(id).onchange = () => this.byNumber();
    $("go").onclick = () => this.look(this.difference);
    matchMedia("(prefers-color-scheme: dark)").onchange = () => this.draw();
    this.cards = this.networks[0].layers.map((layer, index) => this.card(layer, index));
    $("layers").append(...this.cards.map(({ button }) => button));
    $("layers").classList.toggle("two", this.networks.length > 1);
    $("main").hidden = false;
    this.select(0);
    this.choose(0);
  }

  card(layer, index) {
    const [named = layer.kind, ...more] = layer.from.map(([name]) => name); // relays and copies go with a layer
    const minis = this.networks.map(() => element("canvas", { "aria-hidden": "true" }));
    const said = this.networks.map(() => element("small"));
    const button = element(
      "button", { "aria-pressed": "false" }, element("b", {}, `${layer.name}: ${named}${more.length ? ` and ${more.length} more` : ""}`),
      element("small", {}, `${layer.kind}, ${sides(layer.shape)}`),
      element("span", { class: "minis" }, ...minis.map((mini, i) => element("span", {}, mini, said[i]))));
    button.onclick = () => { this.select(index); this.draw(); };
    return { button, minis, said };
  }

  choose(sample) {
    const { page } = this, steps = page.samples.steps, size = steps * product(page.shape);
    this.sample = sample;
    $("sample").value = sample;
    for (const network of this.networks) network.run(this.raw.subarray(sample * size, (sample + 1) * size), steps);
    this.compare();
    this.histories();
    this.draw();
  }

  go(step) {
    this.step = Math.max(0, Math.min(this.page.steps - 1, step));
    if (this.step === this.page.steps - 1) this.play(false);
    this.draw();
  }

  play(on) {
    clearInterval(this.timer);
    this.timer = null;
    if (on) {
      if (this.step === this.page.steps - 1) this.step = 0;
      this.timer = setInterval(() => this.go(this.step + 1), 700);
      this.draw();
    }
    $("play").textContent = on ? "Pause" : "Play";
    $("play").setAttribute("aria-pressed", on);
  }

  // The first step in which two networks differ, in the first layer that does so then: nothing before it differs.
  compare() {
    this.difference = null;
    if (this.networks.length < 2) return;
    const [one, two] = this.networks;
    for (let step = 0; step < this.page.steps && !this.difference; ++step)
      for (let index = 0; index < one.layers.length && !this.difference; ++index) {
        const size = one.layers[index].size, a = one.spikes(one.layers[index]), b = two.spikes(two.layers[index]);
        for (let i = 0; i < size; ++i)
          if (a[step * size + i] !== b[step * size + i]) { this.difference = { step, layer: index, neuron: i }; break; }
      }
    const found = this.difference;
    $("difference").hidden = false;
    $("go").hidden = !found;
    $("difference-said").textContent = found
      ? `Step ${found.step + 1}, layer ${this.nameOf(found.layer, found.neuron)}: it fires only in ` +
        `${one.spikes(one.layers[found.layer])[found.step * one.layers[found.layer].size + found.neuron] ? one.name : two.name}.`
      : "None: the two networks are equal in every spike of this sample.";
  }

  nameOf(index, neuron) {
    const layer = this.networks[0].layers[index], [channel, row, column] = placeOf(layer.shape, neuron);
    const from = layer.from.find(([, start, stop]) => channel >= start && channel < stop);
    const spot = layer.shape[1] * layer.shape[2] > 1 ? `channel ${channel}, row ${row}, column ${column}` : `neuron ${channel}`;
    return `${layer.name}${from ? ` (${from[0]})` : ""}, ${spot}`;
  }

  look({ step, layer, neuron }) {
    this.step = step;
    this.select(layer, neuron);
    this.draw();
    $("neuron").scrollIntoView({ block: "nearest" });
  }

  select(index, neuron = 0) {
    this.layer = index;
    this.neuron = neuron;
    this.cards.forEach(({ button }, i) => button.setAttribute("aria-pressed", i === index));
    const { shape } = this.shown;
    ["channel", "row", "column"].forEach((id, axis) => {
      $(id).max = shape[axis] - 1;
      $(id).parentElement.hidden = axis > 0 && shape[1] * shape[2] === 1;
    });
    const names = this.shown.from.map(([name]) => name).join(", ") || this.shown.kind;
    $("layer-name").textContent = `Layer ${this.shown.name}: ${names}`;
    this.planes = this.networks.map((network) => {
      const canvas = element("canvas", { tabindex: "0", role: "img" });
      canvas.onclick = (event) => {
        const box = canvas.getBoundingClientRect(), edge = canvas.clientLeft;
        const x = Math.floor(((event.clientX - box.left - edge) * canvas.width) / canvas.clientWidth);
        const y = Math.floor(((event.clientY - box.top - edge) * canvas.height) / canvas.clientHeight);
        const found = valueAt(flat(shape), Math.floor(x / SPOT), Math.floor(y / SPOT));
        if (found !== null && found < product(shape)) this.pick(found);
      };
      canvas.onkeydown = (event) => this.key(event);
      return { canvas, said: element("figcaption"), network };
    });
    $("planes").replaceChildren(...this.planes.map(({ canvas, said }) => element("figure", {}, canvas, said)));
    this.histories();
  }

  pick(neuron) {
    this.neuron = neuron;
    this.histories();
    this.draw();
  }

  byNumber() {
    const { shape } = this.shown;
    const [channel, row, column] = ["channel", "row", "column"].map((id, axis) =>
      Math.max(0, Math.min(shape[axis] - 1, Math.trunc(Number($(id).value)) || 0)));
    this.pick((channel * shape[1] + row) * shape[2] + column);
  }

  key(event) {
    const { shape, size } = this.shown, dense = shape[1] * shape[2] === 1, across = dense ? flat(shape)[2] : shape[2];
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across };
    moves.PageDown = shape[1] * shape[2];
    moves.PageUp = -moves.PageDown;
    const next = this.neuron + moves[event.key];
    if (!(event.key in moves)) return;
    event.preventDefault();
    if (next >= 0 && next < size) this.pick(next);
  }

  // What is shown of the neuron depends on the sample and the neuron; which step of it is marked, on the step.
  histories() {
    if (this.sample === undefined) return;
    this.told = this.networks.map((network) => {
      const synapses = network.synapses(this.layer, this.neuron);
      return { network, synapses, history: network.history(this.layer, this.neuron, synapses) };
    });
  }

  draw() {
    this.colours = colours();
    const { step, page } = this;
    $("step").value = step + 1;
    $("step-said").textContent = `${step + 1} of ${page.steps}`;
    $("first").disabled = $("back").disabled = step === 0;
    $("forward").disabled = step === page.steps - 1;
    this.drawInput();
    this.drawScores();
    this.drawCards();
    this.drawLayer();
    this.drawNeuron();
  }

  drawInput() {
    const { page, step } = this, shape = flat([...page.shape, 1, 1].slice(0, 3)), size = product(page.shape);
    const at = (this.sample * page.samples.steps + (page.samples.steps > 1 ? step : 0)) * size;
    const values = this.raw.subarray(at, at + size), [channels, high, wide] = shape, plane = high * wide;
    const { low, high: top } = page, level = (value) => (value - low) / Math.max(1, top - low), { back, blue, red } = this.colours;
    const grey = (value) => Array(3).fill(255 * level(value));
    let said = `${sides(page.shape)}, ${low} to ${top}`;
    if (channels === 3) paint($("input"), [1, high, wide], (i) => [0, 1, 2].map((c) => 255 * level(values[c * plane + i])), back);
    else if (channels === 2) {
      paint($("input"), [1, high, wide], (i) => mixed(mixed(back, blue, level(values[i])), red, level(values[plane + i])), back);
      said += "; channel 0 is blue, channel 1 red";
    } else paint($("input"), shape, (i) => grey(values[i]), back, { size });
    enlarge($("input"), 260, 260, 32);
    const truth = page.samples.labels && page.classes[page.samples.labels[this.sample]];
    $("input").setAttribute("aria-label", `${page.samples.names[this.sample]}, step ${step + 1}`);
    $("input-said").textContent = `${truth ? `${truth}: ` : ""}${said}`;
  }

  drawScores() {
    const { page, step, networks } = this, all = networks.map((network) => network.scoresAt(step));
    const order = all[0].map((_, i) => i);
    const best = all.map((scores) => scores.indexOf(Math.max(...scores)));
    if (order.length > 12) order.sort((a, b) => all[0][b] - all[0][a] || a - b).splice(12);
    const low = Math.min(0, ...all.flat()), high = Math.max(1, ...all.flat());
    const named = (i) => page.classes[i] ?? String(i);
    const rows = order.map((i) => {
      const cells = all.flatMap((scores, n) => {
        const bar = element("span", { class: "bar" });
        bar.style.width = `${(100 * (scores[i] - low)) / (high - low)}%`;
        return [element("td", {}, count(scores[i])), ...(n === all.length - 1 ? [element("td", {}, bar)] : [])];
      });
      return element("tr", { class: i === best.at(-1) ? "best" : "" }, element("td", { class: "words" }, named(i)), ...cells);
    });
    const head = networks.length > 1 ? [element("tr", {}, ...["class", ...networks.map(({ name }) => name), ""].map((name) => element("th", {}, name)))] : [];
    $("scores").replaceChildren(element("table", {}, ...head, ...rows));
    const last = step === page.steps - 1, truth = page.samples.labels && page.samples.labels[this.sample];
    const said = networks.map(({ name }, n) => `${networks.length > 1 ? `${name}: ` : ""}${named(best[n])}`).join("; ");
    $("verdict").textContent = `${last ? "Decision" : "So far"}: ${said}`;
    $("verdict").className = !last || truth === null ? "" : best.every((found) => found === truth) ? "ok" : "bad";
  }

  // The colour of each neuron's spike in this step; of two networks red where only this one fires, grey where only the
  // other does.
  fires(network, index) {
    const { size } = network.layers[index], from = this.step * size, { back, accent, red, grey } = this.colours;
    const mine = network.spikes(network.layers[index]);
    const other = this.networks.find((each) => each !== network);
    if (!other) return (i) => (mine[from + i] ? accent : back);
    const theirs = other.spikes(other.layers[index]);
    return (i) => {
      const here = mine[from + i], there = theirs[from + i];
      return here ? (there ? accent : red) : there ? mixed(back, grey, 0.6) : back;
    };
  }

  drawCards() {
    this.cards.forEach(({ minis, said }, index) => {
      this.networks.forEach((network, n) => {
        const layer = network.layers[index], from = this.step * layer.size;
        paint(minis[n], flat(layer.shape), this.fires(network, index), this.colours.line, { size: layer.size });
        let spikes = 0;
        for (const fired of network.spikes(layer).subarray(from, from + layer.size)) spikes += fired;
        said[n].textContent = `${count(spikes)} of ${count(layer.size)} fire`;
      });
    });
  }

  drawLayer() {
    const { step, neuron } = this, view = $("view").value, { back, line, ink, accent, blue, red } = this.colours;
    for (const { canvas, said, network } of this.planes) {
      const layer = network.layers[this.layer], from = step * layer.size;
      const spikes = network.spikes(layer), volts = network.voltage(layer).subarray(from, from + layer.size);
      let colour = this.fires(network, this.layer), words = "spikes of this step";
      if (view === "membrane") {
        const most = volts.reduce((found, value) => Math.max(found, Math.abs(value)), 1);
        colour = (i) => mixed(back, volts[i] < 0 ? blue : red, Math.abs(volts[i]) / most);
        words = `membranes after this step, blue −${count(most)} to red ${count(most)}`;
      } else if (view === "sum") {
        const total = (i) => { let sum = 0; for (let t = 0; t <= step; ++t) sum += spikes[t * layer.size + i]; return sum; };
        colour = (i) => mixed(back, accent, total(i) / (step + 1));
        words = `spikes in steps 1 to ${step + 1}`;
      }
      const shape = flat(layer.shape), spot = (i) => (i === neuron ? ink : null);
      paint(canvas, shape, colour, line, { size: layer.size, spot, scale: SPOT });
      enlarge(canvas, 960, 640, 8);
      said.textContent = `${this.networks.length > 1 ? `${network.name}: ` : ""}${words}`;
      canvas.setAttribute("aria-label", `${said.textContent}, layer ${layer.name}`);
    }
    placeOf(this.shown.shape, neuron).forEach((value, axis) => { $(["channel", "row", "column"][axis]).value = value; });
  }

  drawNeuron() {
    $("neuron-name").textContent = `Neuron ${this.nameOf(this.layer, this.neuron)}`;
    $("neurons").replaceChildren(...this.told.flatMap((told) => this.neuronOf(told)));
  }

  neuronOf({ network, synapses, history }) {
    const layer = network.layers[this.layer], now = history[this.step], source = network.source(this.layer, this.step);
    const parts = this.networks.length > 1 ? [element("h3", {}, network.name)] : [];
    parts.push(equation(layer, now), chart(history, this.step), table(layer, history, this.step));
    if (history.some(({ agrees }) => !agrees)) parts.push(element("p", { class: "bad" }, "The engine says otherwise: please report it."));
    const active = synapses.found.filter(({ place }) => source[place]).map((each) => ({ ...each, value: source[each.place] }));
    active.sort((a, b) => Math.abs(b.weight * b.value) - Math.abs(a.weight * a.value) || a.i - b.i);
    const most = synapses.weights.reduce((found, weight) => Math.max(found, Math.abs(weight)), 1);
    const { back, line, ink, blue, red } = this.colours, [kh, kw] = layer.kernel;
    const used = [...new Set(synapses.found.map(({ channel }) => channel))].sort((a, b) => a - b);
    const lit = new Set(active.map(({ i }) => i));
    const weights = element("canvas", { role: "img", "aria-label": `weights of ${synapses.found.length} inputs` });
    if (used.length) {
      const at = (i) => used[Math.floor(i / (kh * kw))] * kh * kw + (i % (kh * kw)), shape = flat([used.length, kh, kw]);
      const weight = (i) => synapses.weights[at(i)] ?? 0;
      paint(weights, shape, (i) => mixed(back, weight(i) < 0 ? blue : red, Math.abs(weight(i)) / most), line, { size: used.length * kh * kw, scale: SPOT, spot: (i) => (lit.has(at(i)) ? ink : null) });
      enlarge(weights, 420, 420, 5);
    }
    const after = [
      element("h3", {}, `Inputs: ${count(active.length)} of ${count(synapses.found.length)} in this step`),
      inputs(active, this.layer),
      element("h3", {}, "Weights"),
      element("p", { class: "lead" }, used.length ? `${used.length} maps of ${kh}x${kw}, blue −${most} to red ${most}; a dot is an input that is not 0 in this step` : "All are 0."),
      ...(used.length ? [weights] : []),
    ];
    return this.networks.length > 1 ? [element("div", {}, ...parts, ...after)] : [parts, after].map((each) => element("div", {}, ...each));
  }
}

// -------------------------------------------------------------------------------------------------------- its parts

// A dense layer's neurons, (F, 1, 1), as one map; others as they are.
function flat([channels, high, wide]) {
  if (high * wide > 1 || channels === 1) return [channels, high, wide];
  const across = channels <= 16 ? channels : Math.ceil(Math.sqrt(1.5 * channels));
  return [1, Math.ceil(channels / across), across];
}

const sides = (shape) => shape.filter((side, axis) => axis === 0 || product(shape.slice(1)) > 1).join("x");

function placeOf([, high, wide], neuron) {
  return [Math.floor(neuron / (high * wide)), Math.floor(neuron / wide) % high, neuron % wide];
}

// Shown as large as there is room, in whole pixels.
function enlarge(canvas, wide, high, largest) {
  const scale = Math.max(1, Math.min(largest, Math.floor(wide / canvas.width), Math.floor(high / canvas.height)));
  canvas.style.width = `${canvas.width * scale}px`;
}

function equation(layer, now) {
  const varying = layer.leak_shift !== null;
  const kept = now.keep ? `trunc(${count(now.was)} · ${now.keep}/${count(now.one)}) + ` : "";
  const drive = layer.current_keep ? `u ${count(now.u)}` : `64 · ${count(now.sum)}`;
  const rest = `${now.bias ? ` + bias ${count(now.bias)}` : ""}${varying ? ` + ${count(now.lift)}` : ""}`;
  return element(
    "p", { class: "equation" }, `v = ${kept}${drive}${rest} = ${count(now.before)} `,
    now.fired ? element("span", { class: "fired" }, `> ${count(now.threshold)}: it fires, v = 0`) : `≤ ${count(now.threshold)}: no spike`);
}

function table(layer, history, now) {
  const columns = ["step", "sum of inputs", ...(layer.current_keep ? ["u"] : []), "v before", "threshold", "spike", "v"];
  const rows = history.map((each) => {
    const values = [each.step + 1, each.sum, ...(layer.current_keep ? [each.u] : []), each.before, each.threshold];
    return element("tr", { class: each.step === now ? "now" : "", "data-voltage": each.voltage }, ...values.map((value) => element("td", {}, count(value))),
      element("td", { class: "fired" }, each.fired ? "●" : ""), element("td", {}, count(each.voltage)));
  });
  const head = element("tr", {}, ...columns.map((name) => element("th", {}, name)));
  return element("div", { class: "scroll", tabindex: "0" }, element("table", { class: "history" }, head, ...rows));
}

function inputs(active, layer) {
  const most = 10, said = (each) => `${each.channel}, ${each.y}, ${each.x}`;
  const rows = active.slice(0, most).map((each) => element("tr", {}, ...[said(each), count(each.weight), ...(layer ? [] : [count(each.value)]), count(each.weight * each.value)].map((value) => element("td", {}, value))));
  if (active.length > most) {
    const rest = active.slice(most).reduce((total, each) => total + each.weight * each.value, 0);
    rows.push(element("tr", {}, element("td", {}, `${count(active.length - most)} more`), ...(layer ? [] : [element("td")]), element("td"), element("td", {}, count(rest))));
  }
  const head = element("tr", {}, ...["channel, row, column", "weight", ...(layer ? [] : ["value"]), "adds"].map((name) => element("th", {}, name)));
  return element("div", { class: "scroll", tabindex: "0" }, element("table", {}, head, ...rows));
}

// Membrane before the reset, over the steps, with the threshold and a dot at each spike.
function chart(history, now) {
  const [width, height, left, right, top, bottom] = [560, 170, 70, 550, 10, 145];
  const values = history.flatMap(({ before, threshold }) => [before, Math.min(threshold, VOLTAGE_MAX)]);
  const low = Math.min(0, ...values), high = Math.max(low + 1, ...values);
  const x = (step) => left + ((right - left) * (step + 0.5)) / history.length, y = (v) => bottom - ((bottom - top) * (v - low)) / (high - low);
  const path = (values) => values.map((value, step) => `${step ? "L" : "M"}${x(step).toFixed(1)},${y(value).toFixed(1)}`).join("");
  const half = (right - left) / history.length / 2;
  const over = history.map(({ threshold }, step) => `M${x(step) - half},${y(Math.min(threshold, VOLTAGE_MAX))}h${2 * half}`).join("");
  const ticks = [low, high].map((v) => drawing("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, count(v)));
  const every = Math.ceil(history.length / 16);
  const steps = history.filter(({ step }) => step % every === 0).map(({ step }) => drawing("text", { x: x(step), y: bottom + 18, "text-anchor": "middle" }, String(step + 1)));
  const dots = history.map(({ before, fired, step }) => drawing("circle", { class: fired ? "spike" : "dot", cx: x(step), cy: y(before), r: fired ? 5 : 3 }));
  return drawing(
    "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "membrane before the reset, over the steps; dashed: the threshold" },
    drawing("path", { class: "at", d: `M${x(now)},${top}V${bottom}` }), drawing("path", { class: "axis", d: `M${left},${y(0)}H${right}` }),
    drawing("path", { class: "over", d: over }), drawing("path", { class: "trace", d: path(history.map(({ before }) => before)) }), ...dots, ...ticks, ...steps);
}

let explorer = null;

(async () => {
  try {
    if (!("DecompressionStream" in window)) throw new Error("this browser is too old");
    const page = JSON.parse($("data").textContent);
    const module = await WebAssembly.compile(await unpacked(page.engine));
    const networks = [];
    for (const data of page.networks) networks.push(await Network.open(module, data, page));
    const made = new Explorer(page, networks, new Int32Array(await unpacked(page.samples.values)));
    made.start();
    explorer = made;
  } catch (error) {
    $("fault").textContent = `The network cannot run here: ${error.message}.`;
  }
})();
