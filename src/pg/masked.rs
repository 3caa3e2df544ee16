//! A statement as it may be shown: what it does, without the values that it does it with.

/// Longer ones are cut.
const CHARACTERS_MAX: usize = 200;

/// The statement on one line, its literals and numbers as `?`, without comments. A literal that has no end, since the server cut the
/// statement, hides all behind it.
pub(super) fn masked(statement: &str) -> String {
    let mut shown = String::new();
    let mut rest = statement;
    while let Some(first) = rest.chars().next() {
        if shown.chars().count() >= CHARACTERS_MAX {
            shown.push('…');
            break;
        }
        let (taken, put) = match first {
            '\'' => {
                let length = literal(rest);
                // A backslash may be an escape or not, and so this quote the literal's end or not: what comes behind stays hidden.
                if rest.get(..length).is_some_and(|literal| literal.contains('\\')) {
                    shown.push_str("? …");
                    break;
                }
                (length, "?")
            }
            '$' => match dollar_quoted(rest) {
                Some(length) => (length, "?"),
                None => (1, "$"),
            },
            '-' if rest.starts_with("--") => (rest.find('\n').unwrap_or(rest.len()), " "),
            '/' if rest.starts_with("/*") => (comment(rest), " "),
            '"' => {
                let length = identifier(rest);
                (length, rest.get(..length).unwrap_or_default())
            }
            _ if first.is_whitespace() => (spaces(rest), " "),
            _ if first.is_ascii_digit() => (number(rest), "?"),
            _ if is_word(first) => {
                let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                (length, rest.get(..length).unwrap_or_default())
            }
            _ => (first.len_utf8(), rest.get(..first.len_utf8()).unwrap_or_default()),
        };
        if !(put == " " && (shown.is_empty() || shown.ends_with(' '))) {
            shown.push_str(put);
        }
        rest = rest.get(taken.max(1)..).unwrap_or_default();
    }
    shown.truncate(shown.trim_end().len());
    shown
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_' || character == '$'
}

fn spaces(text: &str) -> usize {
    text.find(|c: char| !c.is_whitespace()).unwrap_or(text.len())
}

fn number(text: &str) -> usize {
    text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_')).unwrap_or(text.len())
}

/// The length of what stands between quotes; all of the text where it has no end. A doubled quote is two that follow each other.
fn quoted(text: &str, quote: char) -> usize {
    let inside = text.get(1..).unwrap_or_default();
    inside.find(quote).map_or(text.len(), |at| at.saturating_add(2))
}

fn literal(text: &str) -> usize {
    quoted(text, '\'')
}

fn identifier(text: &str) -> usize {
    quoted(text, '"')
}

fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0u32, 0usize);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            (depth, at) = (depth.saturating_add(1), at.saturating_add(2));
        } else if rest.starts_with("*/") {
            (depth, at) = (depth.saturating_sub(1), at.saturating_add(2));
            if depth == 0 {
                return at;
            }
        } else {
            at = at.saturating_add(rest.chars().next().map_or(1, char::len_utf8));
        }
    }
    text.len()
}

/// `$tag$…$tag$`; none where that is no quote, as in `$1`.
fn dollar_quoted(text: &str) -> Option<usize> {
    let end = text.get(1..)?.find('$')?.saturating_add(2);
    let tag = text.get(..end)?;
    let name = tag.trim_matches('$');
    if name.starts_with(|c: char| c.is_ascii_digit())
        || !name.chars().all(|c| c.is_alphanumeric() || c == '_')
    {
        return None;
    }
    let closing = text.get(end..)?.find(tag);
    Some(closing.map_or(text.len(), |at| at.saturating_add(end).saturating_add(tag.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_never_shown() {
        let check = |statement: &str, shown: &str| assert_eq!(masked(statement), shown);
        check("UPDATE t SET a = 'it''s', b = 1.5e7 WHERE id=42", "UPDATE t SET a = ??, b = ? WHERE id=?");
        check("ALTER ROLE a PASSWORD 'x", "ALTER ROLE a PASSWORD ?");
        check("SELECT E'a', t1.c2, U&'x'", "SELECT E?, t1.c2, U&?");
        check(r"SELECT E'it''s a\'b secret words', 1", "SELECT E?? …");
        check("SELECT E'a'\n'b\\'secret', t.secret", "SELECT E? ? …");
        check(r"UPDATE t SET a = 'C:\dir', b = 'x'", "UPDATE t SET a = ? …");
        check("SELECT $1, $$a'b$$, $q$ $$ $q$ FROM \"A b\"\"1\"", "SELECT $?, ?, ? FROM \"A b\"\"1\"");
        check("  SELECT /* a /* 'b */ */ 1 -- c\n  FROM t ", "SELECT ? FROM t");
        check("DO $x$ secret", "DO ?");
        check("SELECT 'ä', ä1, -7", "SELECT ?, ä1, -?");
    }

    #[test]
    fn long_ones_are_cut() {
        let shown = masked(&"a ".repeat(1000));
        assert_eq!(shown.chars().count(), CHARACTERS_MAX + 1);
    }
}
