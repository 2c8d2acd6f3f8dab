// --- the page's state in its address ---------------------------------------------------------------------------------

function remember() {
  const state = new URLSearchParams();
  if ($("query").value) state.set("q", $("query").value);
  if ($("sort").value !== "name" || falling) state.set("sort", `${$("sort").value}${falling ? "-down" : "-up"}`);
  for (const one of facets) {
    if (one.chosen.size) state.set(one.name, [...one.chosen].map((c) => one.choices[c].key).join());
  }
  keepAddress(state);
}

function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  $("query").value = state.get("q") ?? "";
  const [sort, direction] = (state.get("sort") ?? "name-up").split("-");
  $("sort").value = sort in SORTS ? sort : "name";
  falling = direction === "down";
  for (const one of facets) {
    const keys = state.get(one.name)?.split(",") ?? [];
    one.chosen = new Set(one.choices.flatMap((choice, c) => (keys.includes(choice.key) ? [c] : [])));
  }
  refilter();
  openAddressed(state);
}

function changed() {
  refilter();
  const top = list.offsetTop - document.querySelector(".bar").offsetHeight - GAP;
  if (window.scrollY > list.offsetTop) window.scrollTo(0, top);
  remember();
}

// --- start ---------------------------------------------------------------------------------------------------------

function drawFacts() {
  const run = index.run;
  const number = (n) => n.toLocaleString("en");
  const all = counted(run.images, "image");
  const finished = run.finished === run.images ? all : `${number(run.finished)} of ${all} finished`;
  const facts = {
    Images: finished + (images.length < run.finished ? `, ${number(images.length)} shown, evenly spread` : ""),
    Masks: `${number(run.masks)}, ${(run.masks / Math.max(run.finished - run.quarantined, 1)).toFixed(2)} per image`,
    Dropped: Object.entries(run.drops).map(([reason, n]) => `${number(n)} ${words(reason)}`).join(", ") || "none",
    "Set aside": counted(run.quarantined, "image"),
    Recipe: run.recipe, Score: run.score.replaceAll("*", " × "), Features: run.features, Depth: run.depth,
    Run: `${run.created.slice(0, 10)}, ${run.fingerprint}`,
  };
  for (const [name, text] of Object.entries(facts)) {
    if (!text) continue; // imports, and methods of other packages, know nothing of these
    $("facts").append(make("div", {}, make("dt", { text: name }), make("dd", { text })));
  }
}

function start() {
  drawFacts();
  buildFacets();
  if (window.innerWidth < 700) $("facets-box").open = false;
  for (const [name, [label]] of Object.entries(SORTS)) $("sort").append(make("option", { value: name, text: label }));
  listen(SORTS, (position) => position >= 0 && focusOn(position));
  $("masks").addEventListener("change", layOut);
  $("clear").addEventListener("click", () => {
    $("query").value = "";
    for (const one of facets) one.chosen.clear();
    changed();
  });
  list.addEventListener("keydown", (event) => {
    const position = Number(event.target.closest("[data-position]")?.dataset.position);
    const to = {
      ArrowLeft: position - 1, ArrowRight: position + 1, ArrowUp: position - columns, ArrowDown: position + columns,
      Home: 0, End: visible.length - 1,
    }[event.key];
    if (to === undefined || Number.isNaN(to)) return;
    event.preventDefault();
    focusOn(to);
  });
  recall();
}

start();
