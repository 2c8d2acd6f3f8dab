// The gallery: a list of cards, of which only those in view exist, and a dialog with one image large. What the data
// blocks hold is said at the top of pipeline/views/gallery/blocks.py.

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
  corners: "it holds so many of the photo's corners that it is background",
  unselected: "better masks of the photo took all places",
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
const merged = index.run.searched === "hierarchy";
const measured = Object.keys(index.parts).filter((part) => index.parts[part]);
const counting = index.run.score.split("*"); // parts that the score is the product of
// what instance.round counts
const WHERE = { tree: "Mask", merge: "Mask", rounds: "Round", hierarchy: "Threshold" }[index.run.searched] ?? "Place";
const GROUP = inTree ? "Part" : merging ? "Merged mask" : merged ? "Region" : "Semantic group";
const VECTOR = merging ? "Affinity" : merged ? "Likeness" : "Eigenvector"; // the map that is kept of each proposal
const LEVELS_OF_MASKS = ["whole", "part", "subpart"]; // by instance.level

const best = (image) => (image.scores.length ? Math.max(...image.scores) : null);
const dropCount = (image) => Object.values(image.drops).reduce((sum, n) => sum + n, 0);

// --- an image's block -----------------------------------------------------------------------------------------------

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

/** Undoes, in place, the subtraction of the row above. */
function levels(map) {
  for (let i = gridColumns; i < map.length; i++) map[i] += map[i - gridColumns];
  return map;
}
