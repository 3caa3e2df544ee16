//! Reading integers off a byte slice, with a check for each.

use super::Damage;

/// What is left of a slice. `what` names the thing that is read, for the error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Take<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Take<'a> {
    pub(super) fn new(bytes: &'a [u8], what: &'static str) -> Take<'a> {
        Take { rest: bytes, what }
    }

    pub(super) fn is_empty(self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn short(self) -> Damage {
        Damage::Short(self.what)
    }

    pub(super) fn malformed(self) -> Damage {
        Damage::Malformed(self.what)
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Damage> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(self.short())?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(self.short())?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Damage> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Damage> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Damage> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Damage> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, Damage> {
        self.array().map(i64::from_le_bytes)
    }

    /// LEB128, at most 64 bits.
    pub(super) fn varint(&mut self) -> Result<u64, Damage> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                return Err(self.malformed());
            }
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed())
    }

    /// A varint that counts things of at least one byte each, so that it can't ask for more than there is.
    pub(super) fn count(&mut self) -> Result<usize, Damage> {
        let count = self.varint()?;
        usize::try_from(count).ok().filter(|count| *count <= self.rest.len()).ok_or(self.malformed())
    }

    pub(super) fn zigzag(&mut self) -> Result<i64, Damage> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A varint length and that many bytes.
    pub(super) fn block(&mut self) -> Result<&'a [u8], Damage> {
        let length = self.count()?;
        self.bytes(length)
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

pub(super) fn put_block(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            put_zigzag(&mut out, value as i64);
            let mut take = Take::new(&out, "test");
            assert_eq!(take.varint(), Ok(value));
            assert_eq!(take.zigzag(), Ok(value as i64));
            assert!(take.is_empty());
        }
        assert_eq!(Take::new(&[0x80; 3], "x").varint(), Err(Damage::Short("x")));
        assert_eq!(Take::new(&[0xFF; 11], "x").varint(), Err(Damage::Malformed("x")));
    }
}
