// --- one image, large ----------------------------------------------------------------------------------------------

function large(image, number) {
  const parts = image.failed ? [make("p", { text: image.failed })] : detail(image, number);
  return [head(number, pillsOf(images[number])), ...parts];
}

/** "Mask 1" of a tree, "Region 2 at τ 0.4" of a hierarchy; "Round 1" or, where it gave several, "Round 1, piece 2". */
function nameOf(proposal, proposals) {
  if (merging && proposal.dropped?.match(/background|front/)) return "Background";
  if (inTree || merging) return `Mask ${proposal.round + 1}`;
  const together = proposals.filter((one) => one.round === proposal.round);
  if (merged) return `Region ${together.indexOf(proposal) + 1} at τ ${proposal.tau}`;
  const piece = together.length > 1 ? `, piece ${together.indexOf(proposal) + 1}` : "";
  return `Round ${proposal.round + 1}${piece}`;
}

/** The panels of one image, the table of its instances, what was dropped, and its proposals. */
function detail(image, number) {
  const { instances, proposals } = image;
  const processed = image.status !== "quarantined";
  let hot = -1; // the instance that is pointed at

  const masks = labelled(`Masks of ${counted(instances.length, "instance")}`);
  const depth = labelled("Depth"), eigenvector = labelled(VECTOR);
  const group = labelled(GROUP), confidence = labelled("Spatial confidence");
  const ofProposal = [make("span"), make("span")], ofInstance = make("span");
  const main = picture(image, ...photoOf(image, number), masks);
  main.style.width = `min(100%, calc(74vh * ${shapeOf(image)}))`;

  const size = image.size[0] ? `${image.size[1]} × ${image.size[0]} px` : "Size unknown";
  const panels = [make("figure", { class: "main" }, main,
    caption(size, instances.length ? ": masks as strong as they are confident" : ""))];
  const panel = (box, ...words) => panels.push(make("figure", {}, box, caption(...words)));
  if (image.depth) panel(picture(image, depth), "Depth", ...scale(DEPTH, "near", "far"));
  if (proposals?.length) {
    panel(picture(image, eigenvector), VECTOR, ofProposal[0], ...scale(VIRIDIS, "low", "high"));
    panel(picture(image, ...photoOf(image, number), group), GROUP, ofProposal[1]);
  }
  if (processed && hasMaps) {
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
    for (const span of ofProposal) span.textContent = ` of ${nameOf(proposal, proposals).toLowerCase()}`;
  }

  if (image.depth) paintDepth(depth, image, PANEL);
  requestAnimationFrame(paint); // by then the picture has its size
  return [
    make("div", { class: panels.length < 4 ? "panels few" : "panels" }, ...panels),
    ...instanceTable(rows), ...dropList(number), ...(processed ? proposalList(image, number) : []),
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
  const share = (100 * instance.area) / (image.size[0] * image.size[1]);
  const parts = measured.map((part) => {
    const kind = counting.includes(part) ? "part" : "part idle";
    const cell = make("td", { class: kind, text: instance.parts[part].toFixed(2) });
    cell.style.setProperty("--share", instance.parts[part]);
    return cell;
  });
  const rest = [
    instance.confidence.toFixed(2), instance.crf_iou.toFixed(2), `${instance.area.toLocaleString("en")} px`,
    `${share.toFixed(1)} %`, String(instance.round + 1),
    ...(merged ? [LEVELS_OF_MASKS[instance.level] ?? "–"] : []),
  ];
  const row = make("tr", { tabindex: "0" },
    make("td", {}, dot(colourOf(k)), `Instance ${k + 1}`), make("td", { text: instance.score.toFixed(3) }), ...parts,
    ...rest.map((text) => make("td", { text })));
  for (const event of ["pointerenter", "focus"]) row.addEventListener(event, () => point(k));
  for (const event of ["pointerleave", "blur"]) row.addEventListener(event, () => point(-1));
  return row;
}

function instanceTable(rows) {
  if (!rows.length) return [];
  const heading = (text, title) => make("th", { scope: "col", text, title });
  const rest = ["Mean confidence", "CRF agrees (IoU)", "Area", "Of the image", WHERE, ...(merged ? ["Level"] : [])];
  const head = make("tr", {}, heading(""), heading("Score"),
    ...measured.map((part) => heading(part[0].toUpperCase() + part.slice(1), PARTS[part])),
    ...rest.map((text) => heading(text)));
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  const product = !index.run.score ? "The score is what the masks came with."
    : index.run.score === "constant" ? "The score is 1 for every mask; the bars say what else is known."
    : `The score is the product ${counting.join(" × ")}.`;
  return [make("h3", { text: "Instances" }), make("div", { class: "scroll" }, table),
    make("p", { class: "hint", text: product })];
}

function dropList(number) {
  const drops = Object.entries(images[number].drops);
  if (!drops.length) return [];
  const lines = drops.map(([reason, n]) => make("li", {},
    make("span", { class: "pill warn", text: words(reason) }),
    ` ${counted(n, "proposal")}: ${REASONS[reason] ?? reason}`));
  return [make("h3", { text: "Dropped" }), make("ul", { class: "plain" }, ...lines)];
}

function proposalList(image, number) {
  const { proposals } = image;
  if (!index.run.searched) return []; // no cuts of ours: there never were any
  const title = make("h3", {
    text: inTree ? "Best of the tree of cuts" : merging ? "Merged masks" : merged ? "Regions" : "Rounds",
  });
  if (!proposals) {
    return [title, make("p", { class: "hint" },
      merged ? "Regions and dropped proposals are not kept for this image. "
        : "Eigenvectors, groups and dropped proposals are not kept for this image. ",
      make("code", { text: `cuts3d run --out ${index.run.name} --until confidence` }),
      " keeps them; then make the gallery again.")];
  }
  const rounds = counted(new Set(proposals.map((one) => one.round)).size, "round");
  const boxes = make("div", { class: "proposals" }, ...proposals.map((one) => proposalBox(image, number, one)));
  if (merged) {
    return [title, boxes, make("p", { class: "hint" }, "Likeness: cosine of each patch with the region's mean feature. " +
      "Disc: the region's patch most like it. In colour: regions that became masks.")];
  }
  const end = inTree ? "Of all parts of the tree and their pieces these scored best."
    : merging ? "All that is left after merging."
    : `After ${rounds}: ${STOPS[image.stop] ?? image.stop}.`;
  const legend = `Disc: source of LocalCut; square: its sink. Grey: the ${inTree ? "part of the tree" : merging ? "merged mask" : "group"}; ` +
    "in colour: the mask cut out of it.";
  return [title, boxes, make("p", { class: "hint", text: `${end} ${legend}` })];
}

function proposalBox(image, number, proposal) {
  const name = nameOf(proposal, image.proposals);
  const left = labelled(`${VECTOR} of ${name.toLowerCase()}`);
  const right = labelled(`${GROUP} and mask of ${name.toLowerCase()}`);
  paintEigenvector(left, image, PANEL, proposal);
  paintGroup(right, image, PANEL, proposal, Boolean(image.photo));
  for (const canvas of [left, right]) markTerminals(canvas, proposal);
  const { dropped } = proposal;
  const fate = dropped
    ? make("span", { class: "pill warn", text: `dropped: ${words(dropped)}`, title: REASONS[dropped] })
    : make("span", { class: "pill good", text: `instance ${proposal.instance + 1}` });
  const value = (number) => (number === null ? "–" : number.toFixed(3));
  const patches = counted(proposal.patches, "patch", "patches");
  const piece = proposal.tau === null ? "the part as it is" : `piece at τ ${value(proposal.tau)}`;
  const tree = inTree ? ` · ${piece}, after ${counted(proposal.level, "cut")}` : "";
  const figures = make("small", merged || merging ? { text: patches } : {
    text: `${patches}${tree} · λ₂ ${value(proposal.eigenvalue)} · gap ${value(proposal.gap)}`,
    title: "λ₂: eigenvalue of the normalised cut; gap: λ₃ − λ₂, small when the cut is ambiguous",
  });
  return make("div", { class: "proposal" },
    make("header", {}, make("strong", { text: name }), fate, figures),
    make("div", { class: "pair" }, make("figure", {}, picture(image, left)),
      make("figure", {}, picture(image, ...photoOf(image, number), right))));
}
