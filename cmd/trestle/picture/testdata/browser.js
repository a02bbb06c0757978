"use strict";
(function () {
  const failed = [];
  let steps = 0;
  const check = (ok, text) => { steps++; if (!ok && failed.length < 20) failed.push(text); };
  const byId = (id) => document.getElementById(id);
  document.addEventListener("securitypolicyviolation", (e) => failed.push("loads " + e.blockedURI));
  window.addEventListener("error", (e) => failed.push("error: " + e.message));
  const viewer = byId("viewer"), stage = byId("stage"), find = byId("find"), details = byId("details");
  const svg = stage.querySelector("svg");
  const place = () => svg.getBoundingClientRect();
  const pointer = (type, x, y, target) => target.dispatchEvent(new PointerEvent(type, { pointerId: 1, clientX: x, clientY: y, bubbles: true, button: 0 }));
  const near = (a, b) => Math.abs(a - b) < 1.5;
  const overlap = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2;

  try {
    // All of it, and text where it belongs: measured as large as it was drawn.
    byId("whole").click();
    const view = viewer.getBoundingClientRect();
    check(place().bottom <= view.bottom + 1 && place().right <= view.right + 1 && place().top >= view.top - 1, "Fit shows not all");
    stage.style.transform = "none";
    const page = place();
    for (const text of svg.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      if (!box.width) continue;
      check(box.left >= page.left && box.right <= page.right, "text reaches out of the picture: " + text.textContent);
    }
    for (const node of svg.querySelectorAll(".node, .segment, .pool")) {
      const frame = node.querySelector(":scope > rect.card, :scope > rect.chip, :scope > rect.panel");
      const texts = [...node.querySelectorAll(":scope > text")].map((e) => [e.textContent, e.getBoundingClientRect()]);
      texts.forEach(function ([text, box], i) {
        if (frame) {
          const at = frame.getBoundingClientRect();
          check(box.right <= at.right && box.left >= at.left && box.bottom <= at.bottom + 1, "text is wider than its frame: " + text);
        }
        for (const [other, at] of texts.slice(i + 1)) check(!overlap(box, at), "text over text: " + text + ", " + other);
      });
    }
    for (const badge of svg.querySelectorAll("rect.badge")) {
      const at = badge.getBoundingClientRect(), text = badge.nextElementSibling.getBoundingClientRect();
      check(text.left >= at.left && text.right <= at.right, "text is wider than its badge: " + badge.nextElementSibling.textContent);
    }
    const panels = [...svg.querySelectorAll("rect.panel")].map((e) => e.getBoundingClientRect());
    panels.forEach((a, i) => panels.slice(i + 1).forEach((b) => check(!overlap(a, b), "a panel over another")));
    window.dispatchEvent(new Event("resize"));

    // Moved by a drag, enlarged around the pointer.
    const before = place();
    pointer("pointerdown", 700, 500, viewer);
    pointer("pointermove", 720, 510, window);
    pointer("pointermove", 750, 530, window);
    pointer("pointerup", 750, 530, window);
    check(near(place().left - before.left, 50) && near(place().top - before.top, 30), "a drag by 50, 30 moved by " + (place().left - before.left) + ", " + (place().top - before.top));
    const wide = place().width;
    viewer.dispatchEvent(new WheelEvent("wheel", { deltaY: -300, clientX: 700, clientY: 500, ctrlKey: true, bubbles: true, cancelable: true }));
    check(place().width > wide * 1.3, "the wheel does not enlarge");
    byId("out").click();
    byId("in").click();
    byId("whole").click();

    // Details of each kind of thing, by a click and from the keyboard.
    const nodes = [...svg.querySelectorAll(".node")];
    check(nodes.length > 0, "nothing to click on");
    for (const node of [nodes[0], nodes[nodes.length - 1]]) {
      pointer("pointerdown", 5, 5, node);
      pointer("pointerup", 5, 5, window);
      node.dispatchEvent(new MouseEvent("click", { bubbles: true }));
      check(!details.hidden && details.querySelectorAll("dt").length >= 2, "no details of " + node.dataset.id);
      check(node.classList.contains("chosen"), node.dataset.id + " is not marked");
    }
    document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
    check(details.hidden, "Escape does not close the details");
    nodes[0].dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
    check(!details.hidden, "Enter shows no details");

    // A search marks what it finds, and nothing else; Enter goes there.
    const known = JSON.parse(byId("nodes").textContent);
    const wanted = known[known.length - 1];
    const address = (wanted.facts.find((f) => f[0] === "Addresses") || [0, wanted.name])[1].split("\n")[0];
    find.value = wanted.name.toUpperCase() + " " + address;
    find.dispatchEvent(new Event("input"));
    const found = [...svg.querySelectorAll(".node.found")];
    check(found.some((n) => n.dataset.id === wanted.id), "does not find " + find.value);
    check(found.length < Math.max(nodes.length / 2, 2), "finds " + found.length + " of " + nodes.length + " by " + find.value);
    check(stage.classList.contains("finding"), "what is not found is not dimmed");
    check(details.querySelectorAll("li").length >= 1, "no list of what was found");
    find.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
    check(svg.querySelectorAll(".chosen").length === 1, "Enter chooses nothing");
    find.value = "no such thing anywhere";
    find.dispatchEvent(new Event("input"));
    check(details.textContent.includes("0 found"), "finds what is not there");
    check(performance.getEntriesByType("resource").length === 0, "something was loaded");
  } catch (e) {
    failed.push("stopped: " + e);
  }
  const out = document.createElement("pre");
  out.id = "outcome";
  out.textContent = JSON.stringify({ Failed: failed, Steps: steps });
  document.body.append(out);
})();
