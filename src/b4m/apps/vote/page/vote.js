// Keys for those who vote without a mouse: a letter chooses, Enter sends. The page works without this file.
"use strict";
const ballot = document.querySelector("form.ballot");
if (ballot) {
  const choices = [...ballot.querySelectorAll("input[name=choice]")];
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    const place = "abcdefghijklmnopqrstuvwxyz".indexOf(event.key.toLowerCase());
    if (event.key.length === 1 && place >= 0 && place < choices.length) {
      choices[place].checked = true;
      choices[place].focus();
    } else if (event.key === "Enter" && event.target.tagName !== "A") {
      event.preventDefault();
      ballot.requestSubmit();
    }
  });
  // One vote, however often the button is pressed.
  ballot.addEventListener("submit", () => { ballot.querySelector("button").disabled = true; });
  window.addEventListener("pageshow", () => { ballot.querySelector("button").disabled = false; });
}
