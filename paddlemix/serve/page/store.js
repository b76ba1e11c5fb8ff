// Conversations and their images in the browser's IndexedDB; in memory where it has none (then `isLasting` is false).

const NAME = "paddlemix";
const VERSION = 1;
const TABLES = ["conversations", "images"];

/** Return an open store. */
export async function openStore() {
  try {
    return new Store(await openDatabase());
  } catch {
    return new MemoryStore();
  }
}

function openDatabase() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      for (const table of TABLES) request.result.createObjectStore(table, { keyPath: "id" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("the database is open in another tab"));
  });
}

const settled = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

class Store {
  constructor(database) {
    this.database = database;
    this.isLasting = true;
    database.onversionchange = () => database.close();
  }

  table(name, mode = "readonly") {
    return this.database.transaction(name, mode).objectStore(name);
  }

  all(table) {
    return settled(this.table(table).getAll());
  }

  get(table, id) {
    return settled(this.table(table).get(id));
  }

  ids(table) {
    return settled(this.table(table).getAllKeys());
  }

  /** Write a row. Raises QuotaExceededError if the browser has no more room. */
  put(table, row) {
    return settled(this.table(table, "readwrite").put(row));
  }

  remove(table, id) {
    return settled(this.table(table, "readwrite").delete(id));
  }

  clear(table) {
    return settled(this.table(table, "readwrite").clear());
  }
}

class MemoryStore {
  constructor() {
    this.tables = Object.fromEntries(TABLES.map((name) => [name, new Map()]));
    this.isLasting = false;
  }

  async all(table) {
    return [...this.tables[table].values()].map((row) => structuredClone(row));
  }

  async get(table, id) {
    return this.tables[table].get(id);
  }

  async ids(table) {
    return [...this.tables[table].keys()];
  }

  async put(table, row) {
    this.tables[table].set(row.id, structuredClone(row));
  }

  async remove(table, id) {
    this.tables[table].delete(id);
  }

  async clear(table) {
    this.tables[table].clear();
  }
}
