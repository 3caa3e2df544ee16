//! The log at its seams: what is written is read back, whatever happens in between.

mod messages;
mod round_trip;
