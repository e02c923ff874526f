// The graph: how it is folded, and where everything is.
//
// Folding: calls stand in the order in which they ran. A group is a run of calls one after the other, so whatever is
// folded, the graph has no circle: the calls of a module, or, where there are too many, twenty at a time.

const MANY = 40; // nodes that are shown without folding
const RUN = 20; // calls of a group that is no module's
const FAR = 90; // columns

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
