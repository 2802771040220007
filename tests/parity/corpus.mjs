// The strings that tokenizers are compared on: the same ones in every run, drawn by a seeded generator.

/** Numbers in [0, 2^32) from a seed (mulberry32). */
function generator(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
}

// Blocks of scripts: first and last code point.
const scripts = [
  [0x21, 0x7e], [0xa1, 0xff], [0x100, 0x17f], [0x180, 0x24f], [0x250, 0x2af], [0x370, 0x3ff], [0x400, 0x4ff], [0x531, 0x58a], [0x591, 0x5f4], [0x600, 0x6ff], [0x700, 0x74f],
  [0x780, 0x7b1], [0x900, 0x97f], [0x980, 0x9fe], [0xa01, 0xa76], [0xa81, 0xaff], [0xb82, 0xbfa], [0xc00, 0xc7f], [0xc80, 0xcff], [0xd00, 0xd7f], [0xd81, 0xdf4], [0xe01, 0xe5b],
  [0xe81, 0xedf], [0xf00, 0xfda], [0x1000, 0x109f], [0x10a0, 0x10ff], [0x1100, 0x11ff], [0x1200, 0x139f], [0x13a0, 0x13ff], [0x1400, 0x167f], [0x1780, 0x17f9], [0x1800, 0x18aa],
  [0x1e00, 0x1eff], [0x1f00, 0x1fff], [0x2010, 0x206f], [0x2070, 0x20bf], [0x2100, 0x218b], [0x2190, 0x22ff], [0x2300, 0x23ff], [0x2460, 0x24ff], [0x2500, 0x26ff], [0x2700, 0x27bf],
  [0x2c00, 0x2dff], [0x2e80, 0x2fdf], [0x3001, 0x303f], [0x3041, 0x309f], [0x30a0, 0x30ff], [0x3105, 0x312f], [0x3131, 0x318e], [0x3200, 0x33ff], [0x4e00, 0x9fff], [0xa000, 0xa4c6],
  [0xac00, 0xd7a3], [0xf900, 0xfad9], [0xfb00, 0xfb4f], [0xfe30, 0xfe4f], [0xff01, 0xffee], [0x10000, 0x100fa], [0x10330, 0x1034a], [0x12000, 0x12399], [0x1d400, 0x1d7ff], [0x1f100, 0x1f1ff],
  [0x1f300, 0x1f64f], [0x1f680, 0x1f6ff], [0x1f900, 0x1f9ff], [0x20000, 0x2a6d6], [0xe000, 0xe0ff], [0xe0100, 0xe01ef],
];
const spaces = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\r", "\t", "\t\t", " \n", "\n ", "\u00a0", "\u2003", "\u3000", "\u200b", "\u2028", "\u2029", "\u0085", "\ufeff", "\v", "\f", "\u1680", "\u202f", "\u205f", "        ", "\n\n\n\n"];
const words = ("the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one you were all her she there would their we him been has when who " +
  "will no more if out so up said what its about than into them can only other time new some could these two may first then do any like my now over such our man me even most made after also did many " +
  "internationalization Straße naïve café Zürich façade coöperate résumé Ångström don't I'll we've they're it's CAN'T I'LL WE'VE you'd he'S isn't O'Neil rock'n'roll it'ſ 'Ll'Re İ'M Việt Nam Łódź İstanbul ırmak ǅungla " +
  "привет мир Россия это как его она они дом Київ български Ελλάδα καλημέρα שלום עולם مرحبا بالعالم السلام عليكم नमस्ते दुनिया স্বাগতম வணக்கம் สวัสดีชาวโลก ប្រទេស မြန်မာ 안녕하세요 세계 日本語 東京 こんにちは カタカナ 中文 你好世界 繁體字 ქართული հայերեն አማርኛ").split(" ");
const emoji = ["😀", "😂", "🙏🏽", "👍🏿", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🏴‍☠️", "👨🏻‍💻", "🇩🇪", "🇯🇵🇺🇸", "❤️", "❤", "☃️", "1️⃣", "#️⃣", "🧑🏾‍🤝‍🧑🏻", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "\u200d", "\ufe0f", "🫠", "🪿"];
const marks = ["\u0301", "\u0300", "\u0308", "\u030a", "\u0327", "\u0323", "\u0345", "\u0591", "\u05b0", "\u064b", "\u0651", "\u093c", "\u09be", "\u0e49", "\u3099", "\u309a", "\u1161", "\u11a8", "\u20d2", "\u0338", "\u1ab0", "\u1dc4", "\ufe20", "\u{1d165}"];
const code = ["def f(x):\n    return x + 1\n", "for (int i = 0; i < n; i++) {\n\tsum += a[i];\n}\n", "public static void Main(string[] args) => Console.WriteLine($\"{args.Length:N0}\");", "SELECT * FROM t WHERE a >= 10 AND b <> 'x';",
  "<div class=\"a b\">&nbsp;text</div>", "{\"key\": [1, 2.5e-3, null, true], \"k\\u00e9\": \"v\"}", "#include <stdio.h>\n", "a&&b||!c ? d : e->f::g", "x = lambda *a, **k: (a, k)", "/* comment */ // line", "http://example.com/a/b?c=d&e=f#g", "user.name+tag@example.co.uk",
  "C:\\Users\\me\\file.txt", "/usr/local/bin/./../x", "0x1F 0b1010 1e-9 1_000", "\\frac{1}{2} \\sum_{i=1}^{n}", "$$$ ### *** --- === +++ ``` ~~~ <<<>>>", "if err != nil {\n\t\treturn nil, err\n\t}\n", "    indented\n        more\n", "!!!???...", "@@ -1,3 +1,4 @@"];
const surrogates = ["\ud800", "\udc00", "\udbff", "\udfff", "\ud83d", "\ude00", "\ud800\ud800", "\udc00\ud800"];
const odd = ["\u0000", "\u0001", "\u001b[0m", "\u007f", "\u0080", "\u009f", "\u00ad", "\ufffd", "\ufffe", "\uffff", "\u{10ffff}", "\u{e0001}", "▁", "▁▁", "Ġ", "Ċ", "<0x0A>", "<0xE2>", "ﬁ", "½", "²", "Ⅳ", "①", "㍿", "K", "Å", "Ω", "ſ", "ß", "ẞ", "ŉ", "\u212b\u0323"];
const digits = ["0", "7", "42", "123", "1234", "12345", "1234567890", "3.14159", "1,234,567.89", "-1", "1e10", "١٢٣٤", "१२३४", "๑๒๓", "１２３４", "②③", "¼", "10²³", "𝟙𝟚𝟛", "2026-11-25T05:18:00Z", "1/2", "50%", "$9.99", "v1.2.3-rc4", "ⅦⅧ"];

/** At least `count` strings; `specials` are the texts of special tokens to put among others. */
export function corpus(count, specials) {
  const next = generator(20261125);
  const pick = list => list[next() % list.length];
  const letter = () => {
    const [first, last] = pick(scripts);
    return String.fromCodePoint(first + (next() % (last - first + 1)));
  };
  const stretch = () => {
    const [first, last] = pick(scripts);
    return Array.from({ length: 1 + (next() % 8) }, () => String.fromCodePoint(first + (next() % (last - first + 1)))).join("");
  };
  const marked = () => pick(["a", "e", "o", "u", "A", "가", "ᄀ", "か", "ن", "क", "\u1e63", letter()]) + Array.from({ length: 1 + (next() % 3) }, () => pick(marks)).join("");
  const kinds = [() => pick(words), () => pick(words) + pick(spaces), stretch, letter, () => pick(spaces), () => pick(emoji), marked, () => pick(code), () => pick(digits), () => pick(odd), () => pick(specials), () => pick(surrogates)];
  const sentence = () => Array.from({ length: 3 + (next() % 20) }, () => pick(words)).join(" ") + pick([".", "?", "!", "...", "", "。", " "]);
  const mix = list => Array.from({ length: 1 + (next() % 8) }, () => pick(list)()).join("");
  const strings = ["", ...spaces, ...words, ...emoji, ...marks, ...code, ...surrogates, ...odd, ...digits, ...specials, ...specials.map(s => ` ${s} `), ...specials.map(s => `a${s}b`)];
  for (let length = 1; length <= 64; length++) strings.push(" ".repeat(length), "\n".repeat(length), "\t".repeat(length) + "x", " ".repeat(length) + "x", "a".repeat(length), "=".repeat(length), "9".repeat(length));
  while (strings.length < count) {
    switch (next() % 6) {
      case 0: strings.push(sentence()); break;
      case 1: strings.push(mix(kinds)); break;
      case 2: strings.push(mix([stretch, () => " ", () => pick(spaces)])); break;
      case 3: strings.push(sentence() + pick(specials) + sentence() + pick(kinds)()); break;
      case 4: strings.push(mix([() => pick(code), () => pick(spaces), () => pick(digits), () => pick(words)])); break;
      default: strings.push(mix([marked, letter, () => pick(emoji), () => pick(words) + " ", () => pick(odd)])); break;
    }
  }
  return strings;
}
