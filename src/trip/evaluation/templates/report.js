"use strict";

const play = document.getElementById("play");
play.checked = !matchMedia("(prefers-reduced-motion: reduce)").matches;

for (const block of document.querySelectorAll(".copied")) {
  const [button, text] = [block.querySelector("button"), block.querySelector("pre")];
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(text);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
