// Labels that a person gives to tiles: kept in the browser's storage, and saved as a CSV file that --labels reads.
"use strict";

const CrackLabels = (() => {
  const PREFIX = "crack-ensemble/labels/1/";
  const HEADER = ["picture", "tile", "left_px", "top_px", "width_px", "height_px", "label"];
  let canStore = true;

  // Labels of one photograph by "left,top,width,height": {tile, label}. `key` is the digest of the photograph's
  // file, so that they are found again whatever the page, the folder or the ensemble, and never by another picture.
  function read(key) {
    try {
      const stored = JSON.parse(localStorage.getItem(PREFIX + key) || "{}");
      const entries = Object.entries(stored).filter(([box, each]) =>
        /^\d+,\d+,\d+,\d+$/.test(box) && each && typeof each.tile === "string" && [0, 1].includes(each.label));
      return new Map(entries);
    } catch {
      canStore = false;
      return new Map();
    }
  }

  // Whether they were stored; some browsers store nothing for files, or nothing at all.
  function write(key, labels) {
    try {
      if (labels.size) localStorage.setItem(PREFIX + key, JSON.stringify(Object.fromEntries(labels)));
      else localStorage.removeItem(PREFIX + key);
    } catch {
      canStore = false;
    }
    return canStore;
  }

  // The CSV of several photographs: [{picture, labels}, …].
  function toCsv(photographs) {
    const rows = photographs.flatMap(({picture, labels}) =>
      [...labels].map(([box, {tile, label}]) => [picture, tile, ...box.split(","), label]));
    return [HEADER, ...rows].map(row => row.map(writeCell).join(",") + "\n").join("");
  }

  // A cell as ensemble/base/files.py writes it: text that a spreadsheet would run has an apostrophe before it.
  function writeCell(value) {
    let text = String(value);
    if (/^'*[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  function save(name, photographs) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([toCsv(photographs)], {type: "text/csv"}));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  return {read, write, toCsv, save};
})();

if (typeof module !== "undefined") module.exports = CrackLabels;
