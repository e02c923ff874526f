// What the page does: it draws the graph, left to right, and steps through the calls, then back through the rules.
// Position 0 is before the first call, 1 to n are the calls, after them come the steps of backward.

const state = { position: 0, selected: null, zoom: 1, byGradient: false };

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
