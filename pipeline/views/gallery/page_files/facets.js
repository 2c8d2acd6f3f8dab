// --- filters and order of a gallery, and its state in its address ----------------------------------------------------
// A page's own files have `facets`, `SORTS`, and `CONTROLS`, the ids of what else its address keeps, with usual values.

/** Choices of a facet are alternatives, facets are conditions that all must hold. of[i]: choices that fit image i.
 * upright: bars side by side; else below each other, and a choice may have a colour. */
function facet(name, title, choices, upright = false) {
  const of = images.map((image) => choices.flatMap((choice, c) => (choice.fits(image) ? [c] : [])));
  const totals = choices.map((_, c) => of.reduce((sum, fitting) => sum + fitting.includes(c), 0));
  return { name, title, choices, upright, of, totals, chosen: new Set(), counts: [...totals] };
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

const named = (values) => [...new Set(values)].sort();

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
      const label = make("span", {}, ...(choice.colour ? [dot(choice.colour)] : []), choice.label);
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
    $("facets").append(make("fieldset", { class: `facet facet-${one.name}` }, make("legend", { text: one.title }), body));
  }
}

function remember() {
  const state = new URLSearchParams();
  if ($("query").value) state.set("q", $("query").value);
  if ($("sort").value !== "name" || falling) state.set("sort", `${$("sort").value}${falling ? "-down" : "-up"}`);
  for (const [id, usual] of Object.entries(CONTROLS)) if ($(id).value !== usual) state.set(id, $(id).value);
  for (const one of facets) {
    if (one.chosen.size) state.set(one.name, [...one.chosen].map((c) => one.choices[c].key).join());
  }
  keepAddress(state);
}

function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  $("query").value = state.get("q") ?? "";
  const [, sort, direction] = (state.get("sort") ?? "name-up").match(/^(.*)-(down|up)$/) ?? [];
  $("sort").value = Object.hasOwn(SORTS, sort) ? sort : "name";
  falling = direction === "down";
  for (const [id, usual] of Object.entries(CONTROLS)) {
    $(id).value = state.get(id) ?? usual;
    if (!$(id).value) $(id).value = usual; // it was none of its choices
  }
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

