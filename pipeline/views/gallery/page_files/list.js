// --- filters and order ---------------------------------------------------------------------------------------------

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

const CONTROLS = {}; // the tick at Masks is not kept

// --- cards -------------------------------------------------------------------------------------------------------

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

function fill(element, image, number) {
  const picture = element.querySelector(".picture");
  picture.append(...photoOf(image, number));
  if (image.failed) return;
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
