//! What the ordinary tests do with the targets: all seeds, and the same few thousand mutations of them every time. The
//! search for new inputs is `./run fuzz`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::TARGETS;

/// Mutations in an ordinary run, for each target.
const MUTATIONS: u32 = 2000;
/// What libFuzzer feeds at most, too.
const LONGEST: usize = 4096;

/// A file or folder of the fuzzing workspace.
pub(super) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

fn names(folder: &Path, ending: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(ending).map(str::to_owned)).collect()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = folder("seeds").join(target);
    names(&folder, "").into_iter().map(|name| std::fs::read(folder.join(name)).unwrap()).collect()
}

/// Numbers that look random and are the same in every run (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        // Bytes that mean something to one parser or another come more often than the rest.
        const TELLING: &[u8] = b"\0\n\r\t \"'\\{}[]()<>,;:.=-+_/$%&@#*|~`!?09azAZ\x1b\x7f\x80\xc3\xe2\xef\xf0\xff";
        if self.next().is_multiple_of(2) { TELLING[self.below(TELLING.len())] } else { self.next().to_le_bytes()[7] }
    }

    fn mutate(&mut self, data: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(data.len() + 1);
        let length = self.below(16) + 1;
        let end = (at + length).min(data.len());
        match self.below(7) {
            0 => data.insert(at, self.byte()),
            1 => drop(data.drain(at..end)),
            2 => data.truncate(at),
            3 => data.extend_from_within(at..end),
            4 => {
                let from = self.below(other.len() + 1);
                let piece = &other[from..(from + 4 * length).min(other.len())];
                drop(data.splice(at..at, piece.iter().copied()));
            }
            5 if at < data.len() => data[at] ^= 1 << self.below(8),
            _ if at < data.len() => data[at] = self.byte(),
            _ => data.push(self.byte()),
        }
        data.truncate(LONGEST);
    }
}

/// Says which input it was when the target panics.
struct Told<'a>(&'a str, &'a [u8]);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} fails for \"{}\"", self.0, self.1.escape_ascii());
        }
    }
}

/// Feeds a target its seeds and mutations of them.
pub(super) fn feed(name: &str) {
    let run = |data: &[u8]| {
        let told = Told(name, data);
        super::run(name, data);
        std::mem::forget(told);
    };
    let seeds = seeds(name);
    run(b"");
    seeds.iter().for_each(|seed| run(seed));
    let mut numbers = Numbers(0x5eed_5eed_5eed_5eed);
    for _ in 0..MUTATIONS {
        let mut data = seeds[numbers.below(seeds.len())].clone();
        let other = numbers.below(seeds.len());
        for _ in 0..=numbers.below(6) {
            numbers.mutate(&mut data, &seeds[other]);
        }
        run(&data);
    }
}

#[test]
fn every_target_has_seeds_a_binary_and_a_line_in_the_documentation() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len(), "two targets have one name");
    assert_eq!(names(&folder("seeds"), ""), targets, "fuzz/seeds");
    assert_eq!(names(&folder("fuzz_targets"), ".rs"), targets, "fuzz/fuzz_targets");
    let manifest = std::fs::read_to_string(folder("Cargo.toml")).unwrap();
    let page = std::fs::read_to_string(folder("../docs/fuzzing.md")).unwrap();
    for target in TARGETS {
        let name = target.name;
        assert!(!seeds(name).is_empty(), "{name} has no seeds");
        let code = std::fs::read_to_string(folder(&format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(code.contains(&format!("run(\"{name}\", data)")), "the binary {name} runs another target");
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "fuzz/Cargo.toml has no binary {name}");
        let line = format!("| `{name}` | {} |\n", target.reads);
        assert!(page.contains(&line), "docs/fuzzing.md lacks the line {line}");
    }
    let lines = page.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(lines, TARGETS.len(), "docs/fuzzing.md has lines for targets that are gone");
}

#[test]
fn seeds_are_small() {
    for target in TARGETS {
        for seed in seeds(target.name) {
            assert!(seed.len() <= LONGEST, "a seed of {} is over {LONGEST} bytes", target.name);
        }
    }
}
