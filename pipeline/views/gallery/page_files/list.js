// --- filters and order ---------------------------------------------------------------------------------------------

/** Choices of a facet are alternatives, facets are conditions that all must hold. of[i]: choices that fit image i. */
function facet(name, title, choices, upright = false) {
  const of = images.map((image) => choices.flatMap((choice, c) => (choice.fits(image) ? [c] : [])));
  const totals = choices.map((_, c) => of.reduce((sum, fitting) => sum + fitting.includes(c), 0));
  return { name, title, choices, upright, of, totals, chosen: new Set(), counts: [...totals] };
}

/** Ten bins of a round width that hold all scores, from 0 where that is not far off. */
function scoreChoices() {
  let [low, high] = extremes(images.flatMap((image) => image.scores));
  if (low > 0 && low < high) low = 0;
  const widths = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100];
  if (low === high && low >= 0 && high <= 1) low = 0; // scores that are all alike: MaskCut's 1
  const width = widths.find((w) => Math.floor(low / w) * w + 10 * w >= high - 1e-9) ?? (high - low) / 10;
  const start = Math.floor(low / width + 1e-9) * width;
  return Array.from({ length: 10 }, (_, bin) => {
    const from = start + bin * width, last = bin === 9;
    return {
      key: from.toFixed(2),
      label: from.toFixed(width < 0.1 ? 2 : width < 1 ? 1 : 0).replace(/^(-?)0\./, "$1."),
      spoken: `${from.toFixed(2)} to ${(from + width).toFixed(2)}`,
      fits: (image) => image.scores.some((s) => s >= from - 1e-9 && (s < from + width - 1e-9 || last)),
    };
  });
}

/** Lowest and highest; Math.min(...values) has a limit on their number. */
function extremes(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return values.length ? [low, high] : [0, 1];
}

function countChoices() {
  const last = 10; // and more
  const most = Math.min(last, extremes(images.map((image) => image.scores.length))[1]);
  return Array.from({ length: most + 1 }, (_, n) => ({
    key: String(n),
    label: n === last ? `${n}+` : String(n),
    spoken: n === last ? `${n} or more masks` : counted(n, "mask"),
    fits: (image) => image.status !== "quarantined" && Math.min(image.scores.length, last) === n,
  }));
}

const named = (values) => [...new Set(values)].sort();
const facets = [
  facet("status", "Status", Object.entries(STATUS).map(([key, label]) => ({
    key, label, fits: (image) => image.status === key,
  }))),
  facet("count", "Masks per image", countChoices(), true),
  facet("score", "Score of a mask", scoreChoices(), true),
  facet("drop", "Proposals dropped because", named(images.flatMap(({ drops }) => Object.keys(drops))).map((key) => ({
    key, label: words(key), spoken: REASONS[key] ?? key, fits: (image) => image.drops[key] > 0,
  }))),
  facet("reason", "Images set aside because", named(images.flatMap(({ reason }) => reason || [])).map((key) => ({
    key, label: words(key), fits: (image) => image.reason === key,
  }))),
].filter((one) => one.choices.length);

const SORTS = {
  name: ["File name", (image, number) => number, false],
  best: ["Best score", best, true],
  mean: ["Mean score", ({ scores }) => (scores.length ? scores.reduce((a, b) => a + b) / scores.length : null), true],
  worst: ["Lowest score", ({ scores }) => (scores.length ? Math.min(...scores) : null), false],
  count: ["Number of masks", (image) => image.scores.length, true],
  drops: ["Number of drops", dropCount, true],
  status: ["Status", (image) => Object.keys(STATUS).indexOf(image.status), true],
  ...Object.fromEntries(measured.map((part) => {
    const place = Object.keys(index.parts).indexOf(part);
    return [part, [`Mean ${part}`, (image) => (image.scores.length ? image.parts[place] : null), true]];
  })),
};

function refilter() {
  const wanted = $("query").value.trim().toLowerCase();
  for (const one of facets) one.counts.fill(0);
  visible = [];
  images.forEach((image, number) => {
    if (wanted && !image.id.toLowerCase().includes(wanted)) return;
    const failing = facets.filter((one) => one.chosen.size && !one.of[number].some((c) => one.chosen.has(c)));
    // A bar says how many images its choice would give: all other facets hold, its own does not matter.
    const counting = failing.length === 0 ? facets : failing.length === 1 ? failing : [];
    for (const one of counting) for (const c of one.of[number]) one.counts[c]++;
    if (!failing.length) visible.push(number);
  });
  sortVisible(SORTS, wanted || facets.some((one) => one.chosen.size));
  drawFacets();
  layOut();
}

function drawFacets() {
  for (const one of facets) {
    const most = Math.max(1, ...one.totals);
    one.buttons.forEach((button, c) => {
      const { label, spoken = label } = one.choices[c];
      const count = one.counts[c], total = one.totals[c];
      const [bar, part] = [button.querySelector("i"), button.querySelector("b")];
      bar.style[one.upright ? "height" : "width"] = `${(100 * total) / most * (one.upright ? 0.76 : 1)}%`;
      part.style[one.upright ? "height" : "width"] = `${total ? (100 * count) / total : 0}%`;
      if (!one.upright) button.lastChild.textContent = count.toLocaleString("en");
      button.setAttribute("aria-pressed", one.chosen.has(c));
      button.setAttribute("aria-label", `${one.title}: ${spoken}, ${counted(count, "image")}`);
      button.title = `${spoken}: ${counted(count, "image")}`;
    });
  }
}

function buildFacets() {
  for (const one of facets) {
    one.buttons = one.choices.map((choice, c) => {
      const bar = make("i", {}, make("b"));
      const label = make("span", { text: choice.label });
      const button = one.upright
        ? make("button", { type: "button", class: "column" }, bar, label)
        : make("button", { type: "button", class: "row" }, label, bar, make("span"));
      button.addEventListener("click", () => {
        if (!one.chosen.delete(c)) one.chosen.add(c);
        changed();
      });
      return button;
    });
    const body = make("div", { class: one.upright ? "columns" : "rows" }, ...one.buttons);
    $("facets").append(make("fieldset", { class: "facet" }, make("legend", { text: one.title }), body));
  }
}

// --- the list ------------------------------------------------------------------------------------------------------

const GAP = 16;
let columns = 1, cardWidth = 300, rowHeight = 400;

function layOut() {
  const width = list.clientWidth;
  columns = Math.max(1, Math.floor((width + GAP) / (300 + GAP)));
  cardWidth = (width - GAP * (columns - 1)) / columns;
  clearPlaces();
  if (visible.length) {
    const probe = place(0);
    list.append(probe);
    rowHeight = probe.offsetHeight + GAP; // all cards are equally tall
    probe.remove();
  }
  list.style.height = `${Math.max(0, Math.ceil(visible.length / columns) * rowHeight - GAP)}px`;
  drawList();
}

function drawList() {
  const top = window.scrollY - list.offsetTop;
  const first = Math.max(0, Math.floor(top / rowHeight) - 1) * columns;
  const end = Math.min(visible.length, (Math.ceil((top + window.innerHeight) / rowHeight) + 1) * columns);
  drawPlaces(first, end, place);
}

function place(position) {
  const element = make("div", {
    class: "place", role: "listitem", "data-position": position,
    "aria-posinset": position + 1, "aria-setsize": visible.length,
  }, card(visible[position]));
  element.style.width = `${cardWidth}px`;
  const x = (position % columns) * (cardWidth + GAP), y = Math.floor(position / columns) * rowHeight;
  element.style.transform = `translate(${x}px, ${y}px)`;
  return element;
}

function pillsOf(image) {
  const pills = [];
  const pill = (text, kind, title) => pills.push(make("span", { class: `pill ${kind}`, text, title }));
  if (image.status === "quarantined") pill(`set aside: ${words(image.reason)}`, "bad");
  else pill(counted(image.scores.length, "mask"), image.scores.length ? "good" : "");
  if (image.scores.length) pill(`best ${best(image).toFixed(2)}`, "");
  for (const [reason, n] of Object.entries(image.drops)) {
    const title = `${counted(n, "proposal")} dropped: ${REASONS[reason] ?? reason}`;
    pill(`${n > 1 ? n + "× " : ""}${words(reason)}`, "warn", title);
  }
  return make("span", { class: "pills" }, ...pills);
}

// What the maps of cuts show in other searches.
const LABELS = inTree ? { group: "part" } : merging ? { eigenvector: "affinity", group: "mask" }
  : merged ? { eigenvector: "likeness", group: "region" } : {};

/** A card with everything but pictures, which `fill` brings. */
function card(number) {
  const image = images[number];
  const maps = index.kept ? ["depth", "eigenvector", "group", "confidence"] : ["depth", "confidence"];
  const strip = (hasMaps ? maps : []).map((name) =>
    make("span", {},
      make("canvas", { class: name, width: 4, height: 3, "aria-hidden": "true" }),
      make("em", { text: LABELS[name] ?? name })));
  const button = make("button", { type: "button", class: "card", "data-number": number },
    make("span", { class: "picture" }),
    make("span", { class: "strip" }, ...strip),
    make("span", { class: "caption" },
      make("span", { class: "name", text: image.id, title: image.id }), pillsOf(image)));
  const scores = image.scores.length ? `, best score ${best(image).toFixed(2)}` : "";
  const masks = counted(image.scores.length, "mask") + scores;
  const what = image.status === "quarantined" ? `set aside: ${image.reason}` : masks;
  button.setAttribute("aria-label", `${image.id}, ${what}. Open`);
  return button;
}

async function fill(element, number) {
  let image;
  try {
    image = await load(number);
  } catch (error) {
    if (element.isConnected) element.querySelector(".picture").append(problem("not shown", error.message));
    return;
  }
  if (!element.isConnected) return; // scrolled away meanwhile
  const picture = element.querySelector(".picture");
  picture.append(...photoOf(image, number));
  if ($("masks").checked && image.instances.length) {
    const canvas = make("canvas", { class: "masks", "aria-hidden": "true" });
    // As wide as the photo in its 4:3 box.
    const width = Math.min(cardWidth, (cardWidth * 0.75 * image.small[1]) / image.small[0]);
    paintMasks(canvas, image, Math.round(width * Math.min(devicePixelRatio, 1.5)));
    picture.append(canvas);
  }
  const first = image.proposals?.[0];
  const canvas = (name) => element.querySelector(`canvas.${name}`);
  if (image.depth && hasMaps) paintDepth(canvas("depth"), image, 160);
  if (first) paintEigenvector(canvas("eigenvector"), image, 160, first);
  if (first) paintGroup(canvas("group"), image, 160, first, false);
  if (image.status !== "quarantined" && hasMaps) paintConfidence(canvas("confidence"), image, 160);
}

const problem = (reason, detail) => make("span", { class: "problem" },
  make("strong", { text: words(reason) }), make("small", { text: detail, title: detail }));

/** The photo, or why there is none, and why the image was set aside. */
function photoOf(image, number) {
  const parts = [];
  if (image.photo) {
    const photo = make("img", { alt: `Photo ${images[number].id}`, decoding: "async", draggable: "false" });
    photo.src = `data:image/webp;base64,${image.photo}`;
    parts.push(photo);
  }
  if (image.status === "quarantined") parts.push(problem(images[number].reason, image.detail));
  else if (image.problem) parts.push(problem(`photo ${image.problem.reason}`, image.problem.detail));
  return parts;
}

function focusOn(position) {
  if (!visible.length) return;
  position = Math.min(Math.max(position, 0), visible.length - 1);
  const top = list.offsetTop + Math.floor(position / columns) * rowHeight;
  const hidden = document.querySelector(".bar").offsetHeight + GAP;
  if (top - hidden < window.scrollY) window.scrollTo(0, top - hidden);
  else if (top + rowHeight > window.scrollY + window.innerHeight) {
    window.scrollTo(0, top + rowHeight - window.innerHeight);
  }
  drawList();
  shown.get(position)?.querySelector("button").focus({ preventScroll: true });
}
