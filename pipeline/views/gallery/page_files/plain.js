// The plain gallery: a card an image, with its picture and its facts, to search, filter and sort. What the data blocks
// hold is said at the top of pipeline/views/gallery/plain.py. Text from the run (file names!) is set as text, never as
// markup.
"use strict";

const $ = (id) => document.getElementById(id);

function make(tag, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = className;
  return element;
}

function start() {
  const { facts, images } = JSON.parse($("index").textContent);
  for (const [name, value] of Object.entries(facts)) $("facts").append(make("dt", name), make("dd", value));

  // Pictures are put in place when they come into view.
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      const block = JSON.parse($(`image-${target.dataset.number}`).textContent);
      if (block.picture) target.querySelector("img").src = `data:image/webp;base64,${block.picture}`;
      else target.querySelector("img").replaceWith(make("p", `no photo: ${block.problem}`));
    }
  }, { rootMargin: "600px" });

  const cards = images.map((image, number) => {
    const card = make("figure", "", "plain");
    card.setAttribute("role", "listitem");
    card.dataset.number = number;
    const picture = make("img");
    picture.alt = image.id;
    const said = make("figcaption", image.id);
    for (const [name, value] of Object.entries(image.facts)) said.append(make("div", `${name}: ${value}`));
    if (image.reason) said.append(make("div", image.reason));
    card.append(picture, said);
    seen.observe(card);
    return card;
  });

  const statuses = ["all", ...new Set(images.map((image) => image.status))];
  for (const status of statuses) $("status").append(make("option", status.replaceAll("_", " ")));
  const names = ["file name", ...new Set(images.flatMap((image) => Object.keys(image.facts)))];
  for (const name of names) $("sort").append(make("option", name));

  function show() {
    const query = $("query").value.toLowerCase(), status = statuses[$("status").selectedIndex], by = $("sort").value;
    const order = images.map((_, number) => number).filter((number) =>
      images[number].id.toLowerCase().includes(query) && (status === "all" || images[number].status === status));
    if (by !== "file name") {
      const value = (number) => images[number].facts[by] ?? -Infinity;
      order.sort((a, b) => (value(a) < value(b) ? 1 : value(a) > value(b) ? -1 : a - b));
    }
    $("cards").replaceChildren(...order.map((number) => cards[number]));
    $("shown").textContent = `${order.length} of ${images.length} images`;
  }
  for (const id of ["query", "status", "sort"]) $(id).addEventListener("input", show);
  show();
}

document.addEventListener("DOMContentLoaded", start);
