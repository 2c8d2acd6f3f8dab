// --- start ---------------------------------------------------------------------------------------------------------

function drawFacts() {
  const run = index.run;
  const facts = {
    Images: imagesOf(run),
    Masks: `${run.masks.toLocaleString("en")}, ${(run.masks / Math.max(run.finished - run.quarantined, 1)).toFixed(2)} per image`,
    Dropped: Object.entries(run.drops).map(([reason, n]) => `${n.toLocaleString("en")} ${words(reason)}`).join(", ") || "none",
    "Set aside": counted(run.quarantined, "image"),
    Recipe: run.recipe, Score: run.score.replaceAll("*", " × "), Features: run.features, Depth: run.depth,
    Run: `${run.created.slice(0, 10)}, ${run.fingerprint}`,
  };
  writeFacts(facts);
}

function start() {
  drawFacts();
  startCards();
  $("masks").addEventListener("change", layOut);
  recall();
}

start();
