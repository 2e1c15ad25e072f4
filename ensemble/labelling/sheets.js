// Photographs to label: how far each is on the index, and the way from one to the next on their pages.
"use strict";

(() => {
  const count = n => n.toLocaleString("en-US");
  const nav = document.getElementById("nav"), save = document.getElementById("save");

  function link(sheet, text) {
    if (!sheet) return;
    const item = document.createElement("li"), way = document.createElement("a");
    way.href = `${encodeURIComponent(sheet.stem)}.html`;
    way.textContent = text(sheet.picture.split(/[/\\]/).pop());
    item.append(way);
    nav.append(item);
  }

  if (nav) {
    const at = CRACK_SHEETS.findIndex(sheet => sheet.stem === document.body.dataset.stem);
    link(CRACK_SHEETS[at - 1], name => `← ${name}`);
    link(CRACK_SHEETS[at + 1], name => `${name} →`);
    return;
  }

  function tell() {
    let labelled = 0, cracked = 0, all = 0;
    for (const line of document.querySelectorAll(".labels")) {
      const labels = [...CrackLabels.read(line.dataset.key).values()], tiles = Number(line.dataset.tiles);
      const found = labels.filter(each => each.label).length;
      line.textContent = labels.length ? `${count(labels.length)} of ${count(tiles)} labelled, ${count(found)} cracked` : "no label yet";
      labelled += labels.length;
      cracked += found;
      all += tiles;
    }
    save.hidden = !labelled;
    if (labelled) document.getElementById("progress").textContent = `${count(labelled)} of ${count(all)} tiles labelled, ${count(cracked)} of them cracked.`;
  }

  save.addEventListener("click", () => CrackLabels.save("labels.csv",
    CRACK_SHEETS.map(({picture, sha256}) => ({picture, labels: CrackLabels.read(sha256)}))));
  // when a person comes back from a photograph, or labels tiles of one in another window
  for (const name of ["pageshow", "storage"]) addEventListener(name, tell);
  tell();
})();
