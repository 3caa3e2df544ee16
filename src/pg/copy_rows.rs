//! Rows in the formats of COPY (PostgreSQL documentation, COPY, "Text Format" and "Binary Format").

use crate::model::{Fault, Format};

/// Signature, flags, and the length of an extension that is not there.
const BINARY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Stands where a row's number of columns would.
const BINARY_END: [u8; 2] = (-1i16).to_be_bytes();

/// Rows of one COPY that wait to be sent.
pub struct CopyRows {
    format: Format,
    bytes: Vec<u8>,
}

impl CopyRows {
    pub fn new(format: Format, capacity: usize) -> CopyRows {
        let mut bytes = Vec::with_capacity(capacity);
        if format == Format::Binary {
            bytes.extend_from_slice(BINARY_HEADER);
        }
        CopyRows { format, bytes }
    }

    /// Adds a row of values in this format; `None` is null.
    pub fn push(&mut self, row: &[Option<&[u8]>]) -> Result<(), Fault> {
        match self.format {
            Format::Text => write_text(&mut self.bytes, row),
            Format::Binary => {
                let count = u16::try_from(row.len());
                let count = count.map_err(|_| Fault::stop("a row has too many columns for COPY"))?;
                self.bytes.extend_from_slice(&count.to_be_bytes());
                for value in row {
                    let length = value.map_or(u32::MAX, |value| value.len() as u32);
                    self.bytes.extend_from_slice(&length.to_be_bytes());
                    self.bytes.extend_from_slice(value.unwrap_or_default());
                }
            }
        }
        Ok(())
    }

    pub fn waiting(&self) -> &[u8] {
        &self.bytes
    }

    /// What waited has been sent.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// There will be no more.
    pub fn end(&mut self) {
        if self.format == Format::Binary {
            self.bytes.extend_from_slice(&BINARY_END);
        }
    }
}

/// The fields of one row in text form, without its end; `None` is null. What is escaped is written to `spare`.
pub fn read_text<'r>(line: &'r [u8], spare: &'r mut Vec<u8>) -> Vec<Option<&'r [u8]>> {
    enum Field<'r> {
        Null,
        Plain(&'r [u8]),
        Escaped(std::ops::Range<usize>),
    }
    spare.clear();
    let fields = line.split(|byte| *byte == b'\t').map(|field| match field {
        b"\\N" => Field::Null,
        plain if !plain.contains(&b'\\') => Field::Plain(plain),
        escaped => {
            let begin = spare.len();
            unescape(escaped, spare);
            Field::Escaped(begin..spare.len())
        }
    });
    let fields: Vec<_> = fields.collect();
    let spare = &*spare;
    let value = |field| match field {
        Field::Null => None,
        Field::Plain(text) => Some(text),
        Field::Escaped(range) => spare.get(range),
    };
    fields.into_iter().map(value).collect()
}

/// Of the escapes, those that the server writes.
pub fn unescape(field: &[u8], into: &mut Vec<u8>) {
    let mut bytes = field.iter().copied();
    while let Some(byte) = bytes.next() {
        into.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 8,
                Some(b't') => b'\t',
                Some(b'n') => b'\n',
                Some(b'v') => 11,
                Some(b'f') => 12,
                Some(b'r') => b'\r',
                Some(other) => other,
                None => b'\\',
            },
            other => other,
        });
    }
}

/// Appends one row: columns parted by tabs, null as `\N`, control characters and backslashes escaped.
fn write_text(buffer: &mut Vec<u8>, row: &[Option<&[u8]>]) {
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
        write_text(&mut buffer, &row);
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

    #[test]
    fn what_was_written_is_read() {
        for row in [
            &[Some("a"), None, Some("")][..],
            &[Some("\\N"), Some("\\."), Some("\\")],
            &[Some("a\tb\nc\rd\\e"), Some("\\t")],
            &[Some("")],
            &[None],
        ] {
            let row: Vec<_> = row.iter().map(|value| value.map(str::as_bytes)).collect();
            let mut line = Vec::new();
            write_text(&mut line, &row);
            assert_eq!(read_text(line.strip_suffix(b"\n").unwrap(), &mut Vec::new()), row);
        }
        assert_eq!(read_text(b"\\v\\f\\b", &mut Vec::new()), [Some(&b"\x0b\x0c\x08"[..])]);
    }

    #[test]
    fn binary_rows_have_a_header_and_an_end() {
        let mut rows = CopyRows::new(Format::Binary, 0);
        rows.push(&[Some(b"ab"), None]).unwrap();
        assert_eq!(rows.waiting(), b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\x02ab\xff\xff\xff\xff");
        rows.clear();
        rows.end();
        assert_eq!(rows.waiting(), b"\xff\xff");
    }
}
