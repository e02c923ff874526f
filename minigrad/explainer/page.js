// What the page does: it draws the graph, left to right, and steps through the calls, then back through the rules.
//
// Folding: calls stand in the order in which they ran. A group is a run of calls one after the other, so whatever is
// folded, the graph has no circle: the calls of a module, or, where there are too many, twenty at a time.
// Position 0 is before the first call, 1 to n are the calls, after them come the steps of backward.
// Texts come from people's programs: they go into the page as text nodes only.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const { values, calls, steps, arrays, program } = data;
const MANY = 40; // nodes that are shown without folding
const RUN = 20; // calls of a group that is no module's
const FAR = 90; // columns
const SMALL = 64; // numbers that are written in a table

const state = { position: 0, selected: null, zoom: 1, byGradient: false };
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

// Groups: a tree over the calls. Leaves are numbers of calls, groups have the calls from `first` up to `end`.

function group(label, first, end, children) {
  const made = { label, first, end, children, open: false, parent: null };
  for (const child of children) if (typeof child === "object") child.parent = made;
  return made;
}

// What comes after a backward pass, the steps of an optimiser say, is a group with its modules in it.
const passes = steps.at(-1)?.pass ?? 0;
const names = ({ modules, after }) => (after ? [`after backward${passes > 1 ? ` ${after}` : ""}`, ...modules] : modules);

function grouped(first, end, depth) {
  const children = [];
  for (let i = first; i < end; ) {
    const name = names(calls[i])[depth];
    let next = i + 1;
    while (name !== undefined && next < end && names(calls[next])[depth] === name) next += 1;
    if (next - i > 1) children.push(group(name, i, next, grouped(i, next, depth + 1)));
    else children.push(i);
    i = next;
  }
  return inRuns(children);
}

// Many children become runs of twenty, or of twenty times twenty.
function inRuns(children) {
  if (children.length <= MANY) return children;
  const largest = RUN ** (Math.ceil(Math.log(children.length) / Math.log(RUN)) - 1);
  const size = Math.ceil(children.length / Math.ceil(children.length / largest));
  const runs = [];
  for (let i = 0; i < children.length; i += size) {
    const part = children.slice(i, i + size);
    const [first, end] = [firstOf(part[0]), endOf(part[part.length - 1])];
    runs.push(part.length > 1 ? group(`calls ${first + 1} to ${end}`, first, end, inRuns(part)) : part[0]);
  }
  return runs;
}

const firstOf = (item) => (typeof item === "object" ? item.first : item);
const endOf = (item) => (typeof item === "object" ? item.end : item + 1);
const root = group("all", 0, calls.length, grouped(0, calls.length, 0));
const groups = [];
const parentOf = new Map(); // the group that a call stands in
(function visit(each) {
  groups.push(each);
  for (const child of each.children) typeof child === "object" ? visit(child) : parentOf.set(child, each);
})(root);
root.open = true;

function visibleItems(each = root) {
  return each.children.flatMap((item) => (typeof item === "object" && item.open ? visibleItems(item) : [item]));
}
// From outside to inside, as long as not too much is seen.
for (const each of groups) {
  const isStep = each.parent === root && calls[each.first].after > 0 && calls[0].after === 0;
  if (each.parent?.open && !isStep && visibleItems().length + each.children.length <= MANY) each.open = true;
}

// The node in which a call is seen: itself, or the outermost folded group around it.
function seenIn(call) {
  let item = call;
  for (let each = parentOf.get(call); each !== null; each = each.parent) if (!each.open) item = each;
  return item;
}

// Where gradients went: the steps in which a cotangent left a call for a value, one for each pass.
const pulled = new Map();
const pulls = (value, call) => pulled.get(`${value} ${call}`) ?? [];
steps.forEach((step, k) => {
  for (const [, value] of step.left) pulled.set(`${value} ${step.call}`, [...pulls(value, step.call), k]);
});
const usersOf = values.map(() => []);
calls.forEach((call, k) => call.given.forEach((value) => usersOf[value].push(k)));

// The graph that is seen: nodes with a key, edges between keys with the values that go along.

const keyOf = (item) => (typeof item === "object" ? `g${groups.indexOf(item)}` : `c${item}`);

function graph() {
  const nodes = new Map();
  for (const item of visibleItems()) nodes.set(keyOf(item), { key: keyOf(item), item, from: new Set(), to: new Set() });
  const edges = new Map();
  const connect = (from, to, value, user) => {
    const key = `${from} ${to}`;
    if (!edges.has(key)) edges.set(key, { from, to, uses: [] });
    edges.get(key).uses.push([value, user]);
    nodes.get(from).to.add(to);
    nodes.get(to).from.add(from);
  };
  values.forEach((value, k) => {
    if (value.isConstant) return;
    const users = usersOf[k].map((user) => keyOf(seenIn(user)));
    if (value.call !== null) {
      const from = keyOf(seenIn(value.call));
      users.forEach((to, j) => from !== to && connect(from, to, k, usersOf[k][j]));
    } else if (users.length && (new Set(users).size > 1 || users[0].startsWith("c"))) {
      nodes.set(`x${k}`, { key: `x${k}`, item: null, value: k, from: new Set(), to: new Set() });
      users.forEach((to, j) => connect(`x${k}`, to, k, usersOf[k][j]));
    }
  });
  return { nodes, edges: [...edges.values()] };
}

// Columns, by the longest way to a node. A call stands after whatever it takes from other calls, and after all that came
// before the same backward pass; between these, before its first user, stands what comes from outside, and further out if
// users in several groups share it.
function columnsOf({ nodes, edges }) {
  const items = [...nodes.values()]; // calls come in the order in which they ran
  const fromCalls = (node) => [...node.from].map((key) => nodes.get(key)).filter((from) => from.item !== null);
  let [last, after, base] = [0, 0, 0];
  for (const node of items) {
    node.order = orderOf(node);
    node.column = 0;
    if (node.item === null) continue;
    if (calls[firstOf(node.item)].after > after) [after, base] = [calls[firstOf(node.item)].after, last];
    node.column = Math.max(base, most(fromCalls(node), (from) => from.column)) + 3;
    last = Math.max(last, node.column);
  }
  for (const node of items) {
    if (!node.to.size || fromCalls(node).length) continue;
    const first = least([...node.to], (key) => nodes.get(key).column);
    if (node.item !== null) node.column = Math.max(node.column, first - 3);
    else node.column = first - (new Set(usersOf[node.value].map((user) => parentOf.get(user))).size > 1 ? 2 : 1);
  }
  const columns = [];
  for (const node of items) (columns[node.column] ??= []).push(node);
  // An edge goes through a point in each column on its way; those of one node share them. A very long edge goes straight.
  const join = (before, after) => {
    (before.afters ??= []).push(after);
    (after.befores ??= []).push(before);
  };
  for (const edge of edges) {
    const [from, to] = [nodes.get(edge.from), nodes.get(edge.to)];
    from.trunk ??= [];
    edge.points = [from];
    const isLong = to.column - from.column > FAR;
    for (let column = from.column + 1; column < to.column && !isLong; column += 1) {
      if (!columns[column]) continue;
      if (!from.trunk[column]) {
        from.trunk[column] = { column, order: from.order, width: 0, height: 6 };
        columns[column].push(from.trunk[column]);
        join(edge.points.at(-1), from.trunk[column]);
      }
      edge.points.push(from.trunk[column]);
    }
    join(edge.points.at(-1), to);
    edge.points.push(to);
  }
  const filled = columns.filter(Boolean); // in some nothing stands
  for (const column of filled) column.sort((a, b) => a.order - b.order);
  return filled;
}

const orderOf = (node) => (node.item === null ? least(usersOf[node.value], Number) - 0.5 : firstOf(node.item));

// Where everything is: in each column first the order of its nodes, then their heights, so that edges are short and level.
function laidOut() {
  const seen = graph();
  const columns = columnsOf(seen);
  for (const node of seen.nodes.values()) Object.assign(node, box(node), { y: 0 });
  const mean = (nodes, of) => nodes.reduce((sum, node) => sum + of(node), 0) / nodes.length;
  const rank = (column) => column.forEach((node, k) => (node.rank = k / column.length));
  columns.forEach(rank);
  for (const near of ["befores", "afters", "befores", "afters"]) {
    for (const column of near === "befores" ? columns : [...columns].reverse()) {
      for (const node of column) node.wish = node[near]?.length ? mean(node[near], (other) => other.rank) : node.rank;
      column.sort((a, b) => a.wish - b.wish);
      rank(column);
    }
  }
  const pulls = (others) => others.reduce((sum, other) => sum + stiffness(other), 0);
  const level = (others) => others.reduce((sum, other) => sum + stiffness(other) * (other.y ?? 0), 0) / pulls(others);
  for (const near of ["befores", "afters", "befores", "afters", "befores"]) {
    for (const column of near === "befores" ? columns : [...columns].reverse()) {
      const others = (node) => (node[near]?.length ? node[near] : (node.befores ?? node.afters ?? []));
      stacked(column, column.map((node) => (others(node).length ? level(others(node)) : 0)));
    }
  }
  const top = least(columns.flat(), (node) => node.y - node.height / 2);
  let x = 24;
  for (const column of columns) {
    const width = most(column, (node) => node.width);
    for (const node of column) [node.x, node.y] = [x + width / 2, node.y - top + 24 + 18 * deepest()];
    x += width + 40;
  }
  const bottom = columns.length ? most(columns.flat(), (node) => node.y + node.height / 2) : 0; // of nothing
  return { ...seen, width: x - 16, height: bottom + 30 };
}

// How much the edges of a node should be level: those of an input least, those that only pass most.
const stiffness = (node) => (node.item === null ? 0.01 : node.item === undefined ? 4 : 1);

// Heights of a column, as near to what is wished as order and gaps allow: least squares under the condition that no node
// comes before the one above it, by pooling adjacent violators (Ayer et al., 1955).
function stacked(column, wishes) {
  const gap = 16;
  const pools = [];
  let offset = 0;
  column.forEach((node, k) => {
    if (k) offset += (column[k - 1].height + node.height) / 2 + gap;
    node.offset = offset;
    pools.push({ nodes: [node], at: wishes[k] - offset, weight: stiffness(node) });
    while (pools.length > 1 && pools.at(-1).at < pools.at(-2).at) {
      const [b, a] = [pools.pop(), pools.pop()];
      const weight = a.weight + b.weight;
      pools.push({ nodes: [...a.nodes, ...b.nodes], at: (a.at * a.weight + b.at * b.weight) / weight, weight });
    }
  });
  for (const { nodes, at } of pools) for (const node of nodes) node.y = at + node.offset;
}

const depthOf = (each) => (each.parent === null ? 0 : 1 + depthOf(each.parent));
const deepest = () => most(groups.filter(isShownOpen), depthOf);
const isShownOpen = (each) => each === root || (each.open && isShownOpen(each.parent));

// What a node says, and how large it is.
function box(node) {
  const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
  let [first, second] = ["", ""];
  if (node.item === null) {
    // Of net.layers.0.weight only weight: the module is around it. Its whole name is told when it is chosen.
    [first, second] = [values[node.value].name.match(/(?:[^.]*\.)?\d+$|[^.]*$/)[0], arrays[values[node.value].array].shape];
  } else if (typeof node.item === "object") {
    [first, second] = [`▸ ${node.item.label}`, count(node.item.end - node.item.first, "call")];
  } else {
    const call = calls[node.item];
    first = call.name.startsWith(`${call.op}_`) ? call.op : `${call.name} = ${call.op}`;
    second = arrays[values[call.made].array].shape;
  }
  [first, second] = [cut(first, 26), cut(second, 26)];
  return { first, second, width: Math.max(58, 28 + 7.3 * Math.max(first.length, second.length)), height: 42 };
}

// Drawing

let drawn = { nodes: new Map(), edges: [], width: 0, height: 0 };

function draw() {
  drawn = laidOut();
  const picture = svg("svg", { role: "group", "aria-label": count(drawn.nodes.size, "node"), viewBox: `0 0 ${drawn.width} ${drawn.height}` });
  for (const each of groups) if (each !== root && isShownOpen(each)) picture.append(outline(each));
  for (const edge of drawn.edges) picture.append((edge.element = svg("path", { class: "edge", d: way(edge.points) })));
  for (const node of drawn.nodes.values()) picture.append((node.element = drawnNode(node)));
  byId("graph").replaceChildren(picture);
  zoom(1);
  paint();
}

function way(points) {
  const ends = points.map((p, k) => [k === 0 ? p.x + p.width / 2 : k === points.length - 1 ? p.x - p.width / 2 : p.x, p.y]);
  let d = `M ${ends[0]}`;
  for (let k = 1; k < ends.length; k += 1) {
    const middle = (ends[k - 1][0] + ends[k][0]) / 2;
    d += ` C ${middle} ${ends[k - 1][1]} ${middle} ${ends[k][1]} ${ends[k]}`;
  }
  return d;
}

function drawnNode(node) {
  const kind = node.item === null ? "input" : typeof node.item === "object" ? "folded" : "call";
  const call = kind === "call" ? calls[node.item] : null;
  const [x, y] = [node.x - node.width / 2, node.y - node.height / 2];
  const verdict = call?.verdict?.[0];
  const mark = { pass: "✓", fail: "✗", unsure: "?" }[verdict];
  return svg(
    "g",
    { class: `node ${kind}`, role: "button", tabindex: -1, "data-key": node.key, onclick: () => chosen(node), onkeydown: (event) => keyed(event, node) },
    svg("title", {}, node.item === null ? values[node.value].name : kind === "call" ? call.text : node.item.label),
    svg("rect", { class: "box", x, y, width: node.width, height: node.height, rx: kind === "input" ? 20 : 6 }),
    svg("text", { x: node.x, y: node.y - 3, "text-anchor": "middle" }, node.first),
    svg("text", { class: "shape", x: node.x, y: node.y + 13, "text-anchor": "middle" }, node.second),
    mark ? svg("text", { class: `mark ${verdict}`, x: x + node.width - 11, y: y + 11, "aria-hidden": true }, mark) : null,
  );
}

// The frame around an unfolded group, with its name, by which it is folded.
function outline(each) {
  const inside = [...drawn.nodes.values()].filter((node) =>
    node.item === null
      ? usersOf[node.value].every((user) => user >= each.first && user < each.end)
      : firstOf(node.item) >= each.first && endOf(node.item) <= each.end,
  );
  const within = groups.filter((g) => g.first >= each.first && g.end <= each.end && isShownOpen(g));
  const nested = most(within, depthOf) - depthOf(each);
  const side = 8 + 6 * nested;
  const [left, right] = [least(inside, (n) => n.x - n.width / 2) - side, most(inside, (n) => n.x + n.width / 2) + side];
  const top = least(inside, (n) => n.y - n.height / 2) - 20 - 17 * nested;
  const bottom = most(inside, (n) => n.y + n.height / 2) + side;
  const title = svg(
    "g",
    { class: "group-title", role: "button", tabindex: 0, "aria-label": `fold ${each.label}`, onclick: () => toggled(each), onkeydown: (event) => event.key === "Enter" && toggled(each) },
    svg("text", { x: left + 6, y: top + 13 }, `▾ ${each.label}`),
  );
  return svg("g", {}, svg("rect", { class: "group", x: left, y: top, width: right - left, height: bottom - top, rx: 8 }), title);
}

function toggled(each) {
  each.open = !each.open;
  draw();
  focusOn(seenIn(each.first));
}

function chosen(node) {
  if (node.item !== null && typeof node.item === "object") {
    toggled(node.item);
  } else {
    state.selected = node.key;
    paint();
  }
}

function keyed(event, node) {
  if (event.key === "Enter" || event.key === " ") chosen(node);
  else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const order = [...drawn.nodes.values()].sort((a, b) => a.column - b.column || a.y - b.y);
    const next = order[order.indexOf(node) + (event.key === "ArrowDown" ? 1 : -1)];
    if (next) {
      next.element.focus();
      inView(next);
    }
  } else if (event.key === "f") {
    const around = node.item === null ? null : typeof node.item === "object" ? node.item.parent : parentOf.get(node.item);
    if (around && around !== root) toggled(around);
  } else return;
  event.preventDefault();
  event.stopPropagation();
}

function focusOn(item) {
  drawn.nodes.get(keyOf(item))?.element.focus({ preventScroll: true });
}

function inView(node) {
  const frame = byId("graph");
  const [x, y] = [node.x * state.zoom, node.y * state.zoom];
  if (x < frame.scrollLeft + 90 || x > frame.scrollLeft + frame.clientWidth - 90) frame.scrollLeft = x - frame.clientWidth / 2;
  if (y < frame.scrollTop + 40 || y > frame.scrollTop + frame.clientHeight - 40) frame.scrollTop = y - frame.clientHeight / 2;
}

// As scrollIntoView, which would scroll to the side, too, where a line is long.
function heightInView(frame, element) {
  const [here, there] = [frame, element].map((each) => each.getBoundingClientRect());
  if (there.top < here.top) frame.scrollTop -= here.top - there.top;
  else if (there.bottom > here.bottom) frame.scrollTop += there.bottom - here.bottom;
}

function zoom(factor) {
  state.zoom = Math.min(3, Math.max(0.25, state.zoom * factor));
  const picture = byId("graph").firstElementChild;
  picture.setAttribute("width", drawn.width * state.zoom);
  picture.setAttribute("height", drawn.height * state.zoom);
}

// Where we are

const callAt = (position) => (position > 0 && position <= calls.length ? position - 1 : null);
const stepAt = (position) => (position > calls.length ? position - calls.length - 1 : null);
const lastPosition = calls.length + steps.length;

function go(position) {
  state.position = Math.min(lastPosition, Math.max(0, position));
  const [call, step] = [callAt(state.position), stepAt(state.position)];
  const current = step === null ? call : steps[step].call;
  if (current !== null) state.selected = keyOf(seenIn(current));
  paint();
  const node = drawn.nodes.get(state.selected);
  if (node && current !== null) inView(node);
}

// Everything that depends on the position, the selected node and the colours; the layout stays.
function paint() {
  const [call, step] = [callAt(state.position), stepAt(state.position)];
  const current = step === null ? call : steps[step].call;
  const now = current === null ? null : keyOf(seenIn(current));
  const done = step === null ? state.position : calls.length;
  if (!drawn.nodes.has(state.selected)) state.selected = now ?? drawn.nodes.keys().next().value ?? null;
  const scale = gradientScale();
  for (const node of drawn.nodes.values()) {
    const isLater = node.item !== null && firstOf(node.item) >= done;
    const classes = node.element.classList;
    classes.toggle("later", isLater);
    classes.toggle("current", node.key === now);
    classes.toggle("selected", node.key === state.selected);
    node.element.setAttribute("tabindex", node.key === state.selected ? 0 : -1);
    node.element.setAttribute("aria-label", spoken(node));
    colour(node, state.byGradient ? scale : null);
  }
  for (const edge of drawn.edges) {
    const moving = edge.uses.some((use) => (step === null ? use[1] === call : pulls(...use).includes(step)));
    edge.element.classList.toggle("moving", moving);
    edge.element.classList.toggle("done", edge.uses.some(([, user]) => user < done));
    edge.element.classList.toggle("pulled", step !== null && edge.uses.some((use) => pulls(...use)[0] <= step));
  }
  byId("position").value = state.position;
  const where = position();
  byId("where").textContent = where;
  byId("position").setAttribute("aria-valuetext", where);
  byId("first").disabled = byId("back").disabled = state.position === 0;
  byId("last").disabled = byId("on").disabled = state.position === lastPosition;
  byId("step").replaceChildren(...toldStep(call, step));
  byId("node").replaceChildren(...toldNode(drawn.nodes.get(state.selected)));
  const place = (step === null ? calls[call] : steps[step])?.place;
  for (const line of document.querySelectorAll("#program [data-line]")) {
    const isHere = place && line.dataset.line === place.join(":");
    isHere ? line.setAttribute("aria-current", "step") : line.removeAttribute("aria-current");
    if (isHere) heightInView(byId("program"), line);
  }
  legend(scale);
}

function position() {
  const [call, step] = [callAt(state.position), stepAt(state.position)];
  if (step !== null) return `backward, step ${step + 1} of ${steps.length}: ${steps[step].op}`;
  return call === null ? `before the first of ${count(calls.length, "call")}` : `forward, call ${call + 1} of ${calls.length}: ${calls[call].op}`;
}

function spoken(node) {
  if (node.item === null) return `input ${values[node.value].name}, shape ${arrays[values[node.value].array].shape}`;
  if (typeof node.item === "object") return `folded: ${node.item.label}, ${node.second}. Enter unfolds it`;
  const call = calls[node.item];
  const size = values[call.made].size;
  return [`call ${node.item + 1}: ${call.name} = ${call.text}, shape ${node.second}`, size === null ? null : `gradient ${short(size)}`, call.verdict && `rules: ${call.verdict[0]}`]
    .filter(Boolean)
    .join(", ");
}

// The size of a gradient as a colour: the root mean square of its numbers, on a logarithmic scale.

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

function gradientScale() {
  const sizes = values.map((value) => value.size).filter((size) => typeof size === "number" && size > 0);
  if (!sizes.length) return null;
  const [low, high] = [Math.log10(least(sizes, Number)), Math.log10(most(sizes, Number))];
  const middle = (low + high) / 2;
  const half = Math.max(1, (high - low) / 2); // two powers of ten at least: smaller differences are no matter
  return { low: middle - half, high: middle + half };
}

// The largest gradient of what a node made.
function gradientOf(node) {
  if (node.item === null) return values[node.value].size;
  const sizes = [];
  for (let k = firstOf(node.item); k < endOf(node.item); k += 1) sizes.push(values[calls[k].made].size);
  if (sizes.includes("not finite")) return "not finite";
  const found = sizes.filter((size) => size !== null);
  return found.length ? most(found, Number) : null;
}

function colour(node, scale) {
  const rect = node.element.querySelector(".box");
  const size = scale ? gradientOf(node) : null;
  let rgb = null;
  if (size === "not finite") rgb = [190, 24, 93];
  else if (size === 0) rgb = [0, 0, 0];
  else if (size !== null) rgb = ramp(VIRIDIS, (Math.log10(size) - scale.low) / (scale.high - scale.low));
  rect.style.fill = rgb ? `rgb(${rgb})` : "";
  const isBright = rgb && 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2] > 125;
  node.element.classList.toggle("bright", Boolean(rgb && isBright));
  node.element.classList.toggle("dim", Boolean(rgb && !isBright));
}

function legend(scale) {
  const place = byId("legend");
  place.hidden = !state.byGradient;
  byId("gradients").setAttribute("aria-pressed", String(state.byGradient));
  if (!state.byGradient) return;
  if (!scale) return place.replaceChildren("no gradient came to any value");
  const bar = html("canvas", { width: 120, height: 10, role: "img", "aria-label": "from dark to bright" });
  const context = bar.getContext("2d");
  for (let x = 0; x < 120; x += 1) {
    context.fillStyle = `rgb(${ramp(VIRIDIS, x / 119)})`;
    context.fillRect(x, 0, 1, 10);
  }
  place.replaceChildren(`${short(10 ** scale.low)} to`, bar, `${short(10 ** scale.high)} (root mean square); black: zero, red: not finite`);
}

// What is told of a step, and of a node

function formula(text, isBackward) {
  // A formula is forward, then the rules, with ",  " in between.
  const parts = text.split(/(,\s{2,})/);
  const said = (k) => (parts.length === 1 ? !isBackward : (k === 0) !== isBackward);
  return html("p", { class: "formula mono" }, parts.map((part, k) => (k % 2 ? part : html("span", said(k) ? { class: "said" } : {}, part))));
}

function toldStep(call, step) {
  if (step !== null) {
    const { op, call: of, came, left, formula: text, pass } = steps[step];
    const name = of === null ? "what was made before the tape" : calls[of].name;
    return [
      html("h2", {}, `Backward, step ${step + 1} of ${steps.length}: ${op}`, passes > 1 && html("span", { class: "soft" }, `, pass ${pass}`)),
      formula(text, true),
      html("h3", {}, `came: the cotangent of ${name}`),
      picture(came, name),
      left.map(([input, value, array]) => [html("h3", {}, `left: for ${input}, ${values[value].name}`), picture(array, values[value].name)]),
    ].flat(Infinity);
  }
  if (call === null) {
    const told = steps.length ? "Then come the steps of backward." : "No backward pass was recorded: call backward() of the result under the tape.";
    return [html("h2", {}, "Before the first call"), html("p", {}, `${count(calls.length, "call")} follow, from left to right. ${told}`)];
  }
  const { text, formula: rule, given, made, name } = calls[call];
  return [
    html("h2", {}, `Forward, call ${call + 1} of ${calls.length}: ${name} = ${text}`),
    formula(rule, false),
    html("h3", {}, `gives ${name}`),
    picture(values[made].array, name),
    given.map((value) => [html("h3", {}, `takes ${values[value].name}`), picture(values[value].array, values[value].name)]),
  ].flat(Infinity);
}

function toldNode(node) {
  if (!node) return [];
  if (node.item !== null && typeof node.item === "object") {
    const size = gradientOf(node);
    return [
      html("h2", {}, node.item.label),
      html("p", {}, `${count(node.item.end - node.item.first, "call")}, folded. A click, or Enter, unfolds them.`),
      size === null ? null : html("p", {}, `The largest gradient of a result in it: ${short(size)} (root mean square).`),
    ].filter(Boolean);
  }
  const value = values[node.item === null ? node.value : calls[node.item].made];
  const told = [html("h2", {}, node.item === null ? `Input ${value.name}` : `Call ${node.item + 1}: ${value.name} = ${calls[node.item].text}`)];
  if (node.item !== null) told.push(...toldCall(node.item));
  told.push(html("h3", {}, "value"), picture(value.array, value.name), html("h3", {}, passes > 1 ? "cotangent of the last pass that came" : "cotangent, all of it"));
  told.push(value.cotangent === null ? html("p", { class: "soft" }, "no gradient came here") : picture(value.cotangent, value.name));
  return told;
}

const time = (seconds) => (seconds < 1e-3 ? `${short(seconds * 1e6)} µs` : `${short(seconds * 1e3)} ms`);
const bytes = (n) => (n < 1024 ? `${n} B` : n < 2 ** 20 ? `${short(n / 1024)} KiB` : `${short(n / 2 ** 20)} MiB`);
const share = (part, whole) => (whole > 0 ? `, ${Math.round((100 * part) / whole)} %` : "");
const sum = (of) => calls.reduce((total, call) => total + of(call.cost), 0);
const keptOf = (cost) => Object.values(cost[3]).reduce((a, b) => a + b, 0);
const total = { time: sum((c) => c[0] + c[1]), made: sum((c) => c[2]), kept: sum(keptOf) };

function toldCall(k) {
  const { verdict, jacobians, cost, modules } = calls[k];
  const [forward, backward, madeBytes, kept] = cost;
  const names = Object.entries(kept).map(([name, size]) => `${name} ${bytes(size)}`);
  const facts = [
    ["rules", verdict ? html("span", { class: verdict[0] }, `${verdict[0]}, by finite differences`) : "not tried: have more seconds, or use minigrad.testing.blame"],
    ["time alone", `${time(forward)} forward${backward ? `, ${time(backward)} backward` : ""}${share(forward + backward, total.time)} of all`],
    ["memory", `${bytes(madeBytes)} made${share(madeBytes, total.made)}`],
    ["kept", names.length ? `${names.join(", ")}${share(keptOf(cost), total.kept)}` : "nothing"],
  ];
  if (modules.length) facts.push(["in", modules.join(" › ")]);
  return [
    html("dl", { class: "facts" }, facts.map(([name, told]) => [html("dt", {}, name), html("dd", {}, told)])),
    verdict ? html("details", {}, html("summary", {}, "what the check says"), html("pre", {}, verdict[1])) : null,
    jacobians.map(([input, array]) => [html("h3", {}, `Jacobian: a row for each number of the result, a column for each of ${input}`), picture(array, `Jacobian of ${input}`)]),
  ].flat(Infinity).filter(Boolean);
}

// Arrays as pictures: a table of few numbers, images, or cells whose colour is blue below 0 and red above.

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

// The program: its lines, of which those that made calls can be chosen.

function toldProgram() {
  const first = new Map(); // the position of the first call of a line
  calls.forEach((call, k) => call.place && !first.has(call.place.join(":")) && first.set(call.place.join(":"), k + 1));
  return program.map(({ file, name, lines }) => [
    html("h2", { title: file }, name),
    lines.map(([number, text], k) => {
      const position = first.get(`${file}:${number}`);
      const line = html("button", { "data-line": `${file}:${number}`, disabled: position === undefined, onclick: () => go(position) }, html("span", { class: "number" }, String(number)), text || " ");
      return k && lines[k - 1][0] + 1 < number ? [html("div", { class: "gap", "aria-hidden": true }, "⋯"), line] : line;
    }),
  ]);
}

function everyGroup(open) {
  for (const each of groups) each.open = each === root || open;
  draw();
  go(state.position);
}

byId("program").append(html("div", {}, toldProgram()));
byId("position").max = lastPosition;
byId("position").addEventListener("input", (event) => go(Number(event.target.value)));
const onClick = {
  first: () => go(0),
  back: () => go(state.position - 1),
  on: () => go(state.position + 1),
  last: () => go(lastPosition),
  fold: () => everyGroup(false),
  unfold: () => everyGroup(true),
  smaller: () => zoom(1 / 1.25),
  larger: () => zoom(1.25),
  gradients: () => {
    state.byGradient = !state.byGradient;
    paint();
  },
};
for (const [id, action] of Object.entries(onClick)) byId(id).addEventListener("click", action);
byId("fold").disabled = byId("unfold").disabled = groups.length === 1;
const onKey = { ArrowLeft: "back", ArrowRight: "on", Home: "first", End: "last", g: "gradients", "+": "larger", "-": "smaller" };
document.addEventListener("keydown", (event) => {
  const action = onClick[onKey[event.key]];
  if (!action || event.ctrlKey || event.metaKey || event.altKey || event.target.id === "position") return;
  event.preventDefault();
  action();
});
dark.addEventListener("change", paint);
draw();
go(0);
