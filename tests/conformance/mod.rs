//! What PostgreSQL can say, case by case, through every output plugin and every server version at hand.
//!
//! The cases are files (`cases/README.md`); here is what runs them, and `docs/CONFORMANCE.md`, which lists how each fared.

#![allow(unreachable_pub)]

mod case;
mod document;
mod run;

use crate::support::Version;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    Pgoutput,
    TestDecoding,
    Wal2json,
}

impl Plugin {
    pub const ALL: [Plugin; 3] = [Plugin::Pgoutput, Plugin::TestDecoding, Plugin::Wal2json];

    pub fn name(self) -> &'static str {
        match self {
            Plugin::Pgoutput => "pgoutput",
            Plugin::TestDecoding => "test_decoding",
            Plugin::Wal2json => "wal2json",
        }
    }

    pub fn named(name: &str) -> Option<Plugin> {
        Plugin::ALL.into_iter().find(|plugin| plugin.name() == name)
    }
}

/// What a run of all cases goes through.
pub struct Lane {
    pub plugin: Plugin,
    pub version: Version,
}

/// A test for each plugin and version. One whose server is not at hand has nothing to show, and says so.
macro_rules! lanes {
    ($($name:ident: $plugin:ident $major:literal;)*) => {
        $(#[test]
        fn $name() {
            match Version::find($major) {
                Some(version) => run::all(Lane { plugin: Plugin::$plugin, version }),
                None => eprintln!("PostgreSQL {} is not at hand", $major),
            }
        })*
    };
}

lanes! {
    pgoutput_of_14: Pgoutput 14;
    pgoutput_of_15: Pgoutput 15;
    pgoutput_of_16: Pgoutput 16;
    pgoutput_of_17: Pgoutput 17;
    pgoutput_of_18: Pgoutput 18;
}
