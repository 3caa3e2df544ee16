//! Looking at the log without being its writer: what `archive list`, `archive show` and `status` tell.
