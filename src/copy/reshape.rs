//! Copied rows on a target that is not a copy: as rules make them, the same that they make of the changes behind them.

use crate::model::{Fault, Format, Value};
use crate::pg::{CopyRows, Reshape, read_text};
use crate::pgoutput::TupleBuffer;
use crate::rules::Shaped;

/// Reads a row of the source's in text form, and adds what the target's is, if there is one.
pub(super) fn of(shaped: &Shaped) -> impl FnMut(&[u8], &mut CopyRows) -> Result<bool, Fault> + Send {
    let (mut spare, mut row) = (Vec::new(), TupleBuffer::default());
    move |line, into| {
        let values = read_text(line, &mut spare);
        let values: Vec<_> = values.into_iter().map(|value| value.map_or(Value::Null, Value::Text)).collect();
        if !shaped.row(&values, &mut row)? {
            return Ok(false);
        }
        let values: Vec<_> =
            row.tuple().values().map(|value| value.bytes().map(|(_, bytes)| bytes)).collect();
        into.push(&values)?;
        Ok(true)
    }
}

/// Rows of a base, of which a piece need not end with a row.
pub(super) struct Pieces<'s> {
    reshape: Box<Reshape<'s>>,
    rest: Vec<u8>,
}

impl<'s> Pieces<'s> {
    pub(super) fn new(shaped: &'s Shaped) -> Pieces<'s> {
        Pieces { reshape: Box::new(of(shaped)), rest: Vec::new() }
    }

    /// The next piece, as it goes to the target.
    pub(super) async fn next(
        &mut self,
        read: &mut impl AsyncFnMut() -> Result<Option<Vec<u8>>, Fault>,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let Some(piece) = read().await? else {
            return if self.rest.is_empty() {
                Ok(None)
            } else {
                Err(Fault::person("a file of the base ends within a row"))
            };
        };
        self.rest.extend_from_slice(&piece);
        let whole = memchr::memrchr(b'\n', &self.rest).map_or(0, |end| end + 1);
        let behind = self.rest.split_off(whole);
        let rows = std::mem::replace(&mut self.rest, behind);
        let mut reshaped = CopyRows::new(Format::Text, rows.len());
        let lines = rows.strip_suffix(b"\n").into_iter().flat_map(|rows| rows.split(|byte| *byte == b'\n'));
        for line in lines {
            (self.reshape)(line, &mut reshaped)?;
        }
        Ok(Some(reshaped.waiting().to_vec()))
    }
}
