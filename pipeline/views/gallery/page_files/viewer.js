// --- a list of images of which only those in view are drawn, and one of them large, as all pages have it ------------
// A page's own files have `layOut`, `drawList`, `fill(element, image, number)`, `large(image, number)`, `remember`,
// `recall` and `changed`.

const list = $("list"), dialog = $("detail");
const shown = new Map(); // place in the list -> element
let falling = false; // direction of the order
let visible = []; // numbers of the images that fit, in order
let current = -1; // number of the image in the dialog

/** Put `visible` in the order that is chosen, and say how many there are. sorts: by name, text, value of an image, and
 * whether high ones come first. */
function sortVisible(sorts, isFiltered) {
  const [, valueOf] = sorts[$("sort").value];
  const values = new Map(visible.map((number) => [number, valueOf(images[number], number)]));
  visible.sort((a, b) => {
    const first = values.get(a), second = values.get(b);
    if (first === null || second === null) return (first === null) - (second === null) || a - b; // always last
    return (falling ? second - first : first - second) || a - b;
  });
  const all = counted(images.length, "image");
  $("shown").textContent = visible.length === images.length ? all : `${visible.length.toLocaleString("en")} of ${all}`;
  $("clear").hidden = !isFiltered;
  $("nothing").hidden = visible.length > 0;
  const byName = $("sort").value === "name";
  $("direction").textContent = falling ? (byName ? "↓ Z first" : "↓ high first") : byName ? "↑ A first" : "↑ low first";
  $("direction").setAttribute("aria-pressed", falling);
}

function clearPlaces() {
  for (const element of shown.values()) element.remove();
  shown.clear();
}

/** Draw these places with `place(position)`, and remove the others. */
function drawPlaces(first, end, place) {
  for (const [position, element] of shown) {
    const focused = element.contains(document.activeElement); // removing it would lose the keyboard's place
    if ((position < first || position >= end) && !focused) {
      element.remove();
      shown.delete(position);
    }
  }
  for (let position = first; position < end; position++) {
    if (shown.has(position)) continue;
    const element = place(position);
    shown.set(position, element);
    list.append(element);
    bring(element, visible[position]);
  }
}

/** What is shown of an image, or why it cannot be had: `failed`. */
const loaded = (number) => load(number).catch((error) => ({ failed: error.message }));

async function bring(element, number) {
  const image = await loaded(number);
  if (element.isConnected) fill(element, image, number); // else it was scrolled away meanwhile
}

async function open(number) {
  current = number;
  const image = await loaded(number);
  if (current !== number) return; // somebody was faster with the keys
  dialog.replaceChildren(...large(image, number));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  dialog.querySelector(".close").focus();
  remember();
}

function step(by) {
  const next = visible[visible.indexOf(current) + by];
  if (visible.includes(current) && next !== undefined) open(next);
}

/** Name of the image, with what the page says beside it, and the buttons. */
function head(number, ...beside) {
  const position = visible.indexOf(number);
  const button = (label, text, action, disabled, kind) => {
    const made = make("button", { type: "button", "aria-label": label, title: label, text, disabled, class: kind });
    made.addEventListener("click", action);
    return made;
  };
  return make("header", { class: "detail-head" },
    make("div", {}, make("h2", { id: "detail-name", text: images[number].id }), ...beside),
    button("Previous image (←)", "‹", () => step(-1), position <= 0),
    button("Next image (→)", "›", () => step(1), position < 0 || position === visible.length - 1),
    button("Close (Esc)", "×", () => dialog.close(), false, "close"));
}

// The page's state is in its address, so that a filtered list or an image can be linked to and survives a reload.

function keepAddress(state) {
  if (dialog.open && current >= 0) state.set("image", images[current].id);
  const hash = state.toString();
  const address = hash ? `#${hash}` : location.pathname + location.search;
  if (hash !== location.hash.slice(1)) history.replaceState(null, "", address);
}

function openAddressed(state) {
  const number = state.has("image") ? images.findIndex((image) => image.id === state.get("image")) : -1;
  if (number >= 0) open(number);
  else if (dialog.open) dialog.close();
}

/** sorts: see `sortVisible`. closed: called with the place of the image that
 * was open, -1 for one that is not in the list. */
function listen(sorts, closed = () => {}) {
  $("query").addEventListener("input", changed);
  $("sort").addEventListener("change", () => {
    falling = sorts[$("sort").value][2];
    changed();
  });
  $("direction").addEventListener("click", () => {
    falling = !falling;
    changed();
  });
  list.addEventListener("click", (event) => {
    const number = event.target.closest("[data-number]")?.dataset.number;
    if (number !== undefined) open(Number(number));
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      event.preventDefault();
      step(event.key === "ArrowLeft" ? -1 : 1);
    }
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside the dialog's content
  });
  dialog.addEventListener("close", () => {
    const position = visible.indexOf(current);
    current = -1;
    remember();
    closed(position);
  });
  let asked = false;
  window.addEventListener("scroll", () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      drawList();
    });
  }, { passive: true });
  let width = list.clientWidth;
  new ResizeObserver(() => {
    if (list.clientWidth === width) return;
    width = list.clientWidth;
    layOut();
  }).observe(list);
  window.addEventListener("resize", drawList);
  window.addEventListener("hashchange", recall);
}
