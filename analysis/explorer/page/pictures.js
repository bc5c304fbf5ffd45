// Patches, cut from the sheets of whole images when they are drawn.

const SHEETS = D.sheets.map((sheet) => ({ ...sheet, picture: null, waiting: [] }));
const PLACES = new Map();
SHEETS.forEach((sheet, s) => sheet.images.forEach((image, place) =>
  PLACES.set(`${sheet.view}/${image}`, [s, place])));

// call back with the sheet once it is loaded; only sheets that are looked at are loaded
function withSheet(s, draw) {
  const sheet = SHEETS[s];
  if (sheet.picture && sheet.picture.complete && sheet.picture.naturalWidth) return draw(sheet);
  sheet.waiting.push(draw);
  if (sheet.picture) return undefined;
  sheet.picture = new Image();
  sheet.picture.onload = () => sheet.waiting.splice(0).forEach((one) => one(sheet));
  sheet.picture.onerror = () =>
    say(`The pictures in ${sheet.address.slice(0, 60)} cannot be read; keep the folder beside the page.`);
  sheet.picture.src = sheet.address;
  return undefined;
}

// the k-th stimulus of a neuron: image, corner and side in pixels of the view; null where it has fewer
function stimulus(row, k) {
  const i = row * D.stimuli.each + k;
  const image = D.stimuli.image[i];
  if (image < 0 || image === undefined) return null;
  const layer = layerOf(N.unit[row]), [height, width] = D.views[layer.view];
  return { image, view: layer.view, height, width, top: D.stimuli.top[i], left: D.stimuli.left[i],
    side: layer.side, activation: D.stimuli.activation[i] };
}
function drawImagePart(context, one, x, y, size, whole) {
  const place = PLACES.get(`${one.view}/${one.image}`);
  if (!place) return;
  withSheet(place[0], (sheet) => {
    const scale = sheet.width / one.width;
    const left = (place[1] % sheet.columns) * sheet.width, top = Math.floor(place[1] / sheet.columns) * sheet.height;
    if (whole) { // in the middle of the square
      const part = size / Math.max(one.height, one.width), width = part * one.width, height = part * one.height;
      x += (size - width) / 2;
      y += (size - height) / 2;
      context.drawImage(sheet.picture, left, top, sheet.width, sheet.height, x, y, width, height);
      for (const [colour, width] of [["#000", 4], ["#fff", 2]]) { // seen on any picture
        context.strokeStyle = colour; context.lineWidth = width;
        context.strokeRect(x + one.left * part, y + one.top * part, one.side * part, one.side * part);
      }
    } else
      context.drawImage(sheet.picture, left + one.left * scale, top + one.top * scale,
        one.side * scale, one.side * scale, x, y, size, size);
  });
}
// a canvas of a neuron's strongest patches, or of the whole images with their patch outlined
function patchGrid(row, pixels, whole = false) {
  const side = Math.round(Math.sqrt(D.stimuli.each)), tile = Math.floor(pixels / side) * 2;
  const name = `${whole ? "whole images" : "strongest patches"} of ${unitName(N.unit[row])} at epoch ${N.epoch[row]}`;
  const canvas = h("canvas", { width: tile * side, height: tile * side, role: "img", "aria-label": name });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#8883";
  context.fillRect(0, 0, canvas.width, canvas.height);
  for (let k = 0; k < side * side; k++) {
    const one = stimulus(row, k);
    if (one) drawImagePart(context, one, (k % side) * tile + 1, Math.floor(k / side) * tile + 1, tile - 2, whole);
  }
  return canvas;
}
const deadBox = (text) => h("div", { class: "dead" }, text);

// the pictures of a strip, with their captions, as one PNG or SVG
function exportCells(element, name, format) {
  const cells = [...element.querySelectorAll(".cell")].filter((c) => c.querySelector("canvas"));
  if (!cells.length) return say("There is no picture here to save.");
  const size = 260, line = 19, lines = 4, columns = Math.min(6, cells.length);
  const rows = Math.ceil(cells.length / columns), width = columns * (size + 14), height = rows * (size + lines * line + 14);
  const captions = cells.map((c) => [...c.querySelectorAll("[data-caption]")].map((e) => e.textContent).slice(0, lines));
  const at = (i) => [(i % columns) * (size + 14), Math.floor(i / columns) * (size + lines * line + 14)];
  try {
    if (format === "svg") {
      const safe = (t) => t.replace(/&/g, "&amp;").replace(/</g, "&lt;");
      const parts = cells.map((c, i) => {
        const [x, y] = at(i);
        return `<image x="${x}" y="${y}" width="${size}" height="${size}" href="${c.querySelector("canvas").toDataURL("image/png")}"/>` +
          captions[i].map((t, k) => `<text x="${x}" y="${y + size + (k + 1) * line}" font-size="14">${safe(t)}</text>`).join("");
      });
      const text = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif">${parts.join("")}</svg>`;
      return download(`${name}.svg`, text, "image/svg+xml");
    }
    const canvas = h("canvas", { width: 2 * width, height: 2 * height }), context = canvas.getContext("2d");
    context.scale(2, 2);
    context.fillStyle = "#fff"; context.fillRect(0, 0, width, height);
    context.fillStyle = "#111"; context.font = "14px sans-serif";
    cells.forEach((c, i) => {
      const [x, y] = at(i);
      context.drawImage(c.querySelector("canvas"), x, y, size, size);
      captions[i].forEach((t, k) => context.fillText(t, x, y + size + (k + 1) * line, size + 10));
    });
    return canvas.toBlob((image) => download(`${name}.png`, image, "image/png"));
  } catch (error) { // pictures from files taint a canvas in some browsers
    return say(`This browser does not let pictures beside the page be saved (${error.name}); serve the folder over HTTP.`);
  }
}
const saveBar = (text, what, save) => h("div", { class: "bar small-buttons" }, h("span", { class: "soft" }, text),
  ["svg", "png"].map((format) => h("button", { type: "button", "aria-label": `Save ${what} as ${format.toUpperCase()}`,
    onclick: () => save(format) }, format.toUpperCase())));
const saveButtons = (element, name) =>
  saveBar("Save pictures:", "pictures", (format) => exportCells(element, name, format));
