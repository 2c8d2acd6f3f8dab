// The gallery: a list of cards, of which only those in view exist, and a dialog with one image large. Its program is
// these files one after the other, as one script: data.js, drawing.js, list.js, detail.js, start.js. What the data
// blocks hold is said at the top of pipeline/views/gallery/blocks.py. Text from the run (file names!) is set as text, never
// as markup.
"use strict";

const $ = (id) => document.getElementById(id);
const index = JSON.parse($("index").textContent);
const images = index.images;
const [gridRows, gridColumns] = index.grid;
const cells = gridRows * gridColumns;
const hasMaps = cells > 1; // imports have a grid of one patch, which shows nothing
const LEVELS = 127;
const CACHED = 150; // decoded images that are kept, some 0.3 MB each

const STATUS = { ok: "with masks", no_masks: "no masks", quarantined: "set aside" };
const REASONS = {
  too_small: "area at or below the least share of the image",
  overlaps_previous: "the earlier mask over again",
  covered: "nothing is left once the earlier masks are taken out",
  crowd: "it marks a crowd",
  no_mask: "it has no segmentation",
  empty: "no pixel belongs to it",
  malformed: "its outline or code is none",
  other_size: "it is of another size than the photo",
  duplicate: "the same mask is there already",
  low_score: "it scores less than was asked for",
  crf_disagrees: "the dense CRF turned it into something else",
  no_background: "nothing in the image looks like background, so the image has no masks",
  little_background: "the background is too small to tell anything from, so the image has no masks",
  nothing_in_front: "no mask stands out from the background",
  unattended: "the class token does not look at it",
};
const STOPS = {
  rounds: "all rounds were run",
  nothing_left: "the next group held no patch that was not taken before",
  rest: "the next group was just what the earlier rounds had left over",
};
const PARTS = {
  contrast: "how unlike its surroundings the mask looks to the features",
  uniqueness: "share of what looks like the mask that is inside of it",
  nearness: "share of the outline beyond which the scene is farther",
  clearance: "share of the image's border that the mask leaves free",
  stability: "mean Spatial Confidence before its floor: how little the mask changes with LocalCut's threshold",
  novelty: "lower the more it overlaps better masks of the image",
};
const inTree = index.run.searched === "tree", merging = index.run.searched === "merge";
const measured = Object.keys(index.parts).filter((part) => index.parts[part]);
const counting = index.run.score.split("*"); // parts that the score is the product of
const WHERE = { tree: "Mask", merge: "Mask", rounds: "Round" }[index.run.searched] ?? "Place"; // what instance.round counts
const GROUP = inTree ? "Part" : merging ? "Merged mask" : "Semantic group";
const VECTOR = merging ? "Affinity" : "Eigenvector"; // the map that is kept of each proposal

/** An element with attributes (`text` and `class` included) and children. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const words = (name) => name.replaceAll("_", " ");
const counted = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const best = (image) => (image.scores.length ? Math.max(...image.scores) : null);
const dropCount = (image) => Object.values(image.drops).reduce((sum, n) => sum + n, 0);

// --- data blocks ---------------------------------------------------------------------------------------------------

const cache = new Map(); // number of the image -> promise of its decoded block, least recently used first

function load(number) {
  const image = cache.get(number) ?? decode(number);
  cache.delete(number);
  cache.set(number, image);
  if (cache.size > CACHED) cache.delete(cache.keys().next().value);
  return image;
}

async function decode(number) {
  const image = JSON.parse((await block(number)).textContent);
  const maps = await inflated(image.maps);
  const pixels = image.small[0] * image.small[1];
  let at = 0;
  const take = (bytes) => maps.subarray(at, (at += bytes));
  const bits = (n) => unpacked(take(Math.ceil(n / 8)), n);
  image.depth = image.has_depth ? levels(take(cells)) : null;
  for (const proposal of image.proposals ?? []) {
    proposal.eigenvector = levels(take(cells));
    proposal.cut = bits(cells);
    proposal.group = bits(cells);
    proposal.mask = bits(cells);
  }
  for (const instance of image.instances) instance.cells = take(cells);
  for (const instance of image.instances) instance.mask = bits(pixels);
  return image;
}

/** The script element with an image's data. While the page is being read it may come yet, or be there in part: it is
 * whole once the next one has begun. */
async function block(number) {
  while (document.readyState === "loading" && !$(`image-${number + 1}`)) {
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  const element = $(`image-${number}`);
  if (!element) throw new Error("its data is missing, the file is incomplete");
  return element;
}

async function inflated(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function unpacked(bytes, n) {
  const flags = new Uint8Array(n);
  for (let i = 0; i < n; i++) flags[i] = (bytes[i >> 3] >> (7 - (i & 7))) & 1;
  return flags;
}

/** Undoes, in place, the subtraction of the row above. */
function levels(map) {
  for (let i = gridColumns; i < map.length; i++) map[i] += map[i - gridColumns];
  return map;
}
