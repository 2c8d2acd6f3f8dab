// What galleries of labels have in common. What the data blocks hold is said at the top of
// pipeline/views/gallery/semantic.py. The file before this one, of one kind of labels, has STATUS, VIEWS, CONTROLS,
// PANELS (view, title and maybe a scale), and what only it shows: `decodeMore`, `legendName`, `moreFacets`, `moreSorts`,
// `morePills`, `moreRows` with MORE_COLUMNS, `moreFacts`, `colouring`, `keyAt`, `nameOfKey`. A key is what can be pointed
// at: the number of a class, or more.

const classes = index.classes; // name, colour
const NONE = 255;

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
    await decodeMore(image);
  }
  return image;
}

// --- filters and order ---------------------------------------------------------------------------------------------

/** Choices by how many of something an image has. */
function countChoices(numberOf, one, many) {
  const last = 12; // and more
  const most = Math.min(last, extremes(images.map(numberOf))[1]);
  return Array.from({ length: most + 1 }, (_, n) => ({
    key: String(n),
    label: n === last ? `${n}+` : String(n),
    spoken: n === last ? `${n} or more ${many}` : counted(n, one, many),
    fits: (image) => image.status !== "quarantined" && Math.min(numberOf(image), last) === n,
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
    key: String(c), label: legendName(c), colour: colourOfClass(c), fits: ({ shares }) => shares[c] > 0,
  }))),
  facet("status", "Status", Object.entries(STATUS).map(([key, label]) => ({
    key, label, fits: (image) => image.status === key,
  }))),
  facet("count", "Classes per image", countChoices((image) => classesOf(image).length, "class", "classes"), true),
  facet("confidence", "Mean confidence", confidenceChoices(), true),
  ...moreFacets(),
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
  ...moreSorts(),
  ...Object.fromEntries(occurring.map((c) => [`share-${c}`, [`Share of ${nameOfClass(c)}`, shareOf(c), true]])),
};

// --- drawing -------------------------------------------------------------------------------------------------------

/** Paint what is chosen at Show over the photo, on a transparent canvas.
 * only: keys that are shown in full, the others faintly; empty for all. */
function paint(canvas, image, width, view, opacity, only) {
  const [h, w] = view === "confidence" ? image.cells : image.small;
  const data = new ImageData(w, h);
  for (let i = 0; i < w * h; i++) {
    data.data.set(view === "confidence" ? sureness(image, i, opacity) : colouring(image, i, w, opacity, only, view), 4 * i);
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

/** Whether a map's pixel ends an area of its value to the right or below. */
const isEdge = (map, i, w) => ((i + 1) % w && map[i + 1] !== map[i]) || (i + w < map.length && map[i + w] !== map[i]);

/** A pixel in the colour of its class, its edges stronger. */
function colouringOfClass(image, i, w, opacity, only) {
  const c = image.labels[i];
  if (c === NONE) return [0, 0, 0, 0];
  const strength = isEdge(image.labels, i, w) && opacity > 0 ? Math.min(1, opacity + 0.3) : opacity;
  return [...classes[c].colour, 255 * strength * (only.size && !only.has(c) ? FAINT : 1)];
}

const FAINT = 0.12;

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
    morePills(image, pill);
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

/** The photo with what is chosen at Show, labels and confidence beside it, and the tables of what is in it. */
function detail(image, number) {
  let hot = null; // the key that is pointed at
  const main = picture(image, ...photoOf(image, number));
  main.style.width = `min(100%, calc(74vh * ${shapeOf(image)}))`;
  const under = make("span", { id: "under" });
  const size = image.size[0] ? `${image.size[1]} × ${image.size[0]} px` : "Size unknown";
  const panels = [make("figure", { class: "main" }, main, caption(size, " ", under))];
  const views = image.labels ? PANELS.map(([view, title, ...rest]) => [view, title, labelled(title), rest]) : [];
  for (const [, title, canvas, rest] of views) {
    panels.push(make("figure", {}, picture(image, canvas), caption(title, ...(rest[0]?.() ?? []))));
  }
  const rows = sharesOf(images[number]).map(([c, share]) => classRow(image, c, share, point));
  const more = image.labels ? moreRows(image, point) : [];
  main.addEventListener("pointermove", (event) => point(keyUnder(image, main.getBoundingClientRect(), event)));
  main.addEventListener("pointerleave", () => point(null));

  function point(key) {
    if (key === hot) return;
    hot = key;
    show();
  }

  function show() {
    under.textContent = hot === null ? "" : nameOfKey(image, hot);
    for (const { key, row } of [...rows, ...more]) row.classList.toggle("hot", key === hot);
    if (!image.labels) return;
    const only = hot === null || hot === NONE ? chosenClasses() : new Set([hot]);
    const width = Math.min(1000, Math.max(320, Math.round(main.clientWidth * devicePixelRatio)));
    main.querySelector("canvas")?.remove();
    main.append(...layer(image, width, only));
    for (const [view, , canvas] of views) paint(canvas, image, PANEL, view, 1, only);
  }

  requestAnimationFrame(show); // by then the picture has its size
  return [
    make("div", { class: "panels few" }, ...panels),
    ...tableOf("Classes", ["", "Of the image", "Pixels"], rows), ...tableOf("Instances", MORE_COLUMNS, more),
  ];
}

/** What is under the mouse, or null. */
function keyUnder(image, box, event) {
  const [h, w] = image.small;
  const x = Math.floor(((event.clientX - box.left) / box.width) * w);
  const y = Math.floor(((event.clientY - box.top) / box.height) * h);
  return image.labels && x >= 0 && x < w && y >= 0 && y < h ? keyAt(image, y * w + x) : null;
}

/** A row that can be pointed at. */
function keyRow(key, point, ...cells) {
  const row = make("tr", { tabindex: "0" }, ...cells);
  for (const event of ["pointerenter", "focus"]) row.addEventListener(event, () => point(key));
  for (const event of ["pointerleave", "blur"]) row.addEventListener(event, () => point(null));
  return { key, row };
}

function classRow(image, c, share, point) {
  const bar = make("span", { class: "bar-of" });
  bar.style.width = `${Math.max(1, 240 * share)}px`;
  const pixels = Math.round(share * image.size[0] * image.size[1]);
  return keyRow(c, point, make("td", {}, dot(colourOfClass(c)), c === NONE ? nameOfClass(c) : legendName(c)),
    make("td", {}, bar, percent(share)), make("td", { text: pixels.toLocaleString("en") }));
}

function tableOf(title, columns, rows) {
  if (!rows.length) return [];
  const head = make("tr", {}, ...columns.map((text) => make("th", { scope: "col", text })));
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows.map(({ row }) => row)));
  return [make("h3", { text: title }), make("div", { class: "scroll" }, table)];
}

// --- start ---------------------------------------------------------------------------------------------------------

function start() {
  const run = index.run;
  const all = run.pixels + run.unlabelled;
  writeFacts({
    Images: imagesOf(run),
    Classes: `${run.occurring} of ${classes.length} occur`,
    ...moreFacts(run),
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
