// --- one image, large ----------------------------------------------------------------------------------------------

const dialog = $("detail");
const PANEL = 480; // pixels across
let current = -1; // number of the image in the dialog

async function open(number) {
  current = number;
  const image = await load(number).catch((error) => ({ failed: error.message }));
  if (current !== number) return; // somebody was faster with the keys
  dialog.replaceChildren(head(number), ...(image.failed ? [make("p", { text: image.failed })] : detail(image, number)));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  dialog.querySelector(".close").focus();
  remember();
}

function step(by) {
  const next = visible[visible.indexOf(current) + by];
  if (visible.includes(current) && next !== undefined) open(next);
}

function head(number) {
  const position = visible.indexOf(number);
  const button = (label, text, action, disabled, kind) => {
    const made = make("button", { type: "button", "aria-label": label, title: label, text, disabled, class: kind });
    made.addEventListener("click", action);
    return made;
  };
  return make("header", { class: "detail-head" },
    make("div", {}, make("h2", { id: "detail-name", text: images[number].id }), pillsOf(images[number])),
    button("Previous image (←)", "‹", () => step(-1), position <= 0),
    button("Next image (→)", "›", () => step(1), position < 0 || position === visible.length - 1),
    button("Close (Esc)", "×", () => dialog.close(), false, "close"));
}

const shapeOf = (image) => (image.size[0] ? image.small[1] / image.small[0] : 4 / 3);
const labelled = (label) => make("canvas", { role: "img", "aria-label": label, width: 4, height: 3 });
const caption = (title, ...rest) => make("figcaption", {}, make("strong", { text: title }), ...rest);

/** Layers on each other in a box of the photo's shape. */
function picture(image, ...layers) {
  const box = make("span", { class: "picture" }, ...layers);
  box.style.aspectRatio = shapeOf(image);
  return box;
}

function scale(colours, from, to) {
  const bar = make("span", { class: "scale" });
  bar.style.background = `linear-gradient(90deg, ${colours.map((c) => `rgb(${c.map(Math.round)})`).join()})`;
  return [make("br"), from, bar, to];
}

/** The panels of one image, the table of its instances, what was dropped, and its rounds. */
function detail(image, number) {
  const { instances, proposals } = image;
  const processed = image.status !== "quarantined";
  let hot = -1; // the instance that is pointed at

  const masks = labelled(`Masks of ${counted(instances.length, "instance")}`);
  const depth = labelled("Depth"), eigenvector = labelled("Eigenvector");
  const group = labelled("Semantic group"), confidence = labelled("Spatial confidence");
  const ofRound = [make("span"), make("span")], ofInstance = make("span");
  const main = picture(image, ...photoOf(image, number), masks);
  main.style.width = `min(100%, calc(74vh * ${shapeOf(image)}))`;

  const size = image.size[0] ? `${image.size[1]} × ${image.size[0]} px` : "Size unknown";
  const panels = [make("figure", { class: "main" }, main,
    caption(size, instances.length ? ": masks as strong as they are confident" : ""))];
  const panel = (box, ...words) => panels.push(make("figure", {}, box, caption(...words)));
  if (image.depth) panel(picture(image, depth), "Depth", ...scale(DEPTH, "near", "far"));
  if (proposals?.length) {
    panel(picture(image, eigenvector), "Eigenvector", ofRound[0], ...scale(VIRIDIS, "low", "high"));
    panel(picture(image, ...photoOf(image, number), group), "Semantic group", ofRound[1]);
  }
  if (processed) {
    panel(picture(image, confidence), "Spatial confidence", ofInstance, make("br"), "dark: unsure, bright: sure");
  }
  const rows = instances.map((_, k) => instanceRow(image, k, point));
  main.addEventListener("pointermove", (event) => point(instanceAt(image, main.getBoundingClientRect(), event)));
  main.addEventListener("pointerleave", () => point(-1));

  function point(k) {
    if (k === hot) return;
    hot = k;
    paint();
  }

  function paint() {
    rows.forEach((row, k) => row.classList.toggle("hot", k === hot));
    const width = Math.min(1000, Math.max(320, Math.round(main.clientWidth * devicePixelRatio)));
    if (instances.length) paintMasks(masks, image, width, hot);
    if (processed) paintConfidence(confidence, image, PANEL, hot);
    ofInstance.textContent = hot < 0 ? "" : ` of instance ${hot + 1}`;
    if (!proposals?.length) return;
    const proposal = (hot >= 0 && proposals.find((one) => one.instance === hot)) || proposals[0];
    paintEigenvector(eigenvector, image, PANEL, proposal);
    paintGroup(group, image, PANEL, proposal, Boolean(image.photo));
    markTerminals(group, proposal);
    for (const span of ofRound) span.textContent = ` of round ${proposal.round + 1}`;
  }

  if (image.depth) paintDepth(depth, image, PANEL);
  requestAnimationFrame(paint); // by then the picture has its size
  return [
    make("div", { class: panels.length < 4 ? "panels few" : "panels" }, ...panels),
    ...instanceTable(rows), ...dropList(number), ...(processed ? rounds(image, number) : []),
  ];
}

/** The instance under the mouse, the smallest where several are, or -1. */
function instanceAt(image, box, event) {
  const [h, w] = image.small;
  const x = Math.floor(((event.clientX - box.left) / box.width) * w);
  const y = Math.floor(((event.clientY - box.top) / box.height) * h);
  const under = image.instances.map((_, k) => k).filter((k) => x >= 0 && x < w && image.instances[k].mask[y * w + x]);
  return under.sort((a, b) => image.instances[a].area - image.instances[b].area)[0] ?? -1;
}

function instanceRow(image, k, point) {
  const instance = image.instances[k];
  const dot = make("span", { class: "dot" });
  dot.style.background = `rgb(${colourOf(k)})`;
  const share = (100 * instance.area) / (image.size[0] * image.size[1]);
  const values = [
    instance.score.toFixed(3), instance.confidence.toFixed(3), instance.contrast.toFixed(3),
    instance.crf_iou.toFixed(2), `${instance.area.toLocaleString("en")} px`, `${share.toFixed(1)} %`,
    String(instance.round + 1),
  ];
  const row = make("tr", { tabindex: "0" },
    make("td", {}, dot, `Instance ${k + 1}`), ...values.map((text) => make("td", { text })));
  for (const event of ["pointerenter", "focus"]) row.addEventListener(event, () => point(k));
  for (const event of ["pointerleave", "blur"]) row.addEventListener(event, () => point(-1));
  return row;
}

function instanceTable(rows) {
  if (!rows.length) return [];
  const titles = ["", "Score", "Mean confidence", "Contrast", "CRF agrees (IoU)", "Area", "Of the image", "Round"];
  const head = make("tr", {}, ...titles.map((text) => make("th", { scope: "col", text })));
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  return [make("h3", { text: "Instances" }), make("div", { class: "scroll" }, table)];
}

function dropList(number) {
  const drops = Object.entries(images[number].drops);
  if (!drops.length) return [];
  const lines = drops.map(([reason, n]) => make("li", {},
    make("span", { class: "pill warn", text: words(reason) }),
    ` ${counted(n, "proposal")}: ${REASONS[reason] ?? reason}`));
  return [make("h3", { text: "Dropped" }), make("ul", { class: "plain" }, ...lines)];
}

function rounds(image, number) {
  const title = make("h3", { text: "Rounds" });
  if (!image.proposals) {
    return [title, make("p", { class: "hint" },
      "Eigenvectors, groups and dropped proposals are not kept for this image. ",
      make("code", { text: `cuts3d run --out ${index.run.name} --until confidence` }),
      " keeps them; then make the gallery anew.")];
  }
  const end = `After ${counted(image.proposals.length, "round")}: ${STOPS[image.stop] ?? image.stop}.`;
  const legend = "Disc: source of LocalCut; square: its sink. Grey: the group; in colour: the mask cut out of it.";
  return [title, make("div", { class: "rounds" }, ...image.proposals.map((one) => round(image, number, one))),
    make("p", { class: "hint", text: `${end} ${legend}` })];
}

function round(image, number, proposal) {
  const left = labelled(`Eigenvector of round ${proposal.round + 1}`);
  const right = labelled(`Group and mask of round ${proposal.round + 1}`);
  paintEigenvector(left, image, PANEL, proposal);
  paintGroup(right, image, PANEL, proposal, Boolean(image.photo));
  for (const canvas of [left, right]) markTerminals(canvas, proposal);
  const { dropped } = proposal;
  const fate = dropped
    ? make("span", { class: "pill warn", text: `dropped: ${words(dropped)}`, title: REASONS[dropped] })
    : make("span", { class: "pill good", text: `instance ${proposal.instance + 1}` });
  const value = (number) => (number === null ? "–" : number.toFixed(3));
  const patches = counted(proposal.patches, "patch", "patches");
  const figures = make("small", {
    text: `${patches} · λ₂ ${value(proposal.eigenvalue)} · gap ${value(proposal.gap)}`,
    title: "λ₂: eigenvalue of the normalised cut; gap: λ₃ − λ₂, small when the cut is ambiguous",
  });
  return make("div", { class: "round" },
    make("header", {}, make("strong", { text: `Round ${proposal.round + 1}` }), fate, figures),
    make("div", { class: "pair" }, make("figure", {}, picture(image, left)),
      make("figure", {}, picture(image, ...photoOf(image, number), right))));
}
