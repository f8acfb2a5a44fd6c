//! How hard a password is to guess, as zxcvbn judges it, at a bounded cost. Left to itself that grows with the square of
//! the length and with every way to read digits and symbols as letters: a second for 72 well-chosen bytes. Called on the
//! hashing threads only.

use zeroize::Zeroizing;

/// Characters that are judged: what begins with so many that are hard to guess is hard to guess.
const JUDGED: usize = 32;
/// Ways to read a password's digits and symbols as letters that are tried.
const MOST_READINGS: usize = 16;
/// Words about the user that are compared with.
const MOST_WORDS: usize = 48;
/// Shorter words occur in any password.
const SHORTEST_WORD: usize = 3;

/// What judging one password is counted as when work is admitted, in the units of hashes: some milliseconds.
pub(super) const UNITS: u64 = 64;

/// What zxcvbn reads as letters.
const READINGS: [&str; 12] = ["4@", "8", "({[<", "3", "69", "1!|", "1|7", "0", "$5", "+7", "%", "2"];
/// Those of them that are read as either of two letters.
const AMBIGUOUS: &str = "1|7";
/// Symbols, each with the one that it is taken for.
type Alike = &'static [(char, char)];
/// Symbols that are taken for another one that reads alike, where there would be too many readings.
static ALIKE: [Alike; 2] =
    [&[('{', '('), ('[', '('), ('<', '('), ('|', '!')], &[('@', '4'), ('$', '5'), ('+', '7'), ('!', '1')]];

/// The strength, 0 to 4, of a password whose user others know by these words.
pub(crate) fn score(password: &str, about: &[Zeroizing<String>]) -> u8 {
    let (judged, alike) = bounded(password);
    // As the password is read, or one's own name could be told from itself.
    let about: Vec<Zeroizing<String>> = about.iter().map(|word| plain(word, alike)).collect();
    let words: Vec<&str> = about.iter().map(|word| word.as_str()).collect();
    zxcvbn::zxcvbn(&judged, &words).score().into()
}

/// The texts about a user and the words in them: ann.smith@example.com might choose any of these.
pub(crate) fn words(about: &[&str]) -> Vec<Zeroizing<String>> {
    let parts = about.iter().flat_map(|text| text.split(|letter: char| !letter.is_alphanumeric()));
    let words = about.iter().copied().chain(parts).filter(|word| word.chars().count() >= SHORTEST_WORD);
    words.take(MOST_WORDS).map(|word| Zeroizing::new(word.chars().take(JUDGED).collect())).collect()
}

/// The part of a password that is judged, and for which others its symbols were taken: where they can be read in too many
/// ways, those that are read as the same letter are not told apart.
fn bounded(password: &str) -> (Zeroizing<String>, &'static [Alike]) {
    let begins: Zeroizing<String> = Zeroizing::new(password.chars().take(JUDGED).collect());
    for steps in 0..ALIKE.len() {
        let judged = plain(&begins, &ALIKE[..steps]);
        if readings(&judged) <= MOST_READINGS {
            return (judged, &ALIKE[..steps]);
        }
    }
    (plain(&begins, &ALIKE), &ALIKE)
}

fn plain(text: &str, alike: &[Alike]) -> Zeroizing<String> {
    let step = |c: char, step: &Alike| step.iter().find(|(symbol, _)| *symbol == c).map_or(c, |(_, to)| *to);
    Zeroizing::new(text.chars().map(|c| alike.iter().fold(c, step)).collect())
}

/// At most so many ways there are to read a password's digits and symbols as letters.
fn readings(password: &str) -> usize {
    let there = |symbols: &str| symbols.chars().filter(|symbol| password.contains(*symbol)).count();
    READINGS.iter().map(|symbols| there(symbols).max(1)).product::<usize>() << there(AMBIGUOUS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// CPU time of this thread so far, in nanoseconds: what else the machine does is not in it.
    fn cpu_time() -> u64 {
        let figures = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        figures.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// The most expensive passwords that are known, and words that make them more expensive.
    fn dearest() -> Vec<String> {
        let every_symbol = "@4({[<369!1|0$57+2%8";
        let mut passwords: Vec<String> = [every_symbol, "1|7", "aaaa", "ab", "password", "1", "qwerty", "({[<@4"]
            .iter()
            .map(|text| text.repeat(1024 / text.len()))
            .collect();
        passwords.push(every_symbol.chars().rev().collect::<String>().repeat(8));
        passwords.push("@4({[<369!1|0$57+2%8passwordlove".repeat(4));
        passwords
    }

    /// Without the bound the first of these takes a second or more, also of an optimised build.
    #[test]
    fn no_password_costs_more_than_some_milliseconds_to_judge() {
        let text = "abcdefgh ijklmnop ".repeat(60);
        let about = words(&[&text, "ann.smith@example.com", "Zebralution"]);
        // What is read from tables once.
        score("warm", &about);
        for password in dearest() {
            let before = cpu_time();
            score(&password, &about);
            let took = cpu_time() - before;
            assert!(took < 100_000_000, "{took} ns for {password}");
        }
    }

    #[test]
    fn what_is_judged_is_short_and_reads_in_few_ways() {
        for password in dearest() {
            let (judged, _) = bounded(&password);
            assert!(judged.chars().count() <= JUDGED && readings(&judged) <= MOST_READINGS, "{}", *judged);
        }
        for usual in ["Tr0ub4dor&3", "1234567890", "p@$$w0rd!", "c0rrect h0rse b@ttery"] {
            assert_eq!(*bounded(usual).0, usual);
        }
        assert_eq!(words(&["ann smith", "x"]).len(), 3);
        assert_eq!(words(&[&"word ".repeat(500)]).len(), MOST_WORDS);
    }

    #[test]
    fn the_bound_makes_no_weak_password_strong() {
        for weak in ["password1", "qwertyuiop", "1234567890", "p@$$w0rd", &"a".repeat(72), &"@4({[<".repeat(3)] {
            assert!(score(weak, &[]) < 3, "{weak}");
        }
        for own in dearest() {
            assert_eq!(score(&own, &words(&[&own])), 0, "{own}");
        }
        assert!(score("correct horse battery staple", &[]) == 4);
        assert!(score("kX9#qLwpM4!v", &[]) >= 3);
    }

    proptest! {
        #[test]
        fn every_password_reads_in_few_ways(password in "[ -~]{0,80}|\\PC{0,40}") {
            let (judged, _) = bounded(&password);
            prop_assert!(judged.chars().count() <= JUDGED && readings(&judged) <= MOST_READINGS);
        }
    }
}
