"use strict";
(function () {
  const byId = (id) => document.getElementById(id);
  const viewer = byId("viewer"), stage = byId("stage"), find = byId("find"), details = byId("details");
  const svg = stage.querySelector("svg");
  const nodes = JSON.parse(byId("nodes").textContent) || [];
  const known = new Map(nodes.map((n) => [n.id, n]));
  const drawn = new Map();
  for (const g of stage.querySelectorAll(".node")) {
    const n = known.get(g.dataset.id);
    if (!n) continue;
    drawn.set(n.id, g);
    g.setAttribute("tabindex", "0");
    g.setAttribute("role", "button");
    g.setAttribute("aria-label", n.kind + " " + n.name);
  }
  for (const n of nodes) n.text = (n.name + " " + n.kind + " " + n.facts.map((f) => f[1]).join(" ")).toLowerCase();

  // Where the picture is: moved by x, y, and as many times as large.
  let x = 0, y = 0, scale = 1;
  const nearest = 8, farthest = 0.05;
  function place() { stage.style.transform = "translate(" + x + "px," + y + "px) scale(" + scale + ")"; }
  // The heading of the picture, 36 high, is the page's.
  function size(to, top) {
    const w = svg.width.baseVal.value, h = svg.height.baseVal.value;
    scale = to;
    x = (viewer.clientWidth - w * scale) / 2;
    y = top ? -36 * scale : (viewer.clientHeight - h * scale) / 2;
    place();
  }
  const fitWidth = () => Math.min(viewer.clientWidth / svg.width.baseVal.value, 1.15);
  const whole = () => size(Math.min(fitWidth(), viewer.clientHeight / svg.height.baseVal.value), false);
  const start = () => size(fitWidth(), true);
  function zoom(factor, cx, cy) {
    const to = Math.min(Math.max(scale * factor, farthest), nearest);
    x = cx - (cx - x) * to / scale;
    y = cy - (cy - y) * to / scale;
    scale = to;
    place();
  }
  function centre(g) {
    const box = g.getBoundingClientRect(), view = viewer.getBoundingClientRect();
    const free = view.width > 900 ? view.width - details.offsetWidth : view.width;
    x += view.left + free / 2 - (box.left + box.width / 2);
    y += view.top + view.height / 2 - (box.top + box.height / 2);
    place();
  }
  const zoomMiddle = (factor) => zoom(factor, viewer.clientWidth / 2, viewer.clientHeight / 2);

  viewer.addEventListener("wheel", function (e) {
    if (details.contains(e.target) || document.body.classList.contains("report") && !e.ctrlKey) return;
    e.preventDefault();
    const at = viewer.getBoundingClientRect();
    zoom(Math.exp(-e.deltaY * (e.deltaMode ? 0.05 : 0.0015)), e.clientX - at.left, e.clientY - at.top);
  }, { passive: false });

  // A drag moves; a press that stays where it is chooses.
  const fingers = new Map();
  let moved = 0;
  viewer.addEventListener("pointerdown", function (e) {
    if (e.target.closest(".tools, #details") || e.button > 0) return;
    fingers.set(e.pointerId, e);
    moved = 0;
  });
  window.addEventListener("pointermove", function (e) {
    const before = fingers.get(e.pointerId);
    if (!before) return;
    const others = [...fingers.values()].filter((f) => f.pointerId !== e.pointerId);
    const dx = e.clientX - before.clientX, dy = e.clientY - before.clientY;
    moved += Math.abs(dx) + Math.abs(dy);
    if (others.length) {
      const o = others[0], at = viewer.getBoundingClientRect();
      const apart = (p) => Math.hypot(p.clientX - o.clientX, p.clientY - o.clientY) || 1;
      zoom(apart(e) / apart(before), (e.clientX + o.clientX) / 2 - at.left, (e.clientY + o.clientY) / 2 - at.top);
    } else if (moved > 4) {
      x += dx;
      y += dy;
      viewer.classList.add("moving");
      place();
    }
    fingers.set(e.pointerId, e);
  });
  for (const end of ["pointerup", "pointercancel"]) window.addEventListener(end, function (e) {
    if (!fingers.delete(e.pointerId)) return;
    viewer.classList.remove("moving");
  });
  viewer.addEventListener("click", function (e) {
    if (e.target.closest(".tools, #details") || moved > 4) return;
    const g = e.target.closest(".node");
    if (g && drawn.has(g.dataset.id)) choose(g.dataset.id, false); else if (!find.value) close();
  });

  function el(tag, text, parent, name) {
    const e = document.createElement(tag);
    if (text) e.textContent = text;
    if (name) e.className = name;
    parent.append(e);
    return e;
  }
  function open() {
    details.replaceChildren();
    details.hidden = false;
    const b = el("button", "×", details, "close");
    b.type = "button";
    b.title = "Close (Esc)";
    b.addEventListener("click", close);
  }
  function unmark(name) { for (const g of stage.querySelectorAll("." + name)) g.classList.remove(name); }
  function close() {
    details.hidden = true;
    unmark("chosen");
  }
  function choose(id, go) {
    const n = known.get(id), g = drawn.get(id);
    if (!n) return;
    unmark("chosen");
    open();
    el("h3", n.name, details);
    el("p", n.kind, details, "kind");
    const list = el("dl", "", details);
    for (const fact of n.facts) {
      el("dt", fact[0], list);
      el("dd", fact[1], list);
    }
    if (g) {
      g.classList.add("chosen");
      if (go) {
        if (scale < 0.8) zoomMiddle(1 / scale);
        centre(g);
      }
    }
  }

  // Each word must be somewhere in what is known of a node.
  const most = 60;
  function search() {
    unmark("found");
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    stage.classList.toggle("finding", words.length > 0);
    if (!words.length) return close();
    const hits = nodes.filter((n) => words.every((w) => n.text.includes(w)));
    for (const n of hits) if (drawn.has(n.id)) drawn.get(n.id).classList.add("found");
    unmark("chosen");
    open();
    el("h3", hits.length === 1 ? "1 found" : hits.length + " found", details);
    const list = el("ul", "", details);
    for (const n of hits.slice(0, most)) {
      const b = el("button", "", el("li", "", list));
      b.type = "button";
      el("span", n.name, b);
      const address = n.facts.find((f) => f[0] === "Addresses");
      el("span", address ? address[1].split("\n")[0] : n.kind, b);
      b.addEventListener("click", () => choose(n.id, true));
    }
    if (hits.length > most) el("p", "and " + (hits.length - most) + " more", details, "kind");
    return hits;
  }
  find.addEventListener("input", search);
  find.addEventListener("keydown", function (e) {
    if (e.key !== "Enter") return;
    const hits = search();
    if (hits && hits.length) choose(hits[0].id, true);
  });
  byId("in").addEventListener("click", () => zoomMiddle(1.3));
  byId("out").addEventListener("click", () => zoomMiddle(1 / 1.3));
  byId("whole").addEventListener("click", whole);
  document.addEventListener("keydown", function (e) {
    if (e.key === "Escape") {
      find.value = "";
      search();
      return;
    }
    if (e.target === find || e.ctrlKey || e.metaKey || e.altKey) return;
    const step = 60;
    const g = e.target.closest && e.target.closest(".node");
    const keys = {
      "+": () => zoomMiddle(1.3), "=": () => zoomMiddle(1.3), "-": () => zoomMiddle(1 / 1.3), "0": whole,
      "/": () => find.focus(),
      ArrowLeft: () => { x += step; place(); }, ArrowRight: () => { x -= step; place(); },
      ArrowUp: () => { y += step; place(); }, ArrowDown: () => { y -= step; place(); },
      Enter: g && (() => choose(g.dataset.id, false)), " ": g && (() => choose(g.dataset.id, false)),
    };
    if (document.body.classList.contains("report") && e.key.startsWith("Arrow")) return;
    if (keys[e.key]) {
      e.preventDefault();
      keys[e.key]();
    }
  });
  window.addEventListener("resize", start);
  start();

  // #find=… opens the page with a search, #show=… at a node.
  const hash = new URLSearchParams(location.hash.slice(1));
  if (hash.has("find")) {
    find.value = hash.get("find");
    search();
  }
  if (hash.has("show")) choose(hash.get("show"), true);
})();
