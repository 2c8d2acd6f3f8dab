"use strict";
// The point cloud of one image, cut live: drawn on a plain 2D canvas, far to near, which is fast enough for some
// ten thousand patches and runs everywhere. View and controls can be linked to: #proposal=1&tau=0.05&colour=group.

const element = (id) => document.getElementById(id);
const data = JSON.parse(element("data").textContent);
const ARRAYS = {
  float32: Float32Array, float64: Float64Array, uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array,
};
const unpack = ({type, data}) => new ARRAYS[type](Uint8Array.from(atob(data), (c) => c.charCodeAt(0)).buffer);

const points = unpack(data.points);
const n = points.length / 3;
const photo = unpack(data.photo);
const instances = unpack(data.instances);
const proposals = data.proposals.map((proposal) => {
  const maps = Object.fromEntries(
    ["eigenvector", "outside", "group", "confidence", "edges", "lengths"].map((key) => [key, unpack(proposal[key])]));
  return {...proposal, ...maps, tau: proposal.tau ?? Infinity};
});
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const SOURCE = css("--source"), SINK = css("--sink"), CUT = css("--cut"), KEPT = css("--kept"), INK = css("--ink");
const GROUND = [20, 24, 26], OFF = [84, 92, 98], DIMMED = 0.34;
const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const SIGNED = [[33, 102, 172], [146, 197, 222], [247, 247, 247], [244, 165, 130], [178, 24, 43]];
const tauMax = 2 * data.tau; // of the slider, whose right end stands for infinity: nothing is cut

// ---------------------------------------------------------------- the cut

/** How many of the proposal's edges, sorted by length, are shorter than tau. */
function countBelow(lengths, tau) {
  let low = 0, high = lengths.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (lengths[middle] < tau) low = middle + 1; else high = middle;
  }
  return low;
}

/** Disjoint sets over the patches; join returns whether two sets became one, areaOf how much of the group is in one. */
function disjointSets(group) {
  const parent = Uint32Array.from({length: n}, (_, i) => i), area = Uint32Array.from(group);
  const find = (i) => {
    while (parent[i] !== i) i = parent[i] = parent[parent[i]];
    return i;
  };
  const join = (i, j) => {
    const a = find(i), b = find(j);
    if (a === b) return false;
    parent[b] = a;
    area[a] += area[b];
    return true;
  };
  return {find, join, areaOf: (i) => area[find(i)]};
}

/** Component of the source among the edges shorter than tau, within the group; at infinity the whole group. */
function componentAt(proposal, tau) {
  const below = countBelow(proposal.lengths, tau), sets = disjointSets(proposal.group);
  if (tau === Infinity) proposal.group.forEach((inside, i) => { if (inside) sets.join(proposal.source, i); });
  for (let e = 0; e < below; e++) sets.join(proposal.edges[2 * e], proposal.edges[2 * e + 1]);
  const root = sets.find(proposal.source);
  const inside = Uint8Array.from({length: n}, (_, i) => proposal.group[i] && sets.find(i) === root);
  const cut = [], kept = [];
  for (let e = 0; e < proposal.lengths.length; e++) {
    const i = proposal.edges[2 * e], j = proposal.edges[2 * e + 1];
    if (e < below) { if (inside[i] && inside[j]) kept.push(i, j); } else if (inside[i] !== inside[j]) cut.push(i, j);
  }
  const joined = tau < Infinity && proposal.sink !== proposal.source && sets.find(proposal.sink) === root;
  return {inside, area: sets.areaOf(proposal.source), cut, kept, joined};
}

/** Area of the source's component against tau, as steps [tau, patches]. */
function growth(proposal) {
  const sets = disjointSets(proposal.group), steps = [[0, 1]];
  for (let e = 0; e < proposal.lengths.length && proposal.lengths[e] < tauMax; e++) {
    if (!sets.join(proposal.edges[2 * e], proposal.edges[2 * e + 1])) continue;
    const area = sets.areaOf(proposal.source);
    if (area !== steps[steps.length - 1][1]) steps.push([proposal.lengths[e], area]);
  }
  return steps;
}

// ---------------------------------------------------------------- state

const MODES = {
  photo: {colour: (i) => [photo[3 * i], photo[3 * i + 1], photo[3 * i + 2]]},
  eigenvector: {
    scale: [SIGNED, ...data.sides],
    words: [["#545c62", "not in what was cut"]],
    colour: (i, proposal) => (proposal.outside[i] ? OFF
      : along(SIGNED, 0.5 + 0.5 * (proposal.eigenvector[i] - proposal.mean) / proposal.spread)),
  },
  group: {
    words: [["#5b8def", data.group]],
    colour: (i, proposal) => (proposal.group[i] ? [91, 141, 239] : OFF),
  },
  instance: {
    words: [["#6e727a", "no instance; colours as in the panel"]],
    colour: (i) => [instances[3 * i], instances[3 * i + 1], instances[3 * i + 2]],
  },
  confidence: {
    scale: [VIRIDIS, "0", "1"],
    colour: (i, proposal) => (proposal.confidence[i] ? along(VIRIDIS, proposal.confidence[i] / 255) : OFF),
  },
};

function along(colours, t) {
  const at = Math.min(Math.max(t, 0), 1) * (colours.length - 1), k = Math.min(Math.floor(at), colours.length - 2);
  return colours[k].map((c, channel) => c + (colours[k + 1][channel] - c) * (at - k));
}

for (const proposal of proposals) {
  const parted = proposal.eigenvector.filter((_, i) => !proposal.outside[i]);
  proposal.mean = parted.reduce((sum, x) => sum + x, 0) / parted.length;
  proposal.spread = parted.reduce((most, x) => Math.max(most, Math.abs(x - proposal.mean)), 1e-12);
  proposal.growth = growth(proposal);
}

const shown = proposals.length ? Object.keys(MODES) : ["photo"]; // the others are maps of a proposal
const state = {}; // proposal: index; tau; colour: name of a mode
const ANGLES = {start: [-0.38, 0.2], front: [0, 0], side: [-Math.PI / 2, 0], top: [0, Math.PI / 2 - 0.001]};
const middle = [0.5, 0.5, 0.5 * points.reduce((most, v, at) => (at % 3 === 2 ? Math.max(most, v) : most), 0)];
const camera = {};
function look(angle) {
  [camera.yaw, camera.pitch] = ANGLES[angle];
  Object.assign(camera, {zoom: 1, x: 0, y: 0});
}

/** Take the view from the part of the address after "#"; what it does not say is as at the start. */
function follow() {
  const linked = new URLSearchParams(location.hash.slice(1)), last = Math.max(proposals.length - 1, 0);
  state.proposal = Math.min(Math.max(Math.trunc(Number(linked.get("proposal")) || 1) - 1, 0), last);
  state.tau = linked.has("tau") ? tauFrom(Number(linked.get("tau")) || 0) : ownTau();
  state.colour = shown.includes(linked.get("colour")) ? linked.get("colour") : "photo";
  look(Object.hasOwn(ANGLES, linked.get("view")) ? linked.get("view") : "start");
  update();
}

/** The threshold that cut the proposal's mask out of its group. */
const ownTau = () => (proposals.length ? proposals[state.proposal].tau : data.tau);
const tauFrom = (value) => (value >= tauMax ? Infinity : Math.max(value, 0));

let component = null;
let pushed = 0; // how far the points outside the group are pushed back, 0..1 of the way

// ---------------------------------------------------------------- drawing

const canvas = element("view"), pen = canvas.getContext("2d");
const screen = new Float32Array(3 * n); // x, y in pixels and distance from the eye
const SLABS = 96;
let queued = false;

function redraw() {
  if (!queued) requestAnimationFrame(() => { queued = false; draw(); });
  queued = true;
}

function fit(target) {
  const ratio = window.devicePixelRatio || 1, {clientWidth: width, clientHeight: height} = target;
  if (target.width !== Math.round(width * ratio) || target.height !== Math.round(height * ratio)) {
    target.width = Math.round(width * ratio);
    target.height = Math.round(height * ratio);
  }
  target.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
  return [width, height];
}

function project(proposal, width, height) {
  const cy = Math.cos(camera.yaw), sy = Math.sin(camera.yaw), cp = Math.cos(camera.pitch), sp = Math.sin(camera.pitch);
  const scale = 0.68 * Math.min(width, height) * camera.zoom, eye = 3.2;
  for (let i = 0; i < n; i++) {
    const away = proposal && !proposal.group[i] ? pushed * data.push : 0;
    const x = points[3 * i] - middle[0], y = points[3 * i + 1] - middle[1], z = points[3 * i + 2] + away - middle[2];
    const right = cy * x - sy * z, deep = sy * x + cy * z;
    const distance = Math.max(eye + cp * deep - sp * -y, 0.05), down = cp * y + sp * -deep;
    screen[3 * i] = width / 2 + camera.x + (scale * eye * right) / distance;
    screen[3 * i + 1] = height / 2 + camera.y + (scale * eye * down) / distance;
    screen[3 * i + 2] = distance;
  }
  return scale * eye;
}

function colours(proposal) {
  const shades = new Array(n), mode = MODES[state.colour], dim = element("dim").checked && proposal;
  for (let i = 0; i < n; i++) {
    let c = mode.colour(i, proposal);
    if (dim && !component.inside[i]) c = c.map((v, channel) => GROUND[channel] + (v - GROUND[channel]) * DIMMED);
    shades[i] = `rgb(${c[0] | 0},${c[1] | 0},${c[2] | 0})`;
  }
  return shades;
}

function draw() {
  const [width, height] = fit(canvas), proposal = proposals[state.proposal];
  const focal = project(proposal, width, height), shades = colours(proposal);
  pen.clearRect(0, 0, width, height);
  let near = Infinity, far = -Infinity;
  for (let i = 0; i < n; i++) { near = Math.min(near, screen[3 * i + 2]); far = Math.max(far, screen[3 * i + 2]); }
  const slabOf = (distance) => Math.min(SLABS - 1, Math.floor((SLABS * (far - distance)) / (far - near + 1e-9)));
  const slabs = Array.from({length: SLABS}, () => ({points: [], cut: [], kept: []}));
  for (let i = 0; i < n; i++) slabs[slabOf(screen[3 * i + 2])].points.push(i);
  const lay = (pairs, kind) => {
    for (let e = 0; e < pairs.length; e += 2) {
      const i = pairs[e], j = pairs[e + 1];
      slabs[slabOf(Math.min(screen[3 * i + 2], screen[3 * j + 2]))][kind].push(i, j);
    }
  };
  if (proposal && element("cuts").checked) lay(component.cut, "cut");
  if (proposal && element("kept").checked) lay(component.kept, "kept");
  const side = focal * 1.05 / Math.max(...data.grid);
  for (const slab of slabs) {
    for (const i of slab.points) {
      const r = (0.5 * side) / screen[3 * i + 2];
      pen.fillStyle = shades[i];
      pen.beginPath();
      pen.arc(screen[3 * i], screen[3 * i + 1], Math.max(r, 0.7), 0, 7);
      pen.fill();
    }
    strokes(slab.kept, KEPT, 0.6);
    strokes(slab.cut, CUT, 1.4);
  }
  if (proposal) {
    if (proposal.sink >= 0) mark(proposal.sink, SINK, "sink");
    mark(proposal.source, SOURCE, "source");
  }
}

function strokes(pairs, colour, thickness) {
  if (!pairs.length) return;
  pen.strokeStyle = colour;
  pen.lineWidth = thickness;
  pen.beginPath();
  for (let e = 0; e < pairs.length; e += 2) {
    pen.moveTo(screen[3 * pairs[e]], screen[3 * pairs[e] + 1]);
    pen.lineTo(screen[3 * pairs[e + 1]], screen[3 * pairs[e + 1] + 1]);
  }
  pen.stroke();
}

/** Source and sink are always on top: they are what one looks for. */
function mark(i, colour, word) {
  const x = screen[3 * i], y = screen[3 * i + 1];
  pen.beginPath();
  pen.arc(x, y, 7, 0, 7);
  pen.fillStyle = colour;
  pen.fill();
  pen.lineWidth = 2;
  pen.strokeStyle = "#000";
  pen.stroke();
  pen.font = "600 13px system-ui, 'DejaVu Sans', sans-serif";
  pen.lineWidth = 4;
  pen.strokeText(word, x + 11, y + 4);
  pen.fillStyle = colour;
  pen.fillText(word, x + 11, y + 4);
}

/** The area of the source's component against the threshold, with the thresholds of Spatial Confidence. */
function drawCurve() {
  const chart = element("curve"), brush = chart.getContext("2d"), proposal = proposals[state.proposal];
  const [width, height] = fit(chart);
  brush.clearRect(0, 0, width, height);
  if (!proposal) return;
  const left = 8, right = width - 8, top = 14, bottom = height - 4; // the thumb of the slider stays 8 px inside, too
  const most = areaAt(proposal, Infinity);
  const x = (tau) => left + ((right - left) * Math.min(tau, tauMax)) / tauMax; // infinity is at the right end
  const y = (area) => bottom - ((bottom - top) * area) / most;
  brush.strokeStyle = css("--line");
  brush.lineWidth = 1;
  for (const tau of data.ladder) line(brush, x(tau), top - 4, x(tau), bottom);
  brush.beginPath();
  brush.moveTo(left, bottom);
  let last = 0;
  for (const [tau, area] of proposal.growth) {
    brush.lineTo(x(tau), y(last));
    brush.lineTo(x(tau), y(area));
    last = area;
  }
  brush.lineTo(right, y(last));
  brush.lineTo(right, bottom);
  brush.fillStyle = css("--accent-soft");
  brush.fill();
  brush.strokeStyle = css("--accent");
  brush.stroke();
  brush.fillStyle = css("--soft");
  brush.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  brush.fillText(`of ${most} patches`, left, 10);
  for (const tau of data.ladder) {
    brush.fillStyle = tau <= state.tau + 1e-12 ? SOURCE : css("--soft");
    brush.beginPath();
    brush.arc(x(tau), y(areaAt(proposal, tau)), 3.2, 0, 7);
    brush.fill();
  }
  brush.strokeStyle = INK;
  line(brush, x(state.tau), 0, x(state.tau), bottom);
}

function areaAt(proposal, tau) {
  if (tau === Infinity) return proposal.group.reduce((sum, inside) => sum + inside, 0);
  let area = 1;
  for (const [step, size] of proposal.growth) if (step < tau) area = size; // edges of length tau are out
  return area;
}

function line(brush, x0, y0, x1, y1) {
  brush.beginPath();
  brush.moveTo(x0, y0);
  brush.lineTo(x1, y1);
  brush.stroke();
}

// ---------------------------------------------------------------- words and controls

function update() {
  const proposal = proposals[state.proposal];
  element("proposal").value = String(state.proposal);
  element("tau").value = String(Math.min(state.tau, tauMax));
  const shownTau = state.tau === Infinity ? "∞" : state.tau.toFixed(4);
  element("tau-value").textContent = shownTau + (state.tau === ownTau() ? " (this mask’s)" : "");
  element("reset-tau").disabled = state.tau === ownTau();
  for (const button of element("colour").children) {
    button.setAttribute("aria-pressed", String(button.dataset.mode === state.colour));
  }
  if (proposal) {
    component = componentAt(proposal, state.tau);
    element("proposal-value").textContent = `${proposal.label} (${state.proposal + 1} of ${proposals.length})`;
    const verdict = element("verdict");
    verdict.textContent = proposal.dropped
      ? `Dropped, ${proposal.dropped}.` : `Kept, score ${proposal.score.toFixed(3)}: ${proposal.how}.`;
    verdict.className = proposal.dropped ? "dropped" : "";
    drawParts(proposal);
    const edges = component.cut.length / 2;
    element("live").textContent = state.tau === Infinity
      ? `All ${component.area} patches of the ${data.group}: no edge within it is cut.`
      : `${component.area} ${component.area === 1 ? "patch hangs" : "patches hang"} on the source, ` +
      `${edges} cut edge${edges === 1 ? "" : "s"} at the border.` +
      (component.joined ? " The sink hangs on it too: here LocalCut runs a min-cut, which this page does not." : "");
  }
  const mode = MODES[state.colour], legend = element("legend");
  legend.replaceChildren(entry(SOURCE, data.terminals[0]), entry(SINK, data.terminals[1]));
  if (mode.scale) {
    const [ramp, low, high] = mode.scale, stops = ramp.map((c) => `rgb(${c})`).join(",");
    const bar = entry(`linear-gradient(90deg, ${stops})`, high);
    bar.prepend(low);
    bar.querySelector("i").className = "scale";
    legend.append(bar);
  }
  for (const [colour, word] of mode.words || []) legend.append(entry(colour, word));
  drawCurve();
  redraw();
}

/** A bar for each part of the score. */
function drawParts(proposal) {
  element("parts").replaceChildren(...Object.entries(proposal.parts).flatMap(([name, value]) => {
    const term = document.createElement("dt"), bar = document.createElement("dd");
    term.textContent = name;
    bar.textContent = value.toFixed(2);
    bar.style.setProperty("--share", value);
    return [term, bar];
  }));
}

function entry(colour, word) {
  const span = document.createElement("span"), dot = document.createElement("i");
  dot.style.background = colour;
  span.append(dot, word);
  return span;
}

function button(parent, text, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.addEventListener("click", act);
  parent.append(made);
  return made;
}

function animatePush(goal) {
  const step = () => {
    pushed += Math.sign(goal - pushed) * Math.min(0.08, Math.abs(goal - pushed));
    draw();
    if (pushed !== goal && element("push").checked === (goal === 1)) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

element("name").textContent = data.name;
element("about").textContent =
  `${n} patches (${data.grid[1]}×${data.grid[0]}) as points: x, y of the photo, depth away from you. ` +
  `Each is joined to its ${data.k} nearest; edges of τ or longer are cut` +
  (data.outside === "sever" ? `, and those that leave the ${data.group}.` : ".");
element("stop").textContent = data.stop;
element("score").textContent = `Score: ${data.score}.`;
element("curve-about").textContent = "Area of what hangs on the source, against τ." + (data.ladder.length
  ? ` Dots: the ${data.ladder.length} thresholds of Spatial Confidence. A flat curve is a stable cut.` : "");
element("proposal").max = String(Math.max(proposals.length - 1, 0));
element("proposal").disabled = proposals.length < 2;
element("proposal").addEventListener("input", (event) => {
  state.proposal = Number(event.target.value);
  state.tau = ownTau();
  update();
});
element("tau").max = String(tauMax);
element("tau").addEventListener("input", (event) => { state.tau = tauFrom(Number(event.target.value)); update(); });
element("reset-tau").addEventListener("click", () => {
  state.tau = ownTau();
  update();
});
for (const name of shown) {
  button(element("colour"), name, () => { state.colour = name; update(); }).dataset.mode = name;
}
for (const angle of Object.keys(ANGLES)) button(element("angles"), angle, () => { look(angle); redraw(); });
for (const id of ["cuts", "kept", "dim"]) element(id).addEventListener("change", redraw);
element("push-row").hidden = !data.push;
element("push").addEventListener("change", (event) => animatePush(event.target.checked ? 1 : 0));
window.addEventListener("resize", update);
window.addEventListener("hashchange", follow);

// Turn, move, zoom: mouse, pen and fingers alike.
const pointers = new Map();
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, [event.clientX, event.clientY]);
});
for (const kind of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(kind, (event) => pointers.delete(event.pointerId));
}
canvas.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const now = [event.clientX, event.clientY], dx = now[0] - before[0], dy = now[1] - before[1];
  if (pointers.size === 1) {
    if (event.buttons & 2 || event.shiftKey) pan(dx, dy); else turn(dx, dy);
  } else {
    const [id] = [...pointers.keys()].filter((other) => other !== event.pointerId), other = pointers.get(id);
    const apart = (a) => Math.hypot(a[0] - other[0], a[1] - other[1]) || 1;
    zoom(apart(now) / apart(before));
    pan(dx / 2, dy / 2);
  }
  pointers.set(event.pointerId, now);
  redraw();
});
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-0.0012 * event.deltaY));
  redraw();
}, {passive: false});
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("dblclick", () => { look("start"); redraw(); });
canvas.addEventListener("keydown", (event) => {
  const act = {ArrowLeft: () => turn(-12, 0), ArrowRight: () => turn(12, 0), ArrowUp: () => turn(0, -12),
    ArrowDown: () => turn(0, 12), "+": () => zoom(1.15), "-": () => zoom(1 / 1.15)}[event.key];
  if (!act) return;
  event.preventDefault();
  act();
  redraw();
});
function turn(dx, dy) {
  camera.yaw += 0.008 * dx;
  camera.pitch = Math.min(Math.max(camera.pitch + 0.008 * dy, -Math.PI / 2), Math.PI / 2);
}
function pan(dx, dy) { camera.x += dx; camera.y += dy; }
function zoom(by) { camera.zoom = Math.min(Math.max(camera.zoom * by, 0.2), 12); }

follow();
