// The browser's half of attention_widget.py: draws what the kernel computes, and tells it what is touched.

const WIDTH = 190; // of a picture, in CSS pixels
const SHARP = 2; // canvas pixels to a CSS pixel
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function element(tag, parent, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  parent.append(made);
  return made;
}

// A map of h × w bytes as a picture of h × w pixels.
function coloured(bytes, [rows, columns], colours) {
  const canvas = new OffscreenCanvas(columns, rows);
  const context = canvas.getContext("2d");
  const picture = context.createImageData(columns, rows);
  bytes.forEach((value, i) => {
    for (let c = 0; c < 3; c++) picture.data[4 * i + c] = colours.getUint8(3 * value + c);
    picture.data[4 * i + 3] = 255;
  });
  context.putImageData(picture, 0, 0);
  return canvas;
}

function render({ model, el }) {
  const tell = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  el.classList.add("weaktr-attention");
  el.dataset.lmSuppressShortcuts = "true"; // arrow keys inside are not JupyterLab's

  // ── Lists: which image and class, and whose map ──
  const lists = element("div", el, { className: "lists" });
  const list = (text) => element("select", element("label", lists, { textContent: text }));
  const cam = list("cam ");
  model.get("choices").forEach((label, i) => element("option", cam, { value: i, textContent: label }));
  cam.value = model.get("choice");
  cam.onchange = () => tell("choice", Number(cam.value));

  const [layers, heads] = [model.get("scene").weights.length, model.get("scene").weights[0].length];
  const map = list("attention of ");
  element("option", map, { value: "[]", textContent: "all heads, fused" });
  for (let layer = 0; layer < layers; layer++) {
    const group = element("optgroup", map, { label: `layer ${layer + 1}` });
    element("option", group, { value: `[${layer}]`, textContent: `layer ${layer + 1}, fused` });
    for (let head = 0; head < heads; head++)
      element("option", group, { value: `[${layer},${head}]`, textContent: `layer ${layer + 1} head ${head + 1}` });
  }
  map.value = JSON.stringify(model.get("shown"));
  map.onchange = () => tell("shown", JSON.parse(map.value));

  // ── Pictures: a click, a drag or an arrow key names a patch ──
  const pictures = element("div", el, { className: "pictures" });
  const panels = model.get("scene").titles.map(() => {
    const figure = element("figure", pictures);
    return { canvas: element("canvas", figure), title: element("figcaption", figure) };
  });
  const text = element("output", el);

  const go = (row, column) => {
    const [rows, columns] = model.get("view").grid;
    const inside = (value, size) => Math.max(0, Math.min(size - 1, value));
    tell("place", [inside(row, rows), inside(column, columns)]);
  };
  const point = (event) => {
    if (!(event.buttons & 1)) return;
    const box = event.target.getBoundingClientRect();
    const [rows, columns] = model.get("view").grid;
    go(Math.floor((rows * (event.clientY - box.top)) / box.height),
       Math.floor((columns * (event.clientX - box.left)) / box.width));
  };
  for (const { canvas } of panels) canvas.onpointerdown = canvas.onpointermove = point;
  const first = panels[0].canvas;
  first.tabIndex = 0;
  first.setAttribute("role", "application");
  first.setAttribute("aria-label", "patches of the image, arrow keys move");
  first.onkeydown = (event) => {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    go(model.get("place")[0] + step[0], model.get("place")[1] + step[1]);
  };

  // ── Switches: a bar for each head, layers side by side ──
  const switches = element("div", el, { className: "switches" });
  switches.style.gridTemplateColumns = `auto repeat(${layers}, minmax(3em, 7em))`;
  const flip = (those) => {
    const on = model.get("on");
    const all = on.every((is, i) => is || !those(i));
    tell("on", on.map((is, i) => (those(i) ? !all : is)));
  };
  const button = (textContent, those) =>
    element("button", switches, { type: "button", textContent, onclick: () => flip(those) });
  button("all", () => true);
  for (let layer = 0; layer < layers; layer++)
    button(`layer ${layer + 1}`, (i) => Math.floor(i / heads) === layer);
  const bars = [];
  for (let head = 0; head < heads; head++) {
    element("span", switches, { textContent: `head ${head + 1}` });
    for (let layer = 0; layer < layers; layer++) {
      const number = layer * heads + head;
      bars[number] = button("", (i) => i === number);
      bars[number].className = "bar";
    }
  }

  // ── Drawing ──
  let scene, loading;
  const draw = async () => {
    if (model.get("scene") !== scene) {
      scene = model.get("scene");
      loading = createImageBitmap(new Blob([scene.photo], { type: "image/jpeg" }));
    }
    const photo = await loading;
    const { grid, place, maps, text: words } = model.get("view");
    const [rows, columns] = grid;
    const size = rows * columns;
    const [width, height] = [SHARP * WIDTH, Math.round((SHARP * WIDTH * photo.height) / photo.width)];
    panels.forEach(({ canvas, title }, i) => {
      const bytes = new Uint8Array(maps.buffer, maps.byteOffset + i * size, size);
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
      canvas.style.width = `${WIDTH}px`;
      const context = canvas.getContext("2d");
      context.drawImage(photo, 0, 0, width, height);
      context.globalAlpha = model.get("opacity");
      context.drawImage(coloured(bytes, grid, model.get("colours")), 0, 0, width, height);
      context.globalAlpha = 1;
      context.lineWidth = 2 * SHARP;
      context.strokeStyle = "#56B4E9";
      const [x, y] = [width / columns, height / rows];
      context.strokeRect(place[1] * x, place[0] * y, x, y);
      title.textContent = scene.titles[i];
    });
    text.textContent = words;
    const weights = scene.weights.flat();
    const most = Math.max(1, ...weights);
    bars.forEach((bar, i) => {
      bar.ariaPressed = model.get("on")[i];
      bar.title = `layer ${Math.floor(i / heads) + 1} head ${(i % heads) + 1}, weight ${weights[i].toFixed(2)}`;
      bar.style.setProperty("--share", `${(100 * weights[i]) / most}%`);
    });
  };
  model.on("change:view", draw);
  draw();
  return () => model.off("change:view", draw);
}

export default { render };
