// Tiles of a picture: where they are, which ones a view needs, and their pixels.

const KEPT_TILES = 48; // of 4 MB each, decoded
const KEPT_VALUES = 4;

const TILE_PX = JSON.parse(document.getElementById("data").textContent).tile_px;
const [RUN_ID, ...FIT] = document.querySelector("meta[name=artifacts]").content.trim().split("/");
const IN_PREVIEW = location.protocol === "blob:";
const CAN_READ = /^https?:$/.test(location.protocol);

/** URL of a file of the run; null if the page does not know the run's address. */
function urlOf(path) {
  if (!IN_PREVIEW) return new URL(`../${path}`, location.href).href;
  const server = new URL(location.href).origin; // of the page that made this blob
  if (!RUN_ID || !/^http/.test(server)) return null;
  const name = encodeURIComponent([...FIT, path].join("/"));
  return `${server}/get-artifact?path=${name}&run_uuid=${RUN_ID}`;
}

/** The tiles of one picture of one epoch. Level 0 is the picture itself, level n has squares of 2^n px. */
class Pyramid {
  constructor(folder, kind, [height, width], onChange) {
    Object.assign(this, { folder, kind, height, width, onChange });
    this.top = Math.ceil(Math.log2(Math.max(width, height, 2)));
    this.coarsest = Math.max(0, Math.ceil(Math.log2(Math.max(width, height) / TILE_PX)));
    this.tiles = new Map();
    this.values = new Map();
    this.failed = false;
  }

  /** Level with at least one pixel per screen pixel, or the finest. */
  levelFor(scale) {
    return Math.min(this.coarsest, Math.max(0, Math.floor(0.25 - Math.log2(scale))));
  }

  url(level, column, row) {
    return urlOf(`${this.folder}/${this.kind}_files/${this.top - level}/${column}_${row}.png`);
  }

  /** The tiles of a level within a box of full-size pixels. */
  * within(level, box) {
    const side = TILE_PX * 2 ** level;
    const last = (end, size) => Math.floor((Math.min(end, size) - 1) / side);
    for (let row = Math.floor(Math.max(box.top, 0) / side); row <= last(box.bottom, this.height); row++) {
      for (let column = Math.floor(Math.max(box.left, 0) / side); column <= last(box.right, this.width); column++) {
        yield { column, row, left: column * side, top: row * side };
      }
    }
  }

  /** The image of a tile if it is loaded. Else null, and it is loaded if `wanted`. */
  image(level, column, row, wanted) {
    const url = this.url(level, column, row);
    let image = this.tiles.get(url);
    if (!image && wanted && url) {
      image = new Image();
      image.onload = () => this.onChange();
      image.onerror = () => {
        this.failed = true;
        this.onChange();
      };
      image.src = url;
    }
    if (image && wanted) keep(this.tiles, url, image, KEPT_TILES);
    return image?.complete && image.naturalWidth ? image : null;
  }

  /** The value at a full-size pixel, as text. Rejects if the tile cannot be read. */
  async valueAt(x, y) {
    const [column, row] = [Math.floor(x / TILE_PX), Math.floor(y / TILE_PX)];
    const url = this.url(0, column, row);
    const tile = this.values.get(url) ?? fetchTile(url);
    keep(this.values, url, tile, KEPT_VALUES);
    return textAt(await tile, x - column * TILE_PX, y - row * TILE_PX);
  }
}

async function fetchTile(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
  return decodePng(new Uint8Array(await answer.arrayBuffer()));
}

const textAt = (picture, x, y) => valueText(picture, picture.indices[y * picture.width + x]);

/** Move an entry to the end, and drop the first ones beyond a maximum number. */
function keep(map, key, value, most) {
  map.delete(key);
  map.set(key, value);
  for (const first of [...map.keys()].slice(0, Math.max(0, map.size - most))) map.delete(first);
}
