/** What was made of texts of which a few repeat nearly always, such as actions. */
const TEXTS_MAX = 1000;

/** Returns a function that gives what `make` gives, and asks it once for most texts. They are kept: nothing that can be erased is for this. */
export function remembered(make: (text: string) => string): (text: string) => string {
  const known = new Map<string, string>();
  return (text) => {
    let made = known.get(text);
    if (made === undefined) {
      made = make(text);
      if (known.size >= TEXTS_MAX) known.clear();
      known.set(text, made);
    }
    return made;
  };
}
