// --- panels of one image, large --------------------------------------------------------------------------------------

const PANEL = 480; // pixels across

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
