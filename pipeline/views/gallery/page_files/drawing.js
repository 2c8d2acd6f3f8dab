// --- drawing -------------------------------------------------------------------------------------------------------

/** 0..LEVELS -> colour, by straight lines between the stops. */
function palette(...stops) {
  return Array.from({ length: LEVELS + 1 }, (_, level) => {
    const place = (level / LEVELS) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    return stops[low].map((value, c) => value + (stops[low + 1][c] - value) * (place - low));
  });
}

const VIRIDIS = palette([68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]);
const DEPTH = palette([252, 253, 191], [252, 137, 97], [183, 55, 121], [81, 18, 124], [8, 5, 30]); // near is light
const DARK = [27, 33, 36];
const DROPPED = [224, 142, 58];

const colourOf = (k) => index.colours[k % index.colours.length];
const mixed = (a, b, share) => a.map((value, c) => value + (b[c] - value) * share);

/** Fills a canvas with patches; paint(i) gives [r, g, b] or [r, g, b, alpha 0..1] of patch i. */
function paintCells(canvas, image, width, paint) {
  const grid = make("canvas", { width: gridColumns, height: gridRows });
  const data = new ImageData(gridColumns, gridRows);
  for (let i = 0; i < cells; i++) {
    const [r, g, b, alpha = 1] = paint(i);
    data.data.set([r, g, b, 255 * alpha], 4 * i);
  }
  grid.getContext("2d").putImageData(data, 0, 0);
  canvas.width = width;
  canvas.height = Math.max(1, Math.round((width * image.small[0]) / image.small[1]));
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = false;
  pen.drawImage(grid, 0, 0, canvas.width, canvas.height);
}

const paintDepth = (canvas, image, width) => paintCells(canvas, image, width, (i) => DEPTH[image.depth[i]]);
const paintEigenvector = (canvas, image, width, proposal) =>
  paintCells(canvas, image, width, (i) => (proposal.cut[i] ? VIRIDIS[proposal.eigenvector[i]] : DARK));

/** The semantic group or part, and in it the mask of the proposal. overPhoto: translucent, to lie on the photo. */
function paintGroup(canvas, image, width, proposal, overPhoto) {
  const colour = proposal.dropped ? DROPPED : colourOf(proposal.instance);
  const group = [148, 168, 172];
  paintCells(canvas, image, width, (i) => {
    if (proposal.mask[i]) return [...colour, overPhoto ? 0.75 : 1];
    if (proposal.group[i]) return [...group, overPhoto ? 0.6 : 0.65];
    return [...DARK, overPhoto ? 0.72 : 1];
  });
}

/** Numbers of the instances, the largest first: small ones are drawn on top. */
const bySize = ({ instances }) => instances.map((_, k) => k).sort((a, b) => instances[b].area - instances[a].area);

/** Confidence of all instances, small ones on top, or of one: from dark to the colour of the instance. */
function paintConfidence(canvas, image, width, only = -1) {
  const order = only < 0 ? bySize(image) : [only];
  paintCells(canvas, image, width, (i) => {
    const k = order.findLast((one) => image.instances[one].cells[i] > 0);
    return k === undefined ? DARK : mixed(DARK, colourOf(k), 0.12 + 0.88 * (image.instances[k].cells[i] / 255) ** 1.5);
  });
}

/** LocalCut's source (disc) and sink (square). */
function markTerminals(canvas, proposal) {
  const pen = canvas.getContext("2d");
  const radius = Math.max(4, canvas.width / 60);
  const margin = 1.3 * radius; // drawn whole at the border, too
  const within = (value, size) => Math.min(Math.max(value, margin), size - margin);
  const at = (cell) => [
    within((((cell % gridColumns) + 0.5) / gridColumns) * canvas.width, canvas.width),
    within(((Math.floor(cell / gridColumns) + 0.5) / gridRows) * canvas.height, canvas.height),
  ];
  const stroke = () => {
    pen.fillStyle = "#fff";
    pen.strokeStyle = "#000";
    pen.lineWidth = radius / 2;
    pen.stroke();
    pen.fill();
  };
  pen.beginPath();
  pen.arc(...at(proposal.source), radius, 0, 7);
  stroke();
  if (proposal.sink < 0) return;
  const [x, y] = at(proposal.sink);
  pen.beginPath();
  pen.rect(x - radius, y - radius, 2 * radius, 2 * radius);
  stroke();
}

/** Value of a map at fractional coordinates, bilinear, the border repeated. */
function sampled(map, width, height, x, y) {
  x = Math.min(Math.max(x, 0), width - 1);
  y = Math.min(Math.max(y, 0), height - 1);
  const x0 = x | 0, y0 = y | 0;
  const x1 = Math.min(x0 + 1, width - 1), y1 = Math.min(y0 + 1, height - 1);
  const top = map[y0 * width + x0] + (map[y0 * width + x1] - map[y0 * width + x0]) * (x - x0);
  const bottom = map[y1 * width + x0] + (map[y1 * width + x1] - map[y1 * width + x0]) * (x - x0);
  return top + (bottom - top) * (y - y0);
}

/** The mask blurred a little, 0..1, so that its outline is smooth at any size; and the rows and columns it spans. */
function softened(instance, [h, w]) {
  if (instance.soft) return instance.soft;
  const map = new Float32Array(h * w);
  let top = h, left = w, bottom = 0, right = 0;
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      if (!instance.mask[y * w + x]) continue;
      top = Math.min(top, y); bottom = Math.max(bottom, y);
      left = Math.min(left, x); right = Math.max(right, x);
      for (let dy = -1; dy <= 1; dy++) {
        for (let dx = -1; dx <= 1; dx++) {
          const v = Math.min(Math.max(y + dy, 0), h - 1), u = Math.min(Math.max(x + dx, 0), w - 1);
          map[v * w + u] += ((2 - Math.abs(dy)) * (2 - Math.abs(dx))) / 16;
        }
      }
    }
  }
  return (instance.soft = { map, top, left, bottom, right });
}

/** Masks on a transparent canvas: filled as strongly as they are confident, outlined, small ones on top. */
function paintMasks(canvas, image, width, only = -1) {
  const [h, w] = image.small;
  const height = Math.max(1, Math.round((width * h) / w));
  canvas.width = width;
  canvas.height = height;
  const scale = width / w;
  const line = Math.min(0.8 / scale, 0.3); // how far above 1/2 the soft mask still counts as its outline
  const out = new ImageData(width, height), data = out.data;
  for (const k of bySize(image)) {
    const { map, top, left, bottom, right } = softened(image.instances[k], image.small);
    const colour = colourOf(k);
    const faded = only >= 0 && only !== k;
    for (let y = Math.max(0, Math.floor((top - 1) * scale)); y < Math.min(height, (bottom + 2) * scale); y++) {
      for (let x = Math.max(0, Math.floor((left - 1) * scale)); x < Math.min(width, (right + 2) * scale); x++) {
        const inside = sampled(map, w, h, (x + 0.5) / scale - 0.5, (y + 0.5) / scale - 0.5);
        if (inside < 0.5 - line / 3) continue;
        const u = ((x + 0.5) / width) * gridColumns - 0.5, v = ((y + 0.5) / height) * gridRows - 0.5;
        const confidence = sampled(image.instances[k].cells, gridColumns, gridRows, u, v) / 255;
        let alpha = 0.55 * Math.max(0.15, confidence);
        if (inside < 0.5 + line) alpha = inside < 0.5 ? 0.45 : 1;
        if (faded) alpha *= 0.22;
        const i = 4 * (y * width + x);
        const under = (data[i + 3] / 255) * (1 - alpha);
        const all = alpha + under;
        for (let c = 0; c < 3; c++) data[i + c] = (colour[c] * alpha + data[i + c] * under) / all;
        data[i + 3] = 255 * all;
      }
    }
  }
  canvas.getContext("2d").putImageData(out, 0, 0);
}
