//! Proof under faults: the program is ended at every point where a crash could matter, and the rules that keep it right are broken one
//! by one to see that somebody notices. `docs/RELIABILITY.md` tells what is tested how, and what was found.
//!
//! Only in a build with the feature `faults`.

mod checkers;
mod failpoints;
mod mutations;
mod options;
mod oracle;
mod run;
mod tally;
