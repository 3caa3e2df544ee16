//! What is shown of a pipeline, and who is told of what stands in its way.
//!
//! ```text
//! source, target, archive ─► look ─► Status ─► signs ─► Ward ─► alarms ─► log, command, webhook
//! the conductor's Standing ─────────►   │                 │
//!                                       └──► Board ◄──────┘
//!                                              └─► page, REST, metrics
//! ```
//!
//! `status` looks once; a process with `--listen` looks again and again ([`Watch`]), on threads of its own, so that nobody who asks, nor a
//! server that hangs, is felt on the road. A look that takes long comes less often. Nothing here decides what the stages do; the
//! one thing that can be changed is the sentinel, by who has the token. No value of a row is ever shown.

mod alarms;
mod board;
mod exposition;
mod hook;
mod http;
mod look;
mod pending;
mod status;
mod trend;
mod ward;
mod watch;

pub use alarms::{Alarm, Level, Limits, size, span};
pub use hook::{Hooks, Teller};
pub use http::Listen;
pub use look::{ArchiveLook, Found, Look, Road, SourceLook, TargetLook};
pub use status::{Applier, Source, Status, TableStatus};
pub use ward::Change;
pub use watch::{Watch, Watched};
