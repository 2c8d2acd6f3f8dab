// The gallery of semantic labels. What the data blocks hold is said at the top of pipeline/views/gallery/semantic.py.

const classes = index.classes; // name, colour
const NONE = 255;
const STATUS = { ok: "with classes", no_labels: "no classes", quarantined: "set aside" };
const VIEWS = { labels: "labels", confidence: "confidence", photo: "photo alone" };
const CONTROLS = { view: "labels", opacity: "60" };

const percent = (share) => (share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);
const colourOfClass = (c) => (c === NONE ? [0, 0, 0] : classes[c].colour);
const nameOfClass = (c) => (c === NONE ? "no class" : classes[c].name);
/** Classes of an image with their shares, the largest first; NONE for pixels that have none. */
const sharesOf = (image) => Object.entries(image.shares).map(([c, share]) => [Number(c), share]).sort((a, b) => b[1] - a[1]);
const classesOf = (image) => sharesOf(image).filter(([c]) => c !== NONE);

async function decode(number) {
  const image = JSON.parse((await block(number)).textContent);
  const maps = await inflated(image.maps);
  const [h, w] = image.small;
  if (maps.length) {
    image.labels = maps.subarray(0, h * w);
    for (let i = w; i < h * w; i++) image.labels[i] ^= image.labels[i - w];
    image.sure = maps.subarray(h * w);
    const columns = image.cells[1];
    for (let i = columns; i < image.sure.length; i++) image.sure[i] += image.sure[i - columns];
  }
  return image;
}

// --- filters and order ---------------------------------------------------------------------------------------------

function countChoices() {
  const last = 12; // and more
  const most = Math.min(last, extremes(images.map((image) => classesOf(image).length))[1]);
  return Array.from({ length: most + 1 }, (_, n) => ({
    key: String(n),
    label: n === last ? `${n}+` : String(n),
    spoken: n === last ? `${n} or more classes` : counted(n, "class", "classes"),
    fits: (image) => image.status !== "quarantined" && Math.min(classesOf(image).length, last) === n,
  }));
}

function confidenceChoices() {
  return Array.from({ length: 10 }, (_, bin) => ({
    key: (bin / 10).toFixed(1),
    label: (bin / 10).toFixed(1).replace("0.", "."),
    spoken: `${(bin / 10).toFixed(1)} to ${((bin + 1) / 10).toFixed(1)}`,
    fits: ({ confidence }) => confidence !== null && Math.min(9, Math.floor(10 * confidence + 1e-9)) === bin,
  }));
}

/** Classes that occur, the largest in the images that are shown first. */
const occurring = classes
  .map((_, c) => [c, images.reduce((sum, { shares }) => sum + (shares[c] ?? 0), 0)])
  .filter(([, share]) => share > 0)
  .sort((a, b) => b[1] - a[1])
  .map(([c]) => c);
const facets = [
  facet("class", "Classes (of how many images)", occurring.map((c) => ({
    key: String(c), label: nameOfClass(c), colour: colourOfClass(c), fits: ({ shares }) => shares[c] > 0,
  }))),
  facet("status", "Status", Object.entries(STATUS).map(([key, label]) => ({
    key, label, fits: (image) => image.status === key,
  }))),
  facet("count", "Classes per image", countChoices(), true),
  facet("confidence", "Mean confidence", confidenceChoices(), true),
  facet("reason", "Images set aside because", named(images.flatMap(({ reason }) => reason || [])).map((key) => ({
    key, label: words(key), fits: (image) => image.reason === key,
  }))),
].filter((one) => one.choices.length);
/** Classes that are chosen in the legend; none: all are shown alike. */
const chosenClasses = () => {
  const legend = facets.find(({ name }) => name === "class");
  return new Set(legend ? [...legend.chosen].map((choice) => occurring[choice]) : []);
};

const shareOf = (c) => (image) => (image.status === "quarantined" ? null : image.shares[c] ?? 0);
const SORTS = {
  name: ["File name", (image, number) => number, false],
  confidence: ["Mean confidence", (image) => image.confidence, false],
  count: ["Number of classes", (image) => (image.status === "quarantined" ? null : classesOf(image).length), true],
  unlabelled: ["Share without a class", shareOf(NONE), true],
  ...Object.fromEntries(occurring.map((c) => [`share-${c}`, [`Share of ${nameOfClass(c)}`, shareOf(c), true]])),
};

// --- drawing -------------------------------------------------------------------------------------------------------

/** Paint what is chosen at Show over the photo, on a transparent canvas.
 * only: classes that are shown in full, the others faintly; empty for all. */
function paint(canvas, image, width, view, opacity, only) {
  const [h, w] = view === "confidence" ? image.cells : image.small;
  const data = new ImageData(w, h);
  for (let i = 0; i < w * h; i++) {
    data.data.set(view === "confidence" ? sureness(image, i, opacity) : colouring(image, i, w, opacity, only), 4 * i);
  }
  const small = make("canvas", { width: w, height: h });
  small.getContext("2d").putImageData(data, 0, 0);
  canvas.width = width;
  canvas.height = Math.max(1, Math.round((width * image.small[0]) / image.small[1]));
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
}

const sureness = (image, i, opacity) => [...VIRIDIS[image.sure[i] >> 1], 255 * opacity];

function colouring(image, i, w, opacity, only) {
  const c = image.labels[i];
  if (c === NONE) return [0, 0, 0, 0];
  const isEdge = ((i + 1) % w && image.labels[i + 1] !== c) || (i + w < image.labels.length && image.labels[i + w] !== c);
  const strength = isEdge && opacity > 0 ? Math.min(1, opacity + 0.3) : opacity;
  return [...classes[c].colour, 255 * strength * (only.size && !only.has(c) ? 0.12 : 1)];
}

/** The canvas to lie on an image's photo; none where there is nothing to show. */
function layer(image, width, only = chosenClasses()) {
  const view = $("view").value, opacity = $("opacity").value / 100;
  if (!image.labels || view === "photo") return [];
  const canvas = make("canvas", { class: "masks", "aria-hidden": "true" });
  paint(canvas, image, Math.max(1, Math.round(width)), view, image.photo ? opacity : 1, only);
  return [canvas];
}

// --- cards ---------------------------------------------------------------------------------------------------------

function pillsOf(image) {
  const pills = [];
  const pill = (text, kind) => pills.push(make("span", { class: `pill ${kind}`, text }));
  if (image.status === "quarantined") pill(`set aside: ${words(image.reason)}`, "bad");
  else {
    const n = classesOf(image).length;
    pill(counted(n, "class", "classes"), n ? "good" : "");
    pill(`confidence ${image.confidence.toFixed(2)}`, "");
    if (image.shares[NONE]) pill(`${percent(image.shares[NONE])} without`, "warn");
  }
  return make("span", { class: "pills" }, ...pills);
}

/** A card with everything but pictures, which `fill` brings. */
function card(number) {
  const image = images[number];
  const shares = make("span", { class: "shares" }, ...sharesOf(image).map(([c, share]) => {
    const part = make("span", { title: `${nameOfClass(c)}: ${percent(share)}` });
    part.style.width = `${100 * share}%`;
    part.style.background = `rgb(${colourOfClass(c)})`;
    return part;
  }));
  const button = make("button", { type: "button", class: "card", "data-number": number },
    make("span", { class: "picture" }), shares,
    make("span", { class: "caption" },
      make("span", { class: "name", text: image.id, title: image.id }), pillsOf(image)));
  const what = image.status === "quarantined" ? `set aside: ${image.reason}`
    : counted(classesOf(image).length, "class", "classes");
  button.setAttribute("aria-label", `${image.id}, ${what}. Open`);
  return button;
}

function fill(element, image, number) {
  const picture = element.querySelector(".picture");
  picture.append(...photoOf(image, number));
  if (image.failed) return;
  const width = Math.min(cardWidth, (cardWidth * 0.75 * image.small[1]) / image.small[0]); // in its 4:3 box
  picture.append(...layer(image, width * Math.min(devicePixelRatio, 1.5)));
}

// --- one image, large ----------------------------------------------------------------------------------------------

function large(image, number) {
  const parts = image.failed ? [make("p", { text: image.failed })] : detail(image, number);
  return [head(number, pillsOf(images[number])), ...parts];
}

/** The photo with what is chosen at Show, labels and confidence beside it, and the table of its classes. */
function detail(image, number) {
  let hot = null; // the class that is pointed at
  const main = picture(image, ...photoOf(image, number));
  main.style.width = `min(100%, calc(74vh * ${shapeOf(image)}))`;
  const under = make("span", { id: "under" });
  const size = image.size[0] ? `${image.size[1]} × ${image.size[0]} px` : "Size unknown";
  const panels = [make("figure", { class: "main" }, main, caption(size, " ", under))];
  const labels = labelled("Classes"), sure = labelled("Confidence");
  if (image.labels) {
    panels.push(make("figure", {}, picture(image, labels), caption("Classes")));
    panels.push(make("figure", {}, picture(image, sure), caption("Confidence", ...scale(VIRIDIS, "0", "1"))));
  }
  const rows = sharesOf(images[number]).map(([c, share]) => classRow(image, c, share, point));
  main.addEventListener("pointermove", (event) => point(classAt(image, main.getBoundingClientRect(), event)));
  main.addEventListener("pointerleave", () => point(null));

  function point(c) {
    if (c === hot) return;
    hot = c;
    show();
  }

  function show() {
    under.textContent = hot === null ? "" : nameOfClass(hot);
    for (const { c, row } of rows) row.classList.toggle("hot", c === hot);
    if (!image.labels) return;
    const only = hot === null || hot === NONE ? chosenClasses() : new Set([hot]);
    const width = Math.min(1000, Math.max(320, Math.round(main.clientWidth * devicePixelRatio)));
    main.querySelector("canvas")?.remove();
    main.append(...layer(image, width, only));
    paint(labels, image, PANEL, "labels", 1, only);
    paint(sure, image, PANEL, "confidence", 1, only);
  }

  requestAnimationFrame(show); // by then the picture has its size
  return [make("div", { class: "panels few" }, ...panels), ...classTable(rows)];
}

/** The class under the mouse, or null. */
function classAt(image, box, event) {
  const [h, w] = image.small;
  const x = Math.floor(((event.clientX - box.left) / box.width) * w);
  const y = Math.floor(((event.clientY - box.top) / box.height) * h);
  return image.labels && x >= 0 && x < w && y >= 0 && y < h ? image.labels[y * w + x] : null;
}

function classRow(image, c, share, point) {
  const bar = make("span", { class: "bar-of" });
  bar.style.width = `${Math.max(1, 240 * share)}px`;
  const pixels = Math.round(share * image.size[0] * image.size[1]);
  const row = make("tr", { tabindex: "0" },
    make("td", {}, dot(colourOfClass(c)), nameOfClass(c)), make("td", {}, bar, percent(share)),
    make("td", { text: pixels.toLocaleString("en") }));
  for (const event of ["pointerenter", "focus"]) row.addEventListener(event, () => point(c));
  for (const event of ["pointerleave", "blur"]) row.addEventListener(event, () => point(null));
  return { c, row };
}

function classTable(rows) {
  if (!rows.length) return [];
  const head = make("tr", {}, ...["", "Of the image", "Pixels"].map((text) => make("th", { scope: "col", text })));
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows.map(({ row }) => row)));
  return [make("h3", { text: "Classes" }), make("div", { class: "scroll" }, table)];
}

// --- start ---------------------------------------------------------------------------------------------------------

function start() {
  const run = index.run;
  const all = run.pixels + run.unlabelled;
  writeFacts({
    Images: imagesOf(run),
    Classes: `${run.occurring} of ${classes.length} occur`,
    Unlabelled: run.unlabelled ? `${percent(run.unlabelled / all)} of pixels` : "",
    "Set aside": counted(run.quarantined, "image"),
    Recipe: run.recipe, ...run.method,
    Run: `${run.created.slice(0, 10)}, ${run.fingerprint}`,
  });
  for (const [value, text] of Object.entries(VIEWS)) $("view").append(make("option", { value, text }));
  startCards();
  $("view").addEventListener("change", () => { layOut(); remember(); });
  $("opacity").addEventListener("input", layOut);
  $("opacity").addEventListener("change", remember);
  recall();
}

start();
