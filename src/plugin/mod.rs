//! The other output plugins, test_decoding and wal2json, in the words of pgoutput. Hides their text, and that they say less
//! than pgoutput does: no definitions of tables, no way to tell what is published.
//!
//! ```text
//! payload ─► test_decoding::parse ┐
//!            wal2json::parse      ┴─► Message ─► Translator ─► messages of pgoutput, version 1
//!                                                    ▲ facts of the source's catalog, when it asks for them
//! ```
//!
//! What a plugin leaves out is refused and never guessed. Pure: the caller looks things up and takes the messages away.

mod definition;
mod json;
mod message;
mod published;
pub mod test_decoding;
mod time;
mod translate;
pub mod wal2json;

pub use message::{Begin, Change, Field, FieldValue, Kind, Malformed, Message, Row, TableName, TypeName};
pub use published::Published;
pub use translate::{Answer, Outcome, Question, Refusal, Translator};
