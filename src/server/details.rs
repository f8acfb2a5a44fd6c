//! What an error says fits into the headers of any client: many take 8 KiB of all metadata together, and report an error of
//! their own in place of one that is larger. Everything is cut here that could be longer, and the error says what was cut.

use std::collections::HashMap;

use uuid::Uuid;

use crate::fault::Fault;

/// The encoded `google.rpc.Status` at most. As base64, which headers take, it is a third more: less than 4 KiB.
pub(super) const MOST_BYTES: usize = 3_000;
/// The message at most, in bytes of UTF-8, each of which may take three in the header. It is among the details as well.
pub(super) const MOST_MESSAGE: usize = 800;
/// Of that, the sentence about the whole call.
const SENTENCE: usize = 500;
/// A value of the metadata at most.
const VALUE: usize = 1_000;
/// The name of a field, and what is wrong with it.
const NAME: usize = 100;
const PROBLEM: usize = 300;
/// What the encoding takes besides the texts: of the whole, and of each entry.
const FRAME: usize = 330;
const ENTRY: usize = 16;
/// A number that says how much was left out.
const NUMBER: usize = 20;
/// What stands for the rest of a text.
const ELLIPSIS: &str = "…";

/// What fits.
#[derive(Debug)]
pub(super) struct Fitted {
    pub message: String,
    /// For `ErrorInfo.metadata`. What was cut out of `key` is counted in `key_left_out`: entries of a list, bytes of
    /// another text. `left_out` counts values and fields that are left out whole.
    pub metadata: HashMap<String, String>,
    pub fields: Vec<(String, String)>,
}

/// What of `fault` fits beside texts of the answer itself, which take so many bytes.
pub(super) fn fit(fault: &Fault, correlation_id: Option<Uuid>, texts: usize) -> Fitted {
    let mut room = Room { left: MOST_BYTES.saturating_sub(FRAME + texts + MOST_MESSAGE), left_out: 0 };
    let mut metadata = HashMap::new();
    if let Some(id) = correlation_id.filter(|_| room.take("correlation_id".len() + 36)) {
        metadata.insert("correlation_id".to_owned(), id.to_string());
    }
    // At the end there is room to say that something is missing.
    let _ = room.take("left_out".len() + NUMBER);
    // Fields come first: they are what the caller can correct. Half of what there is, at most, so that facts remain.
    let mut for_fields = Room { left: room.left / 2, left_out: 0 };
    let fields = for_fields.fields(fault.fields());
    room.left -= room.left / 2 - for_fields.left;
    room.left_out += for_fields.left_out;
    let mut cut = Vec::new();
    for (key, value) in fault.metadata() {
        if let Some(left_out) = room.value(&mut metadata, key, value) {
            cut.push(format!(" `{key}` does not fit into an error: {left_out} are left out."));
        }
    }
    if room.left_out > 0 {
        metadata.insert("left_out".to_owned(), room.left_out.to_string());
    }
    Fitted { message: message(fault, &fields, &cut), metadata, fields }
}

struct Room {
    left: usize,
    /// Values and fields that found none.
    left_out: usize,
}

impl Room {
    fn take(&mut self, bytes: usize) -> bool {
        match self.left.checked_sub(bytes + ENTRY) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    fn fields(&mut self, fields: &[(String, String)]) -> Vec<(String, String)> {
        let mut fitting = Vec::new();
        for (name, problem) in fields {
            let (name, problem) = (clip(name, NAME), clip(problem, PROBLEM));
            if self.left_out == 0 && self.take(name.len() + problem.len()) {
                fitting.push((name, problem));
            } else {
                self.left_out += 1;
            }
        }
        fitting
    }

    /// Adds a value or the beginning of it, and says how much was cut.
    fn value(&mut self, metadata: &mut HashMap<String, String>, key: &str, value: &str) -> Option<String> {
        if value.len() <= VALUE && self.take(key.len() + value.len()) {
            metadata.insert(key.to_owned(), value.to_owned());
            return None;
        }
        let count_key = format!("{key}_left_out");
        let rest = self.left.saturating_sub(key.len() + count_key.len() + NUMBER + 2 * ENTRY).min(VALUE);
        let (kept, left_out, of) = beginning(value, rest);
        if kept.is_empty() || !self.take(key.len() + kept.len()) || !self.take(count_key.len() + NUMBER) {
            self.left_out += 1;
            return None;
        }
        metadata.insert(key.to_owned(), kept);
        metadata.insert(count_key, left_out.to_string());
        Some(format!("{left_out} {of}"))
    }
}

/// The beginning of a value in so many bytes, how much is missing, and of what: whole entries of a list with commas, bytes
/// of everything else.
fn beginning(value: &str, most: usize) -> (String, usize, &'static str) {
    let fitting = &value[..value.floor_char_boundary(most)];
    match fitting.rfind(',') {
        Some(end) => (fitting[..end].to_owned(), value[end..].matches(',').count(), "entries"),
        None => {
            let kept = clip(value, most);
            let shown = kept.strip_suffix(ELLIPSIS).unwrap_or(&kept).len();
            (kept, value.len() - shown, "bytes")
        }
    }
}

/// A text in so many bytes, of whole characters.
fn clip(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    match most.checked_sub(ELLIPSIS.len()) {
        Some(most) => format!("{}{ELLIPSIS}", &text[..text.floor_char_boundary(most)]),
        None => String::new(),
    }
}

/// The fault's sentence, each field with its problem, and what is cut, for clients that show only the message.
fn message(fault: &Fault, fields: &[(String, String)], cut: &[String]) -> String {
    let mut text = clip(fault.message(), SENTENCE);
    let problems = fields.iter().map(|(name, problem)| format!(" `{name}` {problem}."));
    let parts: Vec<String> = problems.chain(cut.iter().cloned()).collect();
    let more = |count: usize| format!(" And {count} more.");
    let given = fault.fields().len() - fields.len();
    for (at, part) in parts.iter().enumerate() {
        let missing = parts.len() - at + given;
        if text.len() + part.len() + more(missing).len() > MOST_MESSAGE {
            text.push_str(&more(missing));
            return text;
        }
        text.push_str(part);
    }
    if given > 0 {
        text.push_str(&more(given));
    }
    text
}
