//! Splitting a file into its statements. Several statements that are sent as one message are one transaction for
//! Postgres, so that a file which must not run in one is sent statement by statement.

/// The statements of a file without the semicolons that end them; comments before a statement belong to it.
pub(super) fn split(sql: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let (mut begin, mut at, mut is_empty) = (0, 0, true);
    while let Some(next) = sql[at..].chars().next() {
        if next == ';' {
            if !is_empty {
                statements.push(sql[begin..at].trim());
            }
            (begin, at, is_empty) = (at + 1, at + 1, true);
            continue;
        }
        let past_comment = comment(&sql[at..]);
        is_empty &= next.is_whitespace() || past_comment.is_some();
        at += past_comment.or_else(|| quoted(&sql[at..])).unwrap_or(next.len_utf8());
    }
    if !is_empty {
        statements.push(sql[begin..].trim());
    }
    statements
}

/// Length of the comment that the text begins with.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("--") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    // They nest.
    let (mut depth, mut at) = (0_u32, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    Some(text.len())
}

/// Length of the quoted text, name or body that the text begins with.
fn quoted(text: &str) -> Option<usize> {
    let end = |from: usize, quote: &str| text[from..].find(quote).map_or(text.len(), |at| from + at + quote.len());
    match text.chars().next()? {
        // A doubled quote inside is read as the end of one and the beginning of another, which comes to the same.
        '\'' => Some(end(1, "'")),
        '"' => Some(end(1, "\"")),
        'E' | 'e' if text[1..].starts_with('\'') => {
            let mut escaped = false;
            let inside = text[2..].char_indices().find(|(_, c)| {
                let ends = *c == '\'' && !escaped;
                escaped = *c == '\\' && !escaped;
                ends
            });
            Some(inside.map_or(text.len(), |(at, _)| at + 3))
        }
        '$' => {
            let tag = text[1..].find(|c: char| !(c.is_alphanumeric() || c == '_')).map(|at| &text[..at + 2])?;
            tag.ends_with('$').then(|| end(tag.len(), tag))
        }
        // A name or number is taken as a whole: what is in it begins nothing.
        first if first.is_alphanumeric() || first == '_' => {
            Some(text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(text.len()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn statements_end_at_semicolons_that_are_not_quoted() {
        let sql = "-- no-transaction; as it says\nCREATE INDEX \"a;b\" ON t (x);\n\n/* one; /* two; */ */\nSELECT ';''', E'\\';';
            DO $body$ BEGIN NULL; END $body$; SELECT a$1;b FROM t -- the end;\n;\n-- nothing more;\n";
        let split = split(sql);
        let ends: Vec<&str> = split.iter().map(|statement| statement.lines().last().unwrap().trim()).collect();
        assert_eq!(
            ends,
            [
                "CREATE INDEX \"a;b\" ON t (x)",
                "SELECT ';''', E'\\';'",
                "DO $body$ BEGIN NULL; END $body$",
                "SELECT a$1",
                "b FROM t -- the end;"
            ]
        );
    }

    #[test]
    fn the_last_statement_needs_no_semicolon() {
        assert_eq!(split("SELECT 1; SELECT 'open"), ["SELECT 1", "SELECT 'open"]);
        assert!(split(" -- only a comment\n").is_empty());
    }
}
