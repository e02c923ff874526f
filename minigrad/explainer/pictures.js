// Arrays as pictures: a table of few numbers, images, or cells whose colour is blue below 0 and red above.

const SMALL = 64; // numbers that are written in a table

function cellsOf(array) {
  const text = atob(array.cells);
  return new Float32Array(Uint8Array.from(text, (c) => c.charCodeAt(0)).buffer);
}

function cellColour(x, most, isImage) {
  if (!Number.isFinite(x)) return [190, 24, 93];
  if (isImage) return Array(3).fill(Math.round(255 * Math.min(1, Math.max(0, x))));
  const t = most > 0 ? x / most : 0;
  const zero = dark.matches ? [23, 33, 52] : [255, 255, 255];
  return ramp([zero, t < 0 ? [37, 99, 235] : [220, 38, 38]], Math.abs(t));
}

function picture(place, name) {
  const array = arrays[place];
  const caption = html("figcaption", {}, html("span", { class: "mono" }, array.shape), ` ${array.dtype} `, html("span", { class: "mono" }, array.text));
  if (array.parts) return html("figure", {}, caption, array.parts.map((part) => picture(part, name)));
  const [tiles, rows, columns] = array.tiles;
  const cells = cellsOf(array);
  if (!cells.length) return html("figure", {}, caption);
  let most = 0;
  for (const x of cells) if (Number.isFinite(x)) most = Math.max(most, Math.abs(x));
  const isImage = array.isImage && most <= 1;
  if (tiles === 1 && cells.length <= SMALL && columns <= 10 && array.block[0] * array.block[1] === 1) {
    const row = (i) => html("tr", {}, Array.from(cells.subarray(i * columns, (i + 1) * columns), (x) => cell(x, most)));
    caption.lastChild.remove(); // the table has the numbers
    return html("figure", {}, caption, html("table", { class: "numbers" }, Array.from({ length: rows }, (_, i) => row(i))));
  }
  return html("figure", {}, caption, canvas(array, cells, most, isImage, name));
}

function cell(x, most) {
  const rgb = cellColour(x, most * 1.6, false);
  const element = html("td", {}, short(x));
  element.style.background = `rgb(${rgb})`;
  element.style.color = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2] > 125 ? "#0f172a" : "#f8fafc";
  return element;
}

function canvas(array, cells, largest, isImage, name) {
  const [tiles, rows, columns] = array.tiles;
  const room = tiles > 1 ? [72, 72] : [380, 150]; // pixels across and down
  const scale = Math.max(1, Math.min(16, Math.floor(room[0] / columns), Math.max(2, Math.floor(room[1] / rows))));
  const across = Math.max(1, Math.min(tiles, Math.floor(400 / (columns * scale + 4))));
  const [width, height] = [columns * scale + 4, rows * scale + 4];
  const element = html("canvas", { width: across * width - 4, height: Math.ceil(tiles / across) * height - 4, role: "img", "aria-label": `${name}: ${array.text}` });
  const context = element.getContext("2d");
  cells.forEach((x, k) => {
    const tile = Math.floor(k / (rows * columns));
    const [i, j] = [Math.floor(k / columns) % rows, k % columns];
    context.fillStyle = `rgb(${cellColour(x, largest, isImage)})`;
    context.fillRect((tile % across) * width + j * scale, Math.floor(tile / across) * height + i * scale, scale, scale);
  });
  const about = [];
  if (array.block[0] * array.block[1] > 1) about.push(`each cell is the mean of ${array.block[0]}×${array.block[1]} entries`);
  if (array.more) about.push(`${array.more} more not shown`);
  if (!isImage) about.push(`blue −${short(largest)} to red ${short(largest)}`);
  const note = html("div", { class: "soft" }, about.join("; "));
  element.addEventListener("mousemove", (event) => {
    const ratio = element.width / element.getBoundingClientRect().width;
    const [x, y] = [event.offsetX * ratio, event.offsetY * ratio];
    const tile = Math.floor(y / height) * across + Math.floor(x / width);
    const [i, j] = [Math.floor((y % height) / scale), Math.floor((x % width) / scale)];
    if (i >= rows || j >= columns || tile >= tiles) return;
    const at = [tiles > 1 ? tile : null, i * array.block[0], j * array.block[1]].filter((k) => k !== null);
    note.textContent = `[${at.join(", ")}] ${short(cells[(tile * rows + i) * columns + j])}`;
  });
  element.addEventListener("mouseleave", () => (note.textContent = about.join("; ")));
  return [element, note];
}
