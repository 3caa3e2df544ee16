//! Rows in the text format of COPY (PostgreSQL documentation, COPY, "Text Format").

/// Appends one row: columns parted by tabs, null as `\N`, control characters and backslashes escaped.
pub(super) fn write_row(buffer: &mut Vec<u8>, row: &[Option<&[u8]>]) {
    for (at, value) in row.iter().enumerate() {
        if at > 0 {
            buffer.push(b'\t');
        }
        match value {
            Some(text) => write_escaped(buffer, text),
            None => buffer.extend_from_slice(b"\\N"),
        }
    }
    buffer.push(b'\n');
}

fn write_escaped(buffer: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r')) {
        let (plain, special) = rest.split_at(at);
        buffer.extend_from_slice(plain);
        let Some((&byte, after)) = special.split_first() else { break };
        buffer.extend_from_slice(match byte {
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            _ => b"\\\\",
        });
        rest = after;
    }
    buffer.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(row: &[Option<&str>], expected: &str) {
        let row: Vec<_> = row.iter().map(|value| value.map(str::as_bytes)).collect();
        let mut buffer = Vec::new();
        write_row(&mut buffer, &row);
        assert_eq!(String::from_utf8(buffer).unwrap(), expected);
    }

    #[test]
    fn escapes_what_would_end_a_value() {
        check(&[Some("a"), None, Some("")], "a\t\\N\t\n");
        check(&[Some("\\N")], "\\\\N\n");
        check(&[Some("\\.")], "\\\\.\n");
        check(&[Some("a\tb\nc\rd\\e")], "a\\tb\\nc\\rd\\\\e\n");
        check(&[Some("ü\u{1F600}\u{0B}")], "ü\u{1F600}\u{0B}\n");
    }
}
