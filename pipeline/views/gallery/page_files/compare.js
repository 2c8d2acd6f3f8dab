// --- runs side by side: rows of which only those in view have pictures ----------------------------------------------

const runs = index.runs;
const hidden = new Set(); // numbers of the runs that are not shown

async function decode(number) {
  const image = JSON.parse((await block(number)).textContent);
  const maps = await inflated(image.maps);
  const pixels = image.small[0] * image.small[1], bytes = Math.ceil(pixels / 8);
  let at = 0;
  for (const run of image.runs) {
    for (const instance of run.instances) {
      instance.mask = unpacked(maps.subarray(at, (at += bytes)), pixels);
      instance.cells = [255];
    }
  }
  return image;
}

// --- filters and order ---------------------------------------------------------------------------------------------

const spread = ({ masks }) => Math.max(...masks) - Math.min(...masks);
const SORTS = {
  differ: ["How much they differ", (image) => image.differ, true],
  spread: ["Difference in masks", spread, true],
  name: ["File name", (image, number) => number, false],
  ...Object.fromEntries(runs.map(({ name }, r) => [`masks-${r}`, [`Masks of ${name}`, (image) => image.masks[r], true]])),
};
const FILTERS = {
  all: ["all images", () => true],
  differ: ["where they differ", (image) => image.differ > 0],
  same: ["where they are the same", (image) => image.differ === 0],
  some: ["where some find nothing", ({ masks, failed }) => masks.some((n, r) => !n && !failed[r]) && masks.some((n) => n)],
  ...Object.fromEntries(runs.map(({ name }, r) => [
    `none-${r}`, [`without masks of ${name}`, ({ masks, failed }) => !masks[r] && !failed[r]],
  ])),
  aside: ["set aside by one", ({ failed }) => failed.some((one) => one)],
};
const BEST = { all: ["all", Infinity], best1: ["best 1", 1], best3: ["best 3", 3], best5: ["best 5", 5] };

function refilter() {
  const wanted = $("query").value.trim().toLowerCase();
  const [, fits] = FILTERS[$("filter").value];
  visible = images.map((_, number) => number)
    .filter((number) => images[number].id.toLowerCase().includes(wanted) && fits(images[number]));
  sortVisible(SORTS, wanted || $("filter").value !== "all");
  layOut();
}

// --- the list: rows of the heights of their photos, placed by the program --------------------------------------------

const GAP = 14, NARROWEST = 130, WIDEST = 420; // of a picture, as in the style
const AROUND = 30 + 22 + 2, CAPTION = 22; // of a row: head, padding, border; below each picture
let tops = [], rowWidth = 0;

const columns = () => runs.map((_, r) => r).filter((r) => !hidden.has(r));
/** Pictures beside each other: all, or as many as a narrow window has room for. */
const across = () => Math.min(columns().length, Math.max(1, Math.floor((rowWidth - 26 + 8) / (NARROWEST + 8))));
const pictureWidth = () => Math.min(WIDEST, (rowWidth - 26 - 8 * (across() - 1)) / across());
const boxShape = (image) => Math.max(image.shape, 0.75); // of a tall photo's box; the photo keeps its own

function layOut() {
  rowWidth = list.clientWidth;
  clearPlaces();
  let top = 0;
  tops = visible.map((number) => {
    const own = top;
    const lines = Math.ceil(columns().length / across());
    top += lines * (pictureWidth() / boxShape(images[number]) + CAPTION) + (lines - 1) * 8 + AROUND + GAP;
    return own;
  });
  tops.push(top);
  list.style.height = `${Math.max(0, top - GAP)}px`;
  document.documentElement.style.setProperty("--columns", across());
  document.body.classList.toggle("wrapped", across() < columns().length);
  document.documentElement.style.setProperty("--bar", `${$("query").parentElement.offsetHeight}px`);
  drawList();
}

/** The first place whose row ends below a height. */
function placeAt(height) {
  let low = 0, high = visible.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (tops[middle + 1] <= height) low = middle + 1;
    else high = middle;
  }
  return low;
}

function drawList() {
  const top = window.scrollY - list.offsetTop;
  const first = placeAt(top - window.innerHeight / 2);
  const end = Math.min(visible.length, placeAt(top + 1.5 * window.innerHeight) + 1);
  drawPlaces(first, end, row);
}

function row(position) {
  const number = visible[position], image = images[number];
  const differ = image.differ === null ? "set aside by one" : `differ by ${(100 * image.differ).toFixed(0)} %`;
  const pictures = columns().map((r) => {
    const picture = make("span", { class: "picture" });
    picture.style.aspectRatio = boxShape(image);
    const [text, kind] = countOf(image, r);
    return make("button", {
      type: "button", "data-number": number, "data-run": r,
      "aria-label": `${image.id}, ${runs[r].name}: ${text}. Open`,
    }, picture, make("span", { class: `count ${kind}`, text: across() < columns().length ? `${runs[r].name}: ${text}` : text }));
  });
  const element = make("div", {
    class: "row-card", role: "listitem", "data-position": position,
    "aria-posinset": position + 1, "aria-setsize": visible.length,
  },
    make("div", { class: "row-head" },
      make("span", { class: "name", text: image.id, title: image.id }),
      make("span", { class: image.differ === null ? "pill bad" : "pill", text: differ })),
    make("div", { class: "row-pictures" }, ...pictures));
  element.style.transform = `translateY(${tops[position]}px)`;
  return element;
}

function countOf(image, r) {
  if (image.failed[r]) return ["set aside", "aside"];
  return image.masks[r] ? [counted(image.masks[r], "mask"), ""] : ["no masks", "none"];
}

function fill(element, image, number) {
  for (const button of element.querySelectorAll("[data-run]")) {
    button.firstChild.append(...layers(image, number, Number(button.dataset.run), pictureWidth()));
  }
}

const problem = (reason, detail) => make("span", { class: "problem" },
  make("strong", { text: words(reason) }), make("small", { text: detail, title: detail }));

/** The photo, the masks of a run on it, or what is wrong. */
function layers(image, number, r, width) {
  if (image.failed) return [problem("not shown", image.failed)];
  const run = image.runs[r], parts = [];
  if (image.photo) {
    const photo = make("img", { alt: `Photo ${images[number].id}`, decoding: "async", draggable: "false" });
    photo.src = `data:image/webp;base64,${image.photo}`;
    parts.push(photo);
  }
  if (run.reason) return [...parts, problem(run.reason, run.detail)];
  if (image.problem) parts.push(problem(`photo ${image.problem.reason}`, image.problem.detail));
  const [, most] = BEST[$("best").value];
  const chosen = run.instances.map((_, k) => k).sort((a, b) => run.instances[b].score - run.instances[a].score || a - b);
  const instances = chosen.slice(0, most).map((k) => run.instances[k]);
  if (instances.length) {
    const canvas = make("canvas", { class: "masks", "aria-hidden": "true" });
    // as wide as the photo in its box
    const pixels = Math.min(width, (width / boxShape(images[number])) * (image.small[1] / image.small[0]));
    paintMasks(canvas, { small: image.small, instances }, Math.max(1, Math.round(pixels * Math.min(devicePixelRatio, 1.5))));
    parts.push(canvas);
  }
  return parts;
}

// --- one image, large ----------------------------------------------------------------------------------------------

function large(image, number) {
  const figures = columns().map((r) => {
    const box = make("span", { class: "picture" }, ...layers(image, number, r, 480));
    box.style.aspectRatio = images[number].shape;
    const scores = (image.runs?.[r].instances ?? []).map(({ score }) => score).sort((a, b) => b - a);
    const ends = [...new Set([scores[0], scores.at(-1)].map((score) => score?.toFixed(2)))];
    const said = scores.length ? `, ${ends.length > 1 ? "scores" : "score"} ${ends.join(" to ")}` : "";
    return make("figure", {}, box, make("figcaption", {},
      make("strong", { text: runs[r].name }), ` ${countOf(images[number], r)[0]}${said}`));
  });
  return [head(number), make("div", { class: "large" }, ...figures)];
}

// --- the page's state in its address ---------------------------------------------------------------------------------

function remember() {
  const state = new URLSearchParams();
  if ($("query").value) state.set("q", $("query").value);
  if ($("sort").value !== "differ" || !falling) state.set("sort", `${$("sort").value}${falling ? "-down" : "-up"}`);
  for (const [name, usual] of [["filter", "all"], ["best", "all"]]) {
    if ($(name).value !== usual) state.set(name, $(name).value);
  }
  if (hidden.size) state.set("without", [...hidden].map((r) => runs[r].name).join());
  keepAddress(state);
}

function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  $("query").value = state.get("q") ?? "";
  const [, sort, direction] = (state.get("sort") ?? "differ-down").match(/^(.*)-(down|up)$/) ?? [];
  $("sort").value = sort in SORTS ? sort : "differ";
  falling = direction !== "up";
  $("filter").value = state.get("filter") in FILTERS ? state.get("filter") : "all";
  $("best").value = state.get("best") in BEST ? state.get("best") : "all";
  const without = state.get("without")?.split(",") ?? [];
  hidden.clear();
  runs.forEach(({ name }, r) => without.includes(name) && hidden.add(r));
  drawHeads();
  refilter();
  openAddressed(state);
}

function changed() {
  refilter();
  if (window.scrollY > list.offsetTop) window.scrollTo(0, 0);
  remember();
}

// --- start ---------------------------------------------------------------------------------------------------------

/** A button a recipe, which hides its column or shows it again; the last one stays. */
function drawHeads() {
  const button = (r) => {
    const made = make("button", {
      type: "button", "data-head": r, "aria-pressed": !hidden.has(r), text: runs[r].name,
      title: hidden.has(r) ? `Show ${runs[r].name}` : `Hide ${runs[r].name}`,
    });
    made.addEventListener("click", () => {
      if (!hidden.delete(r) && columns().length > 1) hidden.add(r);
      drawHeads();
      layOut();
      remember();
    });
    return made;
  };
  $("heads").replaceChildren(...columns().map(button));
  $("back").replaceChildren(...[...hidden].map(button));
  $("back").parentElement.hidden = !hidden.size;
}

function start() {
  const known = images.filter((image) => image.differ !== null);
  const mean = known.reduce((sum, image) => sum + image.differ, 0) / Math.max(known.length, 1);
  const facts = {
    Images: counted(index.total, "image") + (images.length < index.total ? `, ${images.length} shown, evenly spread` : ""),
    "Differ by": `${(100 * mean).toFixed(0)} % on average: 100 % less the IoU of masks matched one to one`,
    "Set aside by one": counted(images.length - known.length, "image"),
    Hidden: "",
  };
  for (const [name, text] of Object.entries(facts)) {
    const value = make("dd", { text });
    if (!text) value.id = "back";
    $("facts").append(make("div", {}, make("dt", { text: name }), value));
  }
  for (const [id, choices] of [["sort", SORTS], ["filter", FILTERS], ["best", BEST]]) {
    for (const [value, [text]] of Object.entries(choices)) $(id).append(make("option", { value, text }));
  }

  listen(SORTS);
  $("filter").addEventListener("change", changed);
  $("best").addEventListener("change", () => { layOut(); remember(); });
  $("clear").addEventListener("click", () => {
    $("query").value = "";
    $("filter").value = "all";
    changed();
  });
  recall();
}

start();
