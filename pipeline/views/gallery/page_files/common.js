// What the pages have in common: elements, and the data blocks. A page's program is its files one after the other, as one
// script; the list is in its Python. Text from the run (file names!) is set as text, never as markup.
"use strict";

const $ = (id) => document.getElementById(id);
const index = JSON.parse($("index").textContent);
const images = index.images;
const [gridRows, gridColumns] = index.grid;
const cells = gridRows * gridColumns;
const hasMaps = cells > 1; // imports have a grid of one patch, which shows nothing
const LEVELS = 127;
const CACHED = 150; // decoded images that are kept, some 0.3 MB each

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

/** A patch of a colour, [r, g, b]. */
function dot(colour) {
  const element = make("span", { class: "dot" });
  element.style.background = `rgb(${colour})`;
  return element;
}

const words = (name) => name.replaceAll("_", " ");
const counted = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

// --- data blocks ---------------------------------------------------------------------------------------------------

const cache = new Map(); // number of the image -> promise of its decoded block, least recently used first

function load(number) {
  const image = cache.get(number) ?? decode(number);
  cache.delete(number);
  cache.set(number, image);
  if (cache.size > CACHED) cache.delete(cache.keys().next().value);
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
