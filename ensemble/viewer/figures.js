// What the called tiles of a photograph come to. figures.py counts the same; see there.
"use strict";

const CrackFigures = (() => {
  const DECIMALS = 1e6;

  // boxes: arrays [left, top, width, height], all of one size; called, judged, first: arrays of truth values
  function measureTiles(boxes, called, judged, first) {
    const chosen = boxes.filter((_, i) => called[i]);
    const chain = measureChain(chosen);
    const calledPx = measureArea(chosen);
    const judgedPx = measureArea(boxes.filter((_, i) => judged[i]));
    return {
      numCalled: boxes.filter((_, i) => called[i] && first[i]).length,
      numCalledBetween: boxes.filter((_, i) => called[i] && !first[i]).length,
      calledPx, judgedPx,
      share: judgedPx ? calledPx / judgedPx : 0,
      chainPx: chain.px, chainTiles: chain.tiles,
    };
  }

  // Area of boxes, where they overlap counted once.
  function measureArea(boxes) {
    const sorted = values => [...new Set(values)].sort((a, b) => a - b);
    const xs = sorted(boxes.flatMap(b => [b[0], b[0] + b[2]]));
    const ys = sorted(boxes.flatMap(b => [b[1], b[1] + b[3]]));
    if (!xs.length) return 0;
    const columns = new Map(xs.map((x, i) => [x, i])), rows = new Map(ys.map((y, i) => [y, i]));
    const covered = new Uint8Array(xs.length * ys.length);
    for (const [left, top, width, height] of boxes) {
      const start = columns.get(left), end = columns.get(left + width);
      for (let row = rows.get(top); row < rows.get(top + height); row++) {
        covered.fill(1, row * xs.length + start, row * xs.length + end);
      }
    }
    let area = 0;
    for (let row = 0; row + 1 < ys.length; row++) {
      for (let column = 0; column + 1 < xs.length; column++) {
        if (covered[row * xs.length + column]) {
          area += (ys[row + 1] - ys[row]) * (xs[column + 1] - xs[column]);
        }
      }
    }
    return area;
  }

  // Longest chain of boxes that touch, also at a corner, or overlap.
  function measureChain(boxes) {
    if (!boxes.length) return {px: 0, tiles: 0};
    const [, , width, height] = boxes[0], side = Math.sqrt(width * height);
    const near = findNeighbours(boxes, width, height);
    let longest = 0;
    const seen = new Uint8Array(boxes.length);
    for (let first = 0; first < boxes.length; first++) {
      if (seen[first]) continue;
      const [end, , reached] = findFurthest(first, near);
      for (const each of reached) seen[each] = 1;
      longest = Math.max(longest, findFurthest(end, near)[1]);
    }
    return {px: longest + side, tiles: (longest + side) / side};
  }

  // Of each box, those that touch it with the distance: [[index, px], …].
  function findNeighbours(boxes, width, height) {
    const cells = new Map(), place = b => [Math.floor(b[0] / width), Math.floor(b[1] / height)];
    boxes.forEach((box, i) => {
      const key = place(box).join();
      cells.has(key) ? cells.get(key).push(i) : cells.set(key, [i]);
    });
    return boxes.map((box, i) => {
      const [column, row] = place(box), found = [];
      for (let y = row - 1; y <= row + 1; y++) {
        for (let x = column - 1; x <= column + 1; x++) {
          for (const other of cells.get(`${x},${y}`) || []) {
            const dx = boxes[other][0] - box[0], dy = boxes[other][1] - box[1];
            if (other !== i && Math.abs(dx) <= width && Math.abs(dy) <= height) {
              found.push([other, Math.sqrt(dx * dx + dy * dy)]);
            }
          }
        }
      }
      return found;
    });
  }

  // Dijkstra: the box furthest from `start` (the first of equally far ones), its distance, and all that are reached.
  function findFurthest(start, near) {
    const distance = new Map([[start, 0]]), heap = [[0, start]], done = new Set();
    while (heap.length) {
      const [reached, index] = pop(heap);
      if (done.has(index)) continue;
      done.add(index);
      for (const [other, step] of near[index]) {
        const there = reached + step;
        if (!(distance.get(other) <= there)) {
          distance.set(other, there);
          push(heap, [there, other]);
        }
      }
    }
    let end = start, furthest = 0;
    for (const index of [...done].sort((a, b) => a - b)) {
      const rounded = Math.round(distance.get(index) * DECIMALS) / DECIMALS;
      if (rounded > furthest) [end, furthest] = [index, rounded];
    }
    return [end, furthest, done];
  }

  // A binary heap of [distance, index].
  function push(heap, item) {
    let i = heap.push(item) - 1;
    while (i && heap[(i - 1) >> 1][0] > heap[i][0]) {
      [heap[i], heap[(i - 1) >> 1]] = [heap[(i - 1) >> 1], heap[i]];
      i = (i - 1) >> 1;
    }
  }

  function pop(heap) {
    const top = heap[0], last = heap.pop();
    if (!heap.length) return top;
    heap[0] = last;
    for (let i = 0, child; (child = 2 * i + 1) < heap.length; i = child) {
      if (child + 1 < heap.length && heap[child + 1][0] < heap[child][0]) child++;
      if (heap[i][0] <= heap[child][0]) break;
      [heap[i], heap[child]] = [heap[child], heap[i]];
    }
    return top;
  }

  return {measureTiles, measureArea, measureChain};
})();

if (typeof module !== "undefined") module.exports = CrackFigures;
