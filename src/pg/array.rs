//! Arrays in binary form (`array_send`, `src/backend/utils/adt/arrayfuncs.c`): nothing in them needs escaping.

/// Appends an array of one dimension; `element` is the OID of its elements' type, whose values are in binary form (of `text`
/// that is the text). `None` is null.
pub(super) fn put_array<'a>(
    body: &mut Vec<u8>,
    element: u32,
    values: impl ExactSizeIterator<Item = Option<&'a [u8]>>,
) {
    let count = values.len() as u32;
    let dimensions = u32::from(count > 0);
    // That there are no nulls is not promised; what the flag says is not used by the server.
    for number in [dimensions, 1, element] {
        body.extend_from_slice(&number.to_be_bytes());
    }
    if count > 0 {
        // Its length, and the number of its first element.
        body.extend_from_slice(&count.to_be_bytes());
        body.extend_from_slice(&1u32.to_be_bytes());
    }
    for value in values {
        match value {
            Some(bytes) => {
                body.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
                body.extend_from_slice(bytes);
            }
            None => body.extend_from_slice(&(-1i32).to_be_bytes()),
        }
    }
}
