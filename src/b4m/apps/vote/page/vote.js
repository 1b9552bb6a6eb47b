// Keys for those who vote without a mouse, and images enlarged. The page works without this file.
"use strict";
const ballot = document.querySelector("form.ballot");
if (ballot) {
  const choices = [...ballot.querySelectorAll("input[name=choice]")];
  const images = [...ballot.querySelectorAll("img")];

  const large = document.body.appendChild(document.createElement("dialog"));
  large.className = "large";
  const enlarged = large.appendChild(document.createElement("img"));
  const name = large.appendChild(document.createElement("p"));
  let place = 0;
  const enlarge = (number) => {
    place = (number + images.length) % images.length;
    enlarged.src = images[place].src;
    enlarged.alt = name.textContent = images[place].alt;
    if (!large.open) large.showModal();
  };
  ballot.addEventListener("dblclick", (event) => { if (event.target.tagName === "IMG") enlarge(images.indexOf(event.target)); });
  large.addEventListener("click", () => large.close());

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    if (large.open) {  // Escape closes it by itself
      if (event.key === "ArrowRight") enlarge(place + 1);
      if (event.key === "ArrowLeft") enlarge(place - 1);
      return;
    }
    const letter = event.key.length === 1 ? "abcdefghijklmnopqrstuvwxyz".indexOf(event.key.toLowerCase()) : -1;
    if (letter >= 0 && letter < choices.length) {
      choices[letter].checked = true;
      choices[letter].focus();
    } else if (event.key === "z") {
      const chosen = ballot.querySelector(".option:has(input:checked) img");
      enlarge(chosen ? images.indexOf(chosen) : 0);
    } else if (event.key === "Enter" && event.target.tagName !== "A") {
      event.preventDefault();
      ballot.requestSubmit();
    }
  });

  // One vote, however often the button is pressed.
  ballot.addEventListener("submit", () => { ballot.querySelector("button").disabled = true; });
  window.addEventListener("pageshow", () => { ballot.querySelector("button").disabled = false; });
}
