// --- the cards of a gallery, all of one size, and the facts above them -----------------------------------------------
// A page's own files have `card(number)`.

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

const problem = (reason, detail) => make("span", { class: "problem" },
  make("strong", { text: words(reason) }), make("small", { text: detail, title: detail }));

/** The photo, or why there is none, and why the image was set aside. */
function photoOf(image, number) {
  if (image.failed) return [problem("not shown", image.failed)];
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

const imagesOf = (run) => {
  const all = counted(run.images, "image");
  const finished = run.finished === run.images ? all : `${run.finished.toLocaleString("en")} of ${all} finished`;
  return finished + (images.length < run.finished ? `, ${images.length.toLocaleString("en")} shown, evenly spread` : "");
};

function writeFacts(facts) {
  for (const [name, text] of Object.entries(facts)) {
    if (!text) continue; // imports, and methods of other packages, know nothing of these
    $("facts").append(make("div", {}, make("dt", { text: name }), make("dd", { text })));
  }
}

/** Facets, order and keys. */
function startCards() {
  buildFacets();
  if (window.innerWidth < 700) $("facets-box").open = false;
  for (const [name, [label]] of Object.entries(SORTS)) $("sort").append(make("option", { value: name, text: label }));
  listen(SORTS, (position) => position >= 0 && focusOn(position));
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
}
