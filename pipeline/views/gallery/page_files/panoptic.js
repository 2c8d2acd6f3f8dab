// The gallery of panoptic labels: what labels.js shows, and instances. What the blocks hold of them is said at the top of
// pipeline/views/gallery/panoptic.py. The key of instance k is NONE + k: keys up to NONE are classes.

const STATUS = {
  ok: "with instances", no_instances: "classes alone", no_labels: "no classes", quarantined: "set aside",
};
const VIEWS = {
  segments: "things and stuff", labels: "classes", confidence: "confidence", photo: "photo alone",
};
const CONTROLS = { view: "segments", opacity: "60" };
const PANELS = [
  ["segments", "Things and stuff"], ["confidence", "Confidence", () => scale(VIRIDIS, "0", "1")],
];
const MORE_COLUMNS = ["", "Confidence", "Pixels", ""];
const LINE = [255, 255, 255]; // around instances: no class has this colour
const ROOM = 80; // pixels of a thumbnail that an instance has, if a line around it leaves something to see

const isThing = (c) => index.things[c];
const legendName = (c) => `${nameOfClass(c)} · ${isThing(c) ? "thing" : "stuff"}`;
const keyOf = (k) => NONE + k;
const isInstance = (key) => key > NONE;
const instanceOf = (image, key) => image.instances[key - NONE - 1];

async function decodeMore(image) {
  const [h, w] = image.small;
  const bytes = await inflated(image.ids);
  image.ids = new Uint16Array(h * w);
  image.seen = new Uint32Array(image.instances.length + 1); // pixels of each instance
  for (let i = 0; i < h * w; i++) image.seen[(image.ids[i] = bytes[i] | (bytes[h * w + i] << 8))]++;
}

// --- filters and order ---------------------------------------------------------------------------------------------

const moreFacets = () => [
  facet("instances", "Instances per image", countChoices(({ instances }) => instances, "instance", "instances"), true),
  facet("empty", "No instance because", named(images.flatMap(({ empty }) => empty || [])).map((key) => ({
    key, label: words(key), fits: (image) => image.empty === key,
  }))),
];
const moreSorts = () => ({
  instances: ["Number of instances", (image) => (image.status === "quarantined" ? null : image.instances), true],
});

// --- drawing -------------------------------------------------------------------------------------------------------

/** Things and stuff: of a thing class its instances alone, with a line around each; stuff weaker. */
function colouring(image, i, w, opacity, only, view) {
  if (view !== "segments") return colouringOfClass(image, i, w, opacity, only);
  const c = image.labels[i], k = image.ids[i];
  if (c === NONE || (isThing(c) && !k)) return [0, 0, 0, 0];
  const shown = !only.size || only.has(c) || (k && only.has(keyOf(k))) ? 1 : FAINT;
  if (!isThing(c)) return [...classes[c].colour, 255 * opacity * 0.75 * shown];
  const hasLine = opacity > 0 && image.seen[k] >= ROOM && (isEdge(image.ids, i, w) || isStart(image.ids, i, w));
  return hasLine ? [...LINE, 255 * shown] : [...classes[c].colour, 255 * Math.min(1, opacity + 0.2) * shown];
}

/** Whether an area of a map's value begins with this pixel, from the left or from above. */
const isStart = (map, i, w) => (i % w && map[i - 1] !== map[i]) || (i >= w && map[i - w] !== map[i]);

// --- cards, and one image, large -----------------------------------------------------------------------------------

function morePills(image, pill) {
  if (image.instances) pill(counted(image.instances, "instance"), "good");
  else pill(`no instance: ${words(image.empty)}`, "warn");
}

function keyAt(image, i) {
  const k = image.ids[i];
  return k && isThing(image.labels[i]) ? keyOf(k) : image.labels[i];
}

function nameOfKey(image, key) {
  if (!isInstance(key)) return nameOfClass(key);
  const one = instanceOf(image, key);
  return `${nameOfClass(one.class)}, instance ${key - NONE}, confidence ${one.confidence.toFixed(2)}`;
}

/** A row for each instance, the surest first. */
function moreRows(image, point) {
  const order = image.instances.map((one, place) => [one, keyOf(place + 1)]).sort(([a], [b]) => b.confidence - a.confidence);
  return order.map(([one, key]) => keyRow(key, point,
    make("td", {}, dot(classes[one.class].colour), `${key - NONE}: ${nameOfClass(one.class)}`),
    make("td", { text: one.confidence.toFixed(2) }), make("td", { text: one.area.toLocaleString("en") }),
    make("td", { text: isThing(one.class) ? "" : "joins the stuff of its class" })));
}

const moreFacts = (run) => ({
  Things: `${index.things.filter(Boolean).length} of ${classes.length} classes`,
  Instances: run.instances === null ? "" : run.instances.toLocaleString("en"),
  "No instance in": run.empty === null ? "" : Object.entries(run.empty).map(([reason, n]) => `${n} ${words(reason)}`).join(", "),
});
