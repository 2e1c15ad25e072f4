// The index: how many corrections this browser keeps for each photograph, and all of them in one file.
"use strict";

(() => {
  const visit = JSON.parse(document.getElementById("visit").textContent);
  const save = document.getElementById("save"), status = document.getElementById("corrections");
  const written = status.textContent;
  const count = n => `${n.toLocaleString("en-US")} correction${n === 1 ? "" : "s"}`;

  function read() {
    const found = visit.map(({picture, key}) => ({picture, key, labels: CrackLabels.read(key)}));
    return found.filter(({labels}) => labels.size);
  }

  function tell() {
    const found = read(), sizes = new Map(found.map(({key, labels}) => [key, labels.size]));
    for (const line of document.querySelectorAll(".card .corrections")) {
      const number = sizes.get(line.dataset.key) || 0;
      line.hidden = !number;
      line.textContent = count(number);
    }
    const all = [...sizes.values()].reduce((sum, number) => sum + number, 0);
    save.hidden = !all;
    status.textContent = all ? `This browser keeps ${count(all)} on ${sizes.size} of the photographs.` : written;
  }

  save.addEventListener("click", () => CrackLabels.save("corrections.csv", read()));
  // when a person comes back from a photograph, or marks tiles of one in another window
  for (const name of ["pageshow", "storage"]) addEventListener(name, tell);
  tell();
})();
