// Small settings of this browser: theme, language, key, last parameters. They never leave it.

const memory = new Map(); // where storage is blocked, as in some private windows

/** Return a setting, null if there is none. */
export function read(name) {
  try {
    return localStorage.getItem(`paddlemix.${name}`) ?? memory.get(name) ?? null;
  } catch {
    return memory.get(name) ?? null;
  }
}

/** Keep a setting; null removes it. */
export function write(name, value) {
  memory.delete(name);
  try {
    if (value === null) localStorage.removeItem(`paddlemix.${name}`);
    else localStorage.setItem(`paddlemix.${name}`, value);
  } catch {
    if (value !== null) memory.set(name, value);
  }
}
