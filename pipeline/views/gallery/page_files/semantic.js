// The gallery of semantic labels: what labels.js shows, and nothing else.

const STATUS = { ok: "with classes", no_labels: "no classes", quarantined: "set aside" };
const VIEWS = { labels: "labels", confidence: "confidence", photo: "photo alone" };
const CONTROLS = { view: "labels", opacity: "60" };
const PANELS = [["labels", "Classes"], ["confidence", "Confidence", () => scale(VIRIDIS, "0", "1")]];
const MORE_COLUMNS = [];

const decodeMore = () => {};
const legendName = (c) => nameOfClass(c);
const moreFacets = () => [];
const moreSorts = () => ({});
const morePills = () => {};
const moreRows = () => [];
const moreFacts = () => ({});
const colouring = (...pixel) => colouringOfClass(...pixel);
const keyAt = (image, i) => image.labels[i];
const nameOfKey = (image, key) => nameOfClass(key);
