"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const choices = document.getElementById("choices");
const large = document.getElementById("large");
const cells = [...document.querySelectorAll("td button")];
const across = data.styles.length;
const keys = { d: "dial", p: "prompt", s: "seed", m: "method" };
let current = 0; // number of the cell that has the focus, row by row

function chosen(name) {
  return choices.elements[name] ? Number(choices.elements[name].value) : 0;
}

function entry(cell) { // the order in which gallery.py lists the images
  let place = cell;
  for (const [name, list] of [["method", data.methods], ["prompt", data.prompts], ["dial", data.dials], ["seed", data.seeds]])
    place = place * list.length + chosen(name);
  return data.images[place];
}

function show() {
  cells.forEach((cell, number) => { cell.firstElementChild.src = entry(number).file; });
  if (large.open) enlarge();
}

function enlarge() {
  const { file, scores } = entry(current);
  const image = large.querySelector("img"), cell = cells[current].firstElementChild;
  document.getElementById("large-title").textContent = cell.alt;
  image.src = file;
  image.alt = cell.alt;
  image.className = cell.className;
  const words = [data.texts[current * data.prompts.length + chosen("prompt")], `seed ${data.seeds[chosen("seed")]}`,
    data.dials[chosen("dial")], data.methods[chosen("method")]];
  document.getElementById("large-prompt").textContent = words.join(" · ");
  document.getElementById("large-scores").textContent =
    Object.entries(scores).map(([name, value]) => `${name} ${value.toFixed(3)}`).join(" · ");
}

function go(number) {
  cells[current].tabIndex = -1;
  current = number;
  cells[current].tabIndex = 0;
  if (large.open) enlarge();
  else cells[current].focus();
}

function turn(name, by) {
  const field = choices.elements[name];
  if (!field) return;
  const count = field.options ? field.options.length : field.length;
  field.value = String((chosen(name) + by + count) % count);
  show();
}

function moved(key) {
  const row = Math.floor(current / across), column = current % across, rows = cells.length / across;
  return {
    ArrowLeft: column > 0 && current - 1,
    ArrowRight: column < across - 1 && current + 1,
    ArrowUp: row > 0 && current - across,
    ArrowDown: row < rows - 1 && current + across,
    Home: row * across,
    End: row * across + across - 1,
  }[key] ?? false;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("select")) return;
  const name = keys[event.key.toLowerCase()];
  const number = event.target.closest("input") ? false : moved(event.key); // arrows move between dials there
  if (name) turn(name, event.shiftKey ? -1 : 1);
  else if (number !== false) go(number);
  else return;
  event.preventDefault();
});
choices.addEventListener("change", show);
choices.addEventListener("submit", (event) => event.preventDefault());
cells.forEach((cell, number) => {
  cell.tabIndex = number ? -1 : 0;
  cell.addEventListener("click", () => { go(number); large.showModal(); enlarge(); });
});
large.addEventListener("close", () => cells[current].focus());
show(); // a reloaded page may remember its choices
