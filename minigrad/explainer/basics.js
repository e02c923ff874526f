// What the other scripts of the page stand on: its data, its elements, numbers and colours.
// The page has one script: this one, layout.js, pictures.js and page.js, one after the other.
// Texts come from people's programs: they go into the page as text nodes only.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const { values, calls, steps, arrays, program } = data;
const dark = matchMedia("(prefers-color-scheme: dark)");

// Elements. Children that are no elements become text.

function made(space, name, attributes, children) {
  const element = document.createElementNS(space, name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== false));
  return element;
}
const html = (name, attributes = {}, ...children) => made("http://www.w3.org/1999/xhtml", name, attributes, children);
const svg = (name, attributes = {}, ...children) => made("http://www.w3.org/2000/svg", name, attributes, children);
const byId = (id) => document.getElementById(id);
const least = (list, of) => list.reduce((low, each) => Math.min(low, of(each)), Infinity);
const most = (list, of) => list.reduce((high, each) => Math.max(high, of(each)), -Infinity);
const count = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

// Numbers and colours

function short(x) {
  if (typeof x !== "number") return x;
  const size = Math.abs(x);
  return size && (size < 1e-4 || size >= 1e6) ? x.toExponential(3).replace(/\.?0+e/, "e") : String(Number(x.toPrecision(4)));
}
const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // five of its colours

function ramp(colours, t) {
  const at = Math.min(colours.length - 1.001, Math.max(0, t * (colours.length - 1)));
  const k = Math.floor(at);
  return colours[k].map((c, i) => Math.round(c + (at - k) * (colours[k + 1][i] - c)));
}
