// Sends the file that was dropped or chosen, shows how much of it has gone, and opens its page.
"use strict";
(() => {
  const form = document.getElementById("upload-form");
  if (!form) return;
  const input = form.querySelector("input[type=file]");
  const said = document.getElementById("upload-said");
  const bar = document.getElementById("upload-bar");
  const place = form.querySelector(".drop");
  const token = JSON.parse(document.body.getAttribute("hx-headers"))["X-CSRF-Token"];
  const say = (text) => (said.textContent = text);

  const send = (file) => {
    if (file.size > Number(form.dataset.bytesMax)) return say(`${file.name} is too large: compress it, or split it.`);
    const request = new XMLHttpRequest();
    request.open("POST", `${form.action}?name=${encodeURIComponent(file.name.slice(0, 200))}`);
    request.setRequestHeader("X-CSRF-Token", token);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => {
      if (!event.lengthComputable) return;
      bar.value = event.loaded / event.total;
      say(`${file.name}: ${Math.floor(100 * bar.value)}% sent`);
    };
    request.onload = () => {
      input.disabled = false;
      bar.hidden = true;
      if (request.status === 200) return location.assign(JSON.parse(request.response).page);
      input.value = "";
      say(request.status >= 500 ? "Not stored: try again in a moment." : request.response || "Not stored.");
    };
    request.onerror = () => {
      input.disabled = false;
      bar.hidden = true;
      say("The connection broke: nothing was stored. Send the file again.");
    };
    bar.hidden = false;
    input.disabled = true;
    say(`${file.name}: sending`);
    request.send(file);
  };

  input.addEventListener("change", () => input.files[0] && send(input.files[0]));
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const name of ["dragover", "dragleave", "drop"]) {
    place.addEventListener(name, (event) => {
      event.preventDefault();
      place.classList.toggle("over", name === "dragover");
      if (name === "drop" && !input.disabled && event.dataTransfer.files[0]) send(event.dataTransfer.files[0]);
    });
  }
})();
