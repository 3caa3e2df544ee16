//! Copied rows on a target that is not a copy: as rules make them, the same that they make of the changes behind them.

use crate::model::{Fault, Value};
use crate::pg::{CopyRows, read_text};
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
