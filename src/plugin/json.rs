//! Walking through one JSON text, as PostgreSQL's `escape_json` writes it: bytes in the server's encoding, whatever that is,
//! and escapes for control characters only. Numbers stay text.

use std::borrow::Cow;

use super::message::Malformed;

pub(super) struct Json<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Json<'a> {
    pub(super) fn new(all: &'a [u8]) -> Json<'a> {
        Json { all, at: 0 }
    }

    pub(super) fn wrong(&self, what: &'static str) -> Malformed {
        Malformed { what, at: self.at }
    }

    fn rest(&self) -> &'a [u8] {
        self.all.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self, byte: u8) -> bool {
        let found = self.rest().first() == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Malformed> {
        if self.skip(byte) { Ok(()) } else { Err(self.wrong(what)) }
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.rest().is_empty() { Ok(()) } else { Err(self.wrong("more than one object")) }
    }

    /// An object; `each` reads the value of the member it is given.
    pub(super) fn object(
        &mut self,
        mut each: impl FnMut(&mut Json<'a>, &[u8]) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        self.expect(b'{', "no object")?;
        if self.skip(b'}') {
            return Ok(());
        }
        loop {
            let name = self.string()?;
            self.expect(b':', "a member without value")?;
            each(self, &name)?;
            if !self.skip(b',') {
                return self.expect(b'}', "an object without end");
            }
        }
    }

    /// An array; `each` reads one element.
    pub(super) fn array(
        &mut self,
        mut each: impl FnMut(&mut Json<'a>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        self.expect(b'[', "no array")?;
        if self.skip(b']') {
            return Ok(());
        }
        loop {
            each(self)?;
            if !self.skip(b',') {
                return self.expect(b']', "an array without end");
            }
        }
    }

    pub(super) fn is_string(&self) -> bool {
        self.rest().first() == Some(&b'"')
    }

    /// A number, `true`, `false` or `null`.
    pub(super) fn word(&mut self) -> Result<&'a [u8], Malformed> {
        let rest = self.rest();
        let inside = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let length = rest.iter().position(|byte| !inside(byte)).unwrap_or(rest.len());
        if length == 0 {
            return Err(self.wrong("no value"));
        }
        self.at += length;
        Ok(rest.get(..length).unwrap_or_default())
    }

    pub(super) fn skip_value(&mut self) -> Result<(), Malformed> {
        if self.is_string() { self.string().map(drop) } else { self.word().map(drop) }
    }

    pub(super) fn string(&mut self) -> Result<Cow<'a, [u8]>, Malformed> {
        self.expect(b'"', "no string")?;
        let mut text = Vec::new();
        loop {
            let rest = self.rest();
            let length = memchr::memchr2(b'"', b'\\', rest).ok_or(self.wrong("a string without end"))?;
            let part = rest.get(..length).unwrap_or_default();
            self.at += length;
            if self.skip(b'"') {
                if text.is_empty() {
                    return Ok(Cow::Borrowed(part));
                }
                text.extend_from_slice(part);
                return Ok(Cow::Owned(text));
            }
            text.extend_from_slice(part);
            self.at += 1;
            text.push(self.escaped()?);
        }
    }

    fn escaped(&mut self) -> Result<u8, Malformed> {
        let letter = *self.rest().first().ok_or(self.wrong("a string without end"))?;
        self.at += 1;
        Ok(match letter {
            b'"' | b'\\' | b'/' => letter,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let digits = self.rest().get(..4).and_then(|digits| std::str::from_utf8(digits).ok());
                let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                let code = code.filter(u8::is_ascii).ok_or(self.wrong("an escape that is not ASCII"))?;
                self.at += 4;
                code
            }
            _ => return Err(self.wrong("an unknown escape")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back_byte_for_byte() {
        for (json, text) in [
            (&br#""""#[..], &b""[..]),
            (br#""a\"b\\c\/\n\r\t\b\f\u0001""#, b"a\"b\\c/\n\r\t\x08\x0c\x01"),
            (b"\"\xfcml\xe4ut\"", b"\xfcml\xe4ut"),
        ] {
            let mut reader = Json::new(json);
            assert_eq!(reader.string().unwrap(), text);
            reader.end().unwrap();
        }
        for json in [&br#"""#[..], br#""\"#, br#""\u00""#, br#""\u20ac""#, br#""\x""#, b"1"] {
            assert!(Json::new(json).string().is_err());
        }
    }

    #[test]
    fn structure_is_checked() {
        for json in ["", "{", "{}}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{\"a\":1 }", "[]", "{\"a\":[1}"] {
            let mut reader = Json::new(json.as_bytes());
            let read = reader.object(|reader, _| {
                if reader.rest().starts_with(b"[") {
                    reader.array(Json::skip_value)
                } else {
                    reader.skip_value()
                }
            });
            assert!(read.and_then(|()| reader.end()).is_err(), "{json}");
        }
    }
}
